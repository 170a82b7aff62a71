"""The cases, one module a part of the protocol."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

from google.protobuf.descriptor import MethodDescriptor

from agentkeys.signer.v1 import registry_pb2, signer_pb2


def load() -> None:
    """Put the cases of every module here on the list; once is enough."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        import_module(f"{__name__}.{module.name}")


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """(full path, descriptor) of every method of the protocol."""
    for module in (signer_pb2, registry_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method
