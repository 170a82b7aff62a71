"""The backend's batches: the single calls one after the other, each refusal kept to its item."""

from collections.abc import Callable
from typing import Any, Final

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.errors import KeyServiceError, Reason
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.refused import number, refuse

MOST: Final = 256
ITEM: Final = 64 * 1024
WHOLE: Final = 1024 * 1024


def batch(single: Callable[[Any, Peer], Any], answer: Any, broken: Broken) -> Callable[[Any, Peer], Any]:
    """The RPC that carries many of `single`; `answer` is the type of its response."""

    def call(asked: Any, peer: Peer) -> Any:
        if not asked.items:
            refuse(Reason.INVALID_ENCODING)
        if len(asked.items) > MOST or asked.ByteSize() > WHOLE:
            refuse(Reason.TOO_LARGE)
        items = [_one(single, answer, item, peer) for item in asked.items]
        failed = next((item.error for item in items if item.HasField("error")), None)
        if failed is not None and "batches-spoil-others" in broken:
            items = [answer.Item(error=failed) for _ in items]
        return answer(items=reversed(items) if "batches-reversed" in broken else items)

    return call


def _one(single: Callable[[Any, Peer], Any], answer: Any, item: Any, peer: Peer) -> Any:
    try:
        if item.ByteSize() > ITEM:
            refuse(Reason.TOO_LARGE)
        return answer.Item(response=single(item, peer))
    except KeyServiceError as error:
        told = pb.ItemError(
            code=number(error.reason), reason=error.reason.value, metadata=dict(error.metadata), row=error.row or b""
        )
        return answer.Item(error=told)
