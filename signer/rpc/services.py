"""Everything that is served on the port, each method behind the guard."""

from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from signer.rpc.guard import Guard
from signer.rpc.permissions import HEALTH, REFLECTION, REFLECTION_V1ALPHA, REGISTRY, SIGNER
from signer.rpc.registry_servicer import RegistryServicer
from signer.rpc.servicer import SignerServicer

_HEALTH_OF: Final = ("", SIGNER, REGISTRY)


class Health:
    """The standard health service: every service of ours is up, or all are down."""

    def __init__(self) -> None:
        self.servicer = health.HealthServicer(experimental_non_blocking=False)
        self.set(serving=False)

    def set(self, *, serving: bool) -> None:
        """Tell all who ask and watch."""
        states = health_pb2.HealthCheckResponse
        for name in _HEALTH_OF:
            self.servicer.set(name, states.SERVING if serving else states.NOT_SERVING)


def handlers(
    guard: Guard, signer: SignerServicer, registry: RegistryServicer, health_service: Health, *, reflection: bool
) -> list[grpc.GenericRpcHandler]:
    """The guarded handlers in the order in which gRPC asks them; the last refuses every other name."""
    found = [
        guard.service(_service(signer_pb2, "Signer"), signer),
        guard.service(_service(registry_pb2, "Registry"), registry),
        guard.service(_service(health_pb2, "Health"), health_service.servicer),
    ]
    if reflection:
        found += _reflection(guard)
    return [*found, guard.unknown_methods()]


def _service(module: Any, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]  # the stubs know several classes of it
    return found


def _reflection(guard: Guard) -> list[grpc.GenericRpcHandler]:
    """Server reflection under both of its names; the library only knows v1alpha, whose messages are the same."""
    from grpc_reflection.v1alpha import reflection, reflection_pb2  # noqa: PLC0415  # costs memory where it is off

    names = (SIGNER, REGISTRY, HEALTH, REFLECTION, REFLECTION_V1ALPHA)
    servicer = reflection.ReflectionServicer(names)
    descriptor = _service(reflection_pb2, "ServerReflection")
    return [guard.service(descriptor, servicer, name=name) for name in (REFLECTION, REFLECTION_V1ALPHA)]
