"""The tables of the signer's edge are total: every RPC has a row, every reason a status."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.errors import ERROR_DOMAIN, Code, KeyServiceError, Reason
from agentkeys_runtime.identity import CallerRole
from signer.rpc.permissions import (
    ALWAYS_SERVED,
    HEALTH,
    PERMISSIONS,
    REFLECTION,
    REFLECTION_V1ALPHA,
    REGISTRY,
    SIGNER,
    is_allowed,
)
from signer.rpc.registry_servicer import RegistryServicer
from signer.rpc.servicer import SignerServicer
from signer.rpc.status import STATUS_OF, grpc_status
from signer.rpc.unknown import parser

SERVED: dict[str, Any] = {
    SIGNER: signer_pb2.DESCRIPTOR.services_by_name["Signer"],
    REGISTRY: registry_pb2.DESCRIPTOR.services_by_name["Registry"],
    HEALTH: health_pb2.DESCRIPTOR.services_by_name["Health"],
    REFLECTION: reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    REFLECTION_V1ALPHA: reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
}
METHODS = {f"/{name}/{method.name}" for name, service in SERVED.items() for method in service.methods}


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    assert set(PERMISSIONS) == METHODS


def test_every_service_of_the_protocol_is_looked_at() -> None:
    described = {
        service.full_name
        for file in (signer_pb2.DESCRIPTOR, registry_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
    }
    assert described == {SIGNER, REGISTRY}


def test_nobody_but_brokers_and_workers_may_call_anything() -> None:
    assert set().union(*PERMISSIONS.values()) == {CallerRole.BROKER, CallerRole.WORKER}
    for role in set(CallerRole) - {CallerRole.BROKER, CallerRole.WORKER}:
        assert not any(is_allowed(role, method) for method in METHODS)
    assert not is_allowed(CallerRole.BROKER, f"/{SIGNER}/Unheard")


BROKER_ONLY = {"DeriveAddress", "SignSiwe", "SignTypedData", "AttestEnrol"}
BOTH = {"VerifyK10Sig", "VerifyK10SigBatch", "VerifyK11Assertion"}


@pytest.mark.parametrize("method", sorted(method for method in METHODS if method.startswith(f"/{SIGNER}/")))
def test_the_table_is_that_of_the_design(method: Any) -> None:
    name = method.rpartition("/")[2]
    assert is_allowed(CallerRole.BROKER, method) == (name in BROKER_ONLY | BOTH)
    assert is_allowed(CallerRole.WORKER, method) == (name not in BROKER_ONLY)


def test_only_standard_services_are_served_while_sealed() -> None:
    assert {method.split("/")[1] for method in ALWAYS_SERVED} == {HEALTH, REFLECTION, REFLECTION_V1ALPHA}


@pytest.mark.parametrize(("servicer", "service"), [(SignerServicer, SIGNER), (RegistryServicer, REGISTRY)])
def test_every_rpc_has_a_method(servicer: Any, service: Any) -> None:
    assert all(callable(getattr(servicer, method.name, None)) for method in SERVED[service].methods)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_becomes_a_status_with_error_info(reason: Any) -> None:
    status = grpc_status(KeyServiceError(reason, "a detail", metadata={"current_epoch": "2"}))
    assert status.code is STATUS_OF[reason.code]
    assert status.code is not grpc.StatusCode.OK
    ((_, packed),) = status.trailing_metadata
    message = Status.FromString(packed)
    info = ErrorInfo()
    assert message.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason.value, ERROR_DOMAIN, {"current_epoch": "2"})
    assert "a detail" not in str(message)


def test_every_code_is_one_of_grpc() -> None:
    assert set(STATUS_OF) == set(Code)


def test_the_row_of_an_acknowledged_store_travels_with_cap_replayed_alone() -> None:
    def rows(error: Any) -> Any:
        message = Status.FromString(grpc_status(error).trailing_metadata[0][1])
        row = signer_pb2.ReplayedRow()
        return [row.row for detail in message.details if detail.Unpack(row)]

    assert rows(KeyServiceError(Reason.CAP_REPLAYED, row=b"{}")) == [b"{}"]
    assert rows(KeyServiceError(Reason.CAP_REPLAYED)) == []
    assert rows(KeyServiceError(Reason.CAP_EXPIRED, row=b"{}")) == []


def reason_of(kind: Any, data: Any) -> Any:
    with pytest.raises(KeyServiceError) as caught:
        parser(kind)(data)
    return caught.value.reason


def test_parses_what_is_well_formed() -> None:
    request = signer_pb2.DeriveCredKekRequest(cap=b"c", epoch=1)
    assert parser(signer_pb2.DeriveCredKekRequest)(request.SerializeToString()) == request
    watch = registry_pb2.WatchChangesRequest(after=3, known=registry_pb2.RegistryHead(sequence=1))
    assert parser(registry_pb2.WatchChangesRequest)(watch.SerializeToString()) == watch


UNKNOWN = b"\xfa\x3e\x01x"  # field 1007, one byte


@pytest.mark.parametrize("kind", [getattr(signer_pb2, f"{m.name}Request") for m in SERVED[SIGNER].methods])
def test_refuses_unknown_fields_everywhere(kind: Any) -> None:
    assert reason_of(kind, UNKNOWN) is Reason.UNKNOWN_FIELDS


def test_refuses_unknown_fields_inside_messages() -> None:
    nested = registry_pb2.WatchChangesRequest(known=registry_pb2.RegistryHead.FromString(UNKNOWN))
    assert reason_of(registry_pb2.WatchChangesRequest, nested.SerializeToString()) is Reason.UNKNOWN_FIELDS
    batch = signer_pb2.DeriveCredKekBatchRequest(
        items=[signer_pb2.DeriveCredKekRequest(cap=b"c"), signer_pb2.DeriveCredKekRequest.FromString(UNKNOWN)]
    )
    assert reason_of(signer_pb2.DeriveCredKekBatchRequest, batch.SerializeToString()) is Reason.UNKNOWN_FIELDS


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x00", b"\x12\x01\xff\xff"])
def test_refuses_what_is_no_protobuf(data: Any) -> None:
    assert reason_of(signer_pb2.DeriveCredKekRequest, data) is Reason.INVALID_ENCODING


def test_refuses_text_that_is_not_utf8() -> None:
    assert reason_of(signer_pb2.StsCredentialsRequest, b"\x12\x01\xff") is Reason.INVALID_ENCODING
