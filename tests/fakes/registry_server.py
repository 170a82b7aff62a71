"""The real Registry service over a real registry on a plain loopback port, with its own switch; no certificates."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc
from agentkeys_core.errors import KeyServiceError
from signer.adapters.journal_watch import JournalWatch
from signer.rpc.registry_servicer import RegistryServicer
from signer.rpc.status import grpc_status
from tests.fakes.registry_kit import Opened

CALLER = SimpleNamespace(spiffe_id="spiffe://test/worker/credentials/w1", fingerprint="f" * 64)


class _Context:
    caller = CALLER

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def is_active(self) -> bool:
        return self._context.is_active()


class _Unary:
    """Gives the servicer what the guard would: a context with a caller, and statuses for refusals."""

    def __init__(self, call: Callable[[Any, Any], Any]) -> None:
        self._call = call

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return self._call(request, _Context(context))
        except KeyServiceError as error:
            context.abort_with_status(grpc_status(error))


class RegistryServer:
    """Serves `signer`'s registry. `events_held` makes the stream swallow what it would say; `reads` counts reads."""

    def __init__(self, signer: Opened) -> None:
        watch = JournalWatch(signer.database, signer.keyring, roll_back=signer.registry.roll_back)
        self._servicer = RegistryServicer(signer.registry, watch, signer.clock)
        self.events_held = False
        self.delay_s = 0.0
        self.reads = 0
        self.watches: list[registry_pb2.WatchChangesRequest] = []
        self.active_streams = 0
        self._server: grpc.Server | None = None
        self.port = 0

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
        registry_pb2_grpc.add_RegistryServicer_to_server(self, server)  # type: ignore[arg-type]
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0.5).wait()
            self._server = None

    def channel(self) -> grpc.Channel:
        backoff = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=backoff)

    def GetStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _Unary(self._servicer.GetStatus)(request, context)

    def GetOperator(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.reads += 1
        return _Unary(self._servicer.GetOperator)(request, context)

    def GetDevice(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.reads += 1
        return _Unary(self._servicer.GetDevice)(request, context)

    def ApplyChange(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _Unary(self._servicer.ApplyChange)(request, context)

    def WatchChanges(self, request: registry_pb2.WatchChangesRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        self.watches.append(request)
        self.active_streams += 1
        try:
            for event in self._servicer.WatchChanges(request, _Context(context)):  # type: ignore[arg-type]
                if not self.events_held:
                    yield event
        except KeyServiceError as error:
            context.abort_with_status(grpc_status(error))
        finally:
            self.active_streams -= 1


@contextmanager
def serving(signer: Opened) -> Iterator[RegistryServer]:
    server = RegistryServer(signer)
    server.start()
    try:
        yield server
    finally:
        server.stop()
