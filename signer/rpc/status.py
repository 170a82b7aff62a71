"""The one place where a refusal becomes a gRPC status or the error of an item: code, reason, metadata, replayed row."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from agentkeys.signer.v1.signer_pb2 import ItemError, ReplayedRow
from agentkeys_core.errors import ERROR_DOMAIN, Code, KeyServiceError, Reason

STATUS_OF: Final[Mapping[Code, grpc.StatusCode]] = MappingProxyType(
    {code: grpc.StatusCode[code.value] for code in Code}
)


def status_message(error: KeyServiceError) -> Status:
    """The google.rpc.Status of a refusal. Its text is the reason alone: details stay in the log."""
    info = ErrorInfo(reason=error.reason.value, domain=ERROR_DOMAIN, metadata=dict(error.metadata))
    details = [_packed(info)]
    if row := _replayed_row(error):
        details.append(_packed(ReplayedRow(row=row)))
    return Status(code=_number(error), message=error.reason.value, details=details)


def grpc_status(error: KeyServiceError) -> grpc.Status:
    """What `ServicerContext.abort_with_status` takes."""
    return rpc_status.to_status(status_message(error))


def item_error(error: KeyServiceError) -> ItemError:
    """The same of one item of a batch."""
    return ItemError(
        code=_number(error),
        reason=error.reason.value,
        metadata=dict(error.metadata),
        row=_replayed_row(error) or b"",
    )


def _number(error: KeyServiceError) -> int:
    number: int = STATUS_OF[error.reason.code].value[0]
    return number


def _replayed_row(error: KeyServiceError) -> bytes | None:
    return error.row if error.reason is Reason.CAP_REPLAYED else None


def _packed(message: ErrorInfo | ReplayedRow) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
