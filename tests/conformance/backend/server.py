"""The backend's port: mTLS, every method of the protocol behind one door, and the standard services beside them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.errors import KeyServiceError, Reason
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.peers import Peer, Peers
from tests.conformance.backend.refused import refuse, status

MAX_MESSAGE: Final = 1024 * 1024 + 64 * 1024
REFLECTIONS: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
THREADS: Final = 64


class Door(grpc.GenericRpcHandler):
    """Looks at every caller, every message, and turns refusals into statuses."""

    def __init__(self, peers: Peers, sealed: Callable[[], bool], broken: Broken) -> None:
        self._peers = peers
        self._sealed = sealed
        self._broken = broken
        self.lock = threading.Lock()
        self._methods: dict[str, tuple[MethodDescriptor, Any, bool]] = {}

    def serve(self, service: Any, servicer: object, *, name: str | None = None, ours: bool = True) -> None:
        """Have the methods of this service answered; `ours` are served one at a time, and not once sealed."""
        for method in service.methods:
            path = f"/{name or service.full_name}/{method.name}"
            self._methods[path] = (method, getattr(servicer, method.name, None), ours)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one call."""
        path = handler_call_details.method
        method, call, ours = self._methods.get(path, (None, None, False))
        if method is None:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: self._unknown(context))
        if method.server_streaming:
            many = method.client_streaming
            make: Any = grpc.stream_stream_rpc_method_handler if many else grpc.unary_stream_rpc_method_handler
            return make(lambda data, context: self._stream(method, call, data, context, ours=ours, many=many))
        return grpc.unary_unary_rpc_method_handler(
            lambda data, context: self._unary(method, call, data, context, ours=ours)
        )

    def _unknown(self, context: Any) -> None:
        with self._answering(context):
            self._peers.identify(context, "")

    def _answering(self, context: Any) -> "_Answering":
        return _Answering(context, self._broken)

    def _admitted(self, method: MethodDescriptor, call: object, context: Any, *, ours: bool) -> Peer:
        peer = self._peers.identify(context, method.name)
        if ours and self._sealed():
            refuse(Reason.SEALED)
        if call is None:
            refuse(Reason.NOT_IMPLEMENTED)
        return peer

    def _parsed(self, method: MethodDescriptor, data: bytes) -> Message:
        if len(data) > MAX_MESSAGE:
            refuse(Reason.TOO_LARGE)
        try:
            message: Message = GetMessageClass(method.input_type).FromString(data)
        except DecodeError:
            refuse(Reason.INVALID_ENCODING)
        known = type(message)()
        known.CopyFrom(message)
        known.DiscardUnknownFields()  # of every message inside, too
        if known.ByteSize() != message.ByteSize() and "unknown-fields-accepted" not in self._broken:
            refuse(Reason.UNKNOWN_FIELDS)
        return message

    def _unary(self, method: MethodDescriptor, call: Any, data: bytes, context: Any, *, ours: bool) -> bytes:
        with self._answering(context):
            peer = self._admitted(method, call, context, ours=ours)
            message = self._parsed(method, data)
            if not ours:
                return bytes(call(message, context).SerializeToString())
            with self.lock:
                return bytes(call(message, peer).SerializeToString())
        raise AssertionError

    def _stream(
        self, method: MethodDescriptor, call: Any, data: Any, context: Any, *, ours: bool, many: bool
    ) -> Iterator[bytes]:
        with self._answering(context):
            peer = self._admitted(method, call, context, ours=ours)
            asked: Any = (self._parsed(method, one) for one in data) if many else self._parsed(method, data)
            answers = call(asked, peer, context) if ours else call(asked, context)
            for answer in answers:
                yield answer.SerializeToString()


class _Answering:
    """Turns a refusal inside into a status."""

    def __init__(self, context: Any, broken: Broken) -> None:
        self._context = context
        self._broken = broken

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyServiceError):
            self._context.abort_with_status(status(error, self._broken))


def serve(door: Door, credentials: grpc.ServerCredentials) -> tuple[grpc.Server, int]:
    """Start on a free port of loopback, with health and reflection."""
    services = (signer_pb2.DESCRIPTOR.services_by_name["Signer"], registry_pb2.DESCRIPTOR.services_by_name["Registry"])
    names = [service.full_name for service in services]
    healthy = health.HealthServicer()
    for name in ("", *names):
        healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    door.serve(health_pb2.DESCRIPTOR.services_by_name["Health"], healthy, ours=False)
    reflected = reflection.ReflectionServicer([*names, *REFLECTIONS])
    for name in REFLECTIONS:
        described = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
        door.serve(described, reflected, name=name, ours=False)
    options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 2 * MAX_MESSAGE))
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=[door], options=options)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port
