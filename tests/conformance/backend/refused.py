"""Refusals of the backend, and how they leave: a gRPC status with google.rpc.ErrorInfo."""

from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import ERROR_DOMAIN, KeyServiceError, Reason
from tests.conformance.backend.breakages import Broken


def refusal(reason: Reason, **metadata: object) -> KeyServiceError:
    """That reason, to be raised."""
    return KeyServiceError(reason, metadata={name: str(value) for name, value in metadata.items()})


def refuse(reason: Reason, **metadata: object) -> NoReturn:
    """Stop here with that reason."""
    raise refusal(reason, **metadata)


def number(reason: Reason) -> int:
    """The google.rpc.Code of a reason."""
    value: tuple[int, str] = grpc.StatusCode[reason.code.value].value
    return value[0]


def status(error: KeyServiceError, broken: Broken) -> Any:
    """What `abort_with_status` takes."""
    details = []
    if "reason-in-text-only" not in broken:
        metadata = {} if "no-metadata" in broken else dict(error.metadata)
        info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=ERROR_DOMAIN, metadata=metadata)
        details.append(_packed(info))
    if error.row is not None:
        details.append(_packed(signer_pb2.ReplayedRow(row=error.row)))
    found = status_pb2.Status(code=number(error.reason), message=error.reason.value, details=details)
    return rpc_status.to_status(found)


def _packed(message: Any) -> Packed:
    packed = Packed()
    packed.Pack(message)
    return packed
