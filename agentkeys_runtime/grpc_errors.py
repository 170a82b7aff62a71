"""What a gRPC failure of the signer means: the reason that it named, or what its status alone can tell."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import ERROR_DOMAIN, KeyServiceError, Reason

_STATUS_KEY: Final = "grpc-status-details-bin"

#: Statuses without a reason of ours come from gRPC itself, not from a handler.
_BY_STATUS: Final[Mapping[grpc.StatusCode, Reason]] = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: Reason.SIGNER_UNREACHABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED: Reason.SIGNER_UNREACHABLE,
        grpc.StatusCode.CANCELLED: Reason.SIGNER_UNREACHABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.OVERLOADED,
        grpc.StatusCode.UNIMPLEMENTED: Reason.NOT_IMPLEMENTED,
    }
)


def from_rpc_error(error: grpc.RpcError) -> KeyServiceError:
    """The refusal that a failed call stands for, with its metadata and the row of an acknowledged store.

    A call that never reached a handler is `signer_unreachable`; a reason that this version does not know is `internal`.
    """
    call: object = error
    if not isinstance(call, grpc.Call):
        return KeyServiceError(Reason.SIGNER_UNREACHABLE, "the call failed before it was sent")
    code = call.code()
    try:
        status = _rich_status(call)
        info = error_details_pb2.ErrorInfo()
        if _unpack(status, info) and info.domain == ERROR_DOMAIN:
            replayed = signer_pb2.ReplayedRow()
            row = replayed.row if _unpack(status, replayed) else None
            detail = "" if status.message == info.reason else status.message  # the signer says the reason once more
            return KeyServiceError(_reason(info.reason), detail, metadata=dict(info.metadata), row=row)
    except DecodeError:
        return KeyServiceError(Reason.INTERNAL, f"gRPC status {code.name} with details that cannot be read")
    return KeyServiceError(_BY_STATUS.get(code, Reason.INTERNAL), f"gRPC status {code.name} without a reason")


def from_item_error(error: signer_pb2.ItemError) -> KeyServiceError:
    """The refusal of one item of a batch; `internal` where it names no reason that this version knows."""
    return KeyServiceError(_reason(error.reason), metadata=dict(error.metadata), row=error.row or None)


def _rich_status(call: grpc.Call) -> status_pb2.Status:
    """The status details that came with the call; empty where there are none."""
    for key, value in call.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _unpack(status: status_pb2.Status, message: Message) -> bool:
    """Fill `message` from the first detail of its type; false if there is none."""
    return any(detail.Unpack(message) for detail in status.details)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.INTERNAL
