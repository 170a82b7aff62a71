"""What a refused call says, read from the wire alone: status, google.rpc.ErrorInfo, and the row of a replayed store."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import ERROR_DOMAIN, Reason

#: What helps the caller, and must come with these reasons.
METADATA: Final[Mapping[Reason, tuple[str, ...]]] = {
    Reason.STALE_EPOCH: ("current_epoch",),
    Reason.FUTURE_EPOCH: ("current_epoch",),
    Reason.CAP_EXPIRED: ("server_time",),
    Reason.CAP_NOT_YET_VALID: ("server_time",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refused call. `reason` is None where gRPC or TLS refused, so that no handler was reached."""

    code: str
    reason: str | None
    metadata: Mapping[str, str]
    row: bytes | None

    def __str__(self) -> str:
        return f"{self.code}, reason {self.reason}"


def refusal_of(call: Callable[[], Any]) -> Refusal | None:
    """The refusal that `call` ends with; None where it is served."""
    try:
        call()
    except grpc.RpcError as error:
        return read(error)
    return None


def read(error: grpc.RpcError) -> Refusal:
    """The refusal that a failed call stands for."""
    call = cast("grpc.Call", error)  # what fails is the call itself
    status = rpc_status.from_call(call)
    info, replayed = error_details_pb2.ErrorInfo(), signer_pb2.ReplayedRow()
    details = () if status is None else status.details
    named = any(detail.Unpack(info) for detail in details) and info.domain == ERROR_DOMAIN
    has_row = any(detail.Unpack(replayed) for detail in details)
    return Refusal(
        code=call.code().name,
        reason=info.reason if named else None,
        metadata=dict(info.metadata),
        row=replayed.row if has_row else None,
    )


def complaint(found: Refusal | None, wanted: Reason) -> str | None:
    """What is wrong with this refusal where `wanted` is due; None where nothing is."""
    if found is None:
        return f"served, where {wanted} is due"
    if (found.reason, found.code) != (wanted.value, wanted.code.value):
        return f"{found}, where {wanted.code}, reason {wanted} is due"
    if missing := [name for name in METADATA.get(wanted, ()) if not found.metadata.get(name, "").isdigit()]:
        return f"{wanted} comes without {', '.join(missing)}"
    return None
