"""Messages of the batch RPCs as values and back. The sizes of items are those of their own encoded messages."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.errors import KeyServiceError
from signer.batches import Batch, Outcome
from signer.preparing import KeyRequest, RowRequest
from signer.releases import KeyRelease
from signer.rpc.status import item_error
from signer.verification import K10Question, K10Verdict

T = TypeVar("T")


def released(found: KeyRelease) -> pb.DeriveCredKekResponse:
    """The answer of DeriveCredKek."""
    return pb.DeriveCredKekResponse(
        key=found.key, commitment=found.commitment, salt=found.salt, epoch=found.epoch, row=found.row
    )


def verdict(found: K10Verdict) -> pb.VerifyK10SigResponse:
    """The answer of VerifyK10Sig."""
    return pb.VerifyK10SigResponse(valid=found.valid, reason=found.reason, binding=found.binding)


def key_requests(request: pb.DeriveCredKekBatchRequest, room: int) -> Batch[KeyRequest]:
    """The items of a DeriveCredKekBatch."""
    items = [KeyRequest(cap=item.cap, epoch=item.epoch, salt=item.salt, expect=item.expect) for item in request.items]
    return _batch(items, request.items, room)


def row_requests(request: pb.SignAuditRowBatchRequest, room: int) -> Batch[RowRequest]:
    """The items of a SignAuditRowBatch."""
    return _batch([RowRequest(cap=item.cap, result=item.result) for item in request.items], request.items, room)


def questions(request: pb.VerifyK10SigBatchRequest, room: int) -> Batch[K10Question]:
    """The items of a VerifyK10SigBatch."""
    items = [
        K10Question(
            public_key=item.public_key,
            payload=item.payload,
            signature=item.signature,
            scheme=item.scheme,
            purpose=item.purpose,
        )
        for item in request.items
    ]
    return _batch(items, request.items, room)


def keys_released(outcomes: Iterable[Outcome[KeyRelease]]) -> pb.DeriveCredKekBatchResponse:
    """The answers to a DeriveCredKekBatch, in order."""
    answer = pb.DeriveCredKekBatchResponse()
    for outcome in outcomes:
        if isinstance(outcome, KeyServiceError):
            answer.items.add(error=item_error(outcome))
        else:
            answer.items.add(response=released(outcome))
    return answer


def rows_signed(outcomes: Iterable[Outcome[bytes]]) -> pb.SignAuditRowBatchResponse:
    """The answers to a SignAuditRowBatch, in order."""
    answer = pb.SignAuditRowBatchResponse()
    for outcome in outcomes:
        if isinstance(outcome, KeyServiceError):
            answer.items.add(error=item_error(outcome))
        else:
            answer.items.add(response=pb.SignAuditRowResponse(row=outcome))
    return answer


def verdicts(outcomes: Iterable[Outcome[K10Verdict]]) -> pb.VerifyK10SigBatchResponse:
    """The answers to a VerifyK10SigBatch, in order."""
    answer = pb.VerifyK10SigBatchResponse()
    for outcome in outcomes:
        item = answer.items.add()
        if isinstance(outcome, KeyServiceError):
            item.error.CopyFrom(item_error(outcome))
        else:  # a third cheaper than a message that is copied
            item.response.valid, item.response.reason, item.response.binding = (
                outcome.valid,
                outcome.reason,
                outcome.binding,
            )
    return answer


def _batch(items: Sequence[T], messages: Iterable[Message], room: int) -> Batch[T]:
    return Batch(items=items, sizes=[message.ByteSize() for message in messages], room=room)
