"""The standard services beside ours: health, and reflection under both of its names."""

from typing import Final

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from agentkeys_core.errors import Reason
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups import methods
from tests.conformance.groups.callers import SERVICES, raw_call
from tests.conformance.refusals import refusal_of
from tests.conformance.site import BROKER, CREDENTIALS, PATIENCE_S, Site

HEALTH: Final = "/grpc.health.v1.Health"
REFLECTION: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def _health(site: Site, client: str, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    answer = raw_call(site, client, f"{HEALTH}/Check", request)()
    return health_pb2.HealthCheckResponse.FromString(answer).status


@case("Health", "serves both services")
def healthy(site: Site) -> None:
    for service in ("", *(found.full_name for found in SERVICES)):
        for client in (BROKER, CREDENTIALS):
            equal(_health(site, client, service), health_pb2.HealthCheckResponse.SERVING, f"health of {service!r}")


@case("Health", "does not know another service")
def unknown_health(site: Site) -> None:
    found = refusal_of(lambda: _health(site, BROKER, "other.Service"))
    expect(found is not None and found.code == "NOT_FOUND", f"answered: {found}")


@case("Health", "is not for a daemon", gives=Reason.ROLE_NOT_ALLOWED)
def daemon_health(site: Site) -> object:
    return lambda: _health(site, "daemon", "")


def _asked(
    site: Site, client: str, service: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    answers = site.channel(client).stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter(requests), timeout=PATIENCE_S)
    return list(answers)


def _lists(service: str) -> Steps:
    def steps(site: Site) -> None:
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = _asked(site, CREDENTIALS, service, ask)
        listed = {found.name for found in answer.list_services_response.service}
        expect({found.full_name for found in SERVICES} <= listed, f"listed: {sorted(listed)}")

    return steps


def _describes(service: str) -> Steps:
    def steps(site: Site) -> None:
        for found in SERVICES:
            ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=found.full_name)
            (answer,) = _asked(site, BROKER, service, ask)
            files = [
                descriptor_pb2.FileDescriptorProto.FromString(data)
                for data in answer.file_descriptor_response.file_descriptor_proto
            ]
            served = {
                f"/{file.package}.{described.name}/{method.name}"
                for file in files
                for described in file.service
                for method in described.method
            }
            wanted = {path for path, method in methods() if method.containing_service is found}
            expect(wanted <= served, f"described: {sorted(served)}")

    return steps


def _no_daemon(service: str) -> Steps:
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    return lambda site: lambda: _asked(site, "daemon", service, ask)


for _service in REFLECTION:
    _version = _service.split(".")[2]
    add(Case(group="Reflection", title=f"{_version} lists the services", steps=_lists(_service)))
    add(Case(group="Reflection", title=f"{_version} describes every method", steps=_describes(_service)))
    add(
        Case(
            group="Reflection",
            title=f"{_version} is not for a daemon",
            steps=_no_daemon(_service),
            gives=Reason.ROLE_NOT_ALLOWED,
        )
    )
