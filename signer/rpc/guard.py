"""Stands before every method on the port: who calls, may it, is the message well-formed; then the call.

Python gRPC's interceptors see no peer certificate, so the guard wraps the handlers themselves.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Never, Protocol, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agentkeys_core.envelope import MAX_ENVELOPE_BYTES
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.identity import CallerIdentity
from agentkeys_runtime.logs import log_event, request_id
from signer.gate import Gate
from signer.rpc.callers import AuthContext, Callers, check_allowed, name_of
from signer.rpc.open_calls import ClientGoneError, OpenCalls
from signer.rpc.permissions import ALWAYS_SERVED, CARRY_ENVELOPES, CHARGED_BY_ITEM, SLOW, is_allowed, name_in_journal
from signer.rpc.pools import CountingPool
from signer.rpc.shares import Shares
from signer.rpc.status import grpc_status
from signer.rpc.unknown import parser

_LOG: Final = logging.getLogger("agentkeys.signer.rpc")
_NANOSECONDS_PER_US: Final = 1000


class RefusalCounter(Protocol):
    """Counts refusals that no device signature stands behind, for the journal."""

    def early(self, *, caller: str, method: str, reason: Reason) -> None:
        """Count one refusal."""
        ...


class InFlight(Protocol):
    """A pool that knows how many calls it carries."""

    in_flight: int

    def carrying(self, more: int, *, limit: int) -> AbstractContextManager[int]:
        """Count up to `more` calls on top while the block runs, as many as `limit` in all allows; that number."""
        ...


Room = Callable[[int], AbstractContextManager[int]]
"""Counts so many items as calls in flight while its block runs; gives for how many of them there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLimits:
    """Bounds of one process. Sizes in bytes; `max_in_flight` counts unary calls queued and running."""

    max_in_flight: int = 256
    max_request: int = 1024 * 1024 + 64 * 1024  # a body of 1 MiB and what surrounds it
    max_envelope_request: int = MAX_ENVELOPE_BYTES + 4096
    max_streams: int = 64
    max_streams_per_caller: int = 16


class CallContext:
    """What a servicer method sees of its call: gRPC's own context, who calls, and room for the items of a batch."""

    __slots__ = ("_grpc", "caller", "room")

    def __init__(self, context: grpc.ServicerContext, caller: CallerIdentity, room: Room) -> None:
        self._grpc = context
        self.caller = caller
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grpc, name)


class Guard:
    """Makes guarded handlers. One guard serves all services of a process."""

    def __init__(
        self,
        *,
        callers: Callers,
        gate: Gate,
        refusals: RefusalCounter,
        calls: InFlight,
        slow: CountingPool,
        streams: CountingPool,
        open_calls: OpenCalls,
        charge: Callable[[str], None],
        limits: GuardLimits | None = None,
    ) -> None:
        """Take what every call goes through.

        `calls` carries the unary calls, `slow` those of them that wait for other servers, `streams` the rest. `charge`
        takes a token of a certificate, by fingerprint, or raises rate_limited.
        """
        self._callers = callers
        self._gate = gate
        self._refusals = refusals
        self._calls = calls
        self._slow = slow
        self._streams = streams
        self._open_calls = open_calls
        self._charge = charge
        self._shares = Shares()
        self._limits = limits or GuardLimits()
        self._stream_lock = threading.Lock()
        self._streams_of: Counter[str] = Counter()

    def service(
        self, descriptor: ServiceDescriptor, servicer: object, *, name: str | None = None
    ) -> grpc.GenericRpcHandler:
        """Handlers for every method of `descriptor`, served under `name` (by default its own)."""
        name = name or descriptor.full_name
        handlers = {
            method.name: self._handler(f"/{name}/{method.name}", method, servicer) for method in descriptor.methods
        }
        return grpc.method_handlers_generic_handler(name, handlers)

    def unknown_methods(self) -> grpc.GenericRpcHandler:
        """Answers every other method name with a reason, and counts who asked. Register it last."""
        return _Fallback(self)

    def _handler(self, path: str, method: MethodDescriptor, servicer: object) -> "grpc.RpcMethodHandler[bytes, bytes]":
        parse = parser(GetMessageClass(method.input_type))
        call = getattr(servicer, method.name)
        # Every handler takes a stream of requests, which on the wire is what one request is: so the guard decides who
        # calls before it waits for a message, and not gRPC on a thread that nobody else can have meanwhile.
        if method.server_streaming:
            streamed = self._stream(path, parse, call, many=method.client_streaming)
            streamed.experimental_thread_pool = self._streams  # type: ignore[attr-defined]  # gRPC reads it off the function
            return grpc.stream_stream_rpc_method_handler(streamed)
        pool = self._slow if path in SLOW else self._calls
        behaviour = self.unary(path, parse, call, pool=pool)
        if pool is self._slow:
            behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(behaviour)

    def unary(
        self,
        path: str,
        parse: Callable[[bytes], Message],
        call: Callable[[Message, Any], Message],
        *,
        pool: InFlight | None = None,
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
        """`call` behind the guard: bytes in, bytes out, every failure a status with a reason."""
        limits, pool = self._limits, pool or self._calls
        size = limits.max_envelope_request if path in CARRY_ENVELOPES else limits.max_request

        def behaviour(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            with self._answering(path, context) as attempt:
                caller = self._admit(path, context, attempt)
                if pool.in_flight > limits.max_in_flight:
                    self._shares.check(caller.fingerprint)
                request = self._open_calls.message(caller.fingerprint, context, messages)
                message = _parsed(parse, request, size)
                attempt.early = False
                return call(message, CallContext(context, caller, self._room)).SerializeToString()
            raise AssertionError("a call that nobody waits for was ended by gRPC")

        return behaviour

    def _stream(
        self, path: str, parse: Callable[[bytes], Message], call: Callable[..., Iterator[Message]], *, many: bool
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        size = self._limits.max_request

        def behaviour(request: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._answering(path, context) as attempt:
                caller = self._admit(path, context, attempt)
                with self._one_stream(caller):
                    if many:
                        messages: object = (_parsed(parse, data, size) for data in request)
                    else:
                        messages = _parsed(parse, _only(request), size)
                    attempt.early = False
                    for answer in call(messages, CallContext(context, caller, self._room)):
                        self._still_served(path, caller)  # a stream outlives expiry, revocation and sealing
                        yield answer.SerializeToString()

        return behaviour

    @contextmanager
    def _room(self, items: int) -> Iterator[int]:
        """The call itself stands for the first item."""
        with self._calls.carrying(items - 1, limit=self._limits.max_in_flight) as more:
            yield 1 + more

    def refuse_unknown(self, path: str, context: grpc.ServicerContext) -> Never:
        """Refuse a call of a method that is not served, be it that reflection is switched off."""
        with self._answering(path, context) as attempt:
            self._admit(path, context, attempt)
            raise KeyServiceError(Reason.NOT_IMPLEMENTED, "not served")
        raise AssertionError("abort_with_status raises")

    def _admit(self, path: str, context: grpc.ServicerContext, attempt: "_Attempt") -> CallerIdentity:
        attempt.caller = caller = self._callers.identify(_auth(context))
        self._callers.still(caller)
        if path not in CHARGED_BY_ITEM or not is_allowed(caller.role, path):
            self._charge(caller.fingerprint)
        check_allowed(caller, path)
        if path not in ALWAYS_SERVED:
            self._gate.check()
        return caller

    def _still_served(self, path: str, caller: CallerIdentity) -> None:
        self._callers.still(caller)
        if path not in ALWAYS_SERVED:
            self._gate.check()

    @contextmanager
    def _one_stream(self, caller: CallerIdentity) -> Iterator[None]:
        with self._stream_lock:
            all_streams = self._streams_of.total()
            if all_streams >= self._limits.max_streams:
                raise KeyServiceError(Reason.OVERLOADED, "too many streams")
            if self._streams_of[caller.fingerprint] >= self._limits.max_streams_per_caller:
                raise KeyServiceError(Reason.OVERLOADED, "too many streams of one caller")
            self._streams_of[caller.fingerprint] += 1
        try:
            yield
        finally:
            with self._stream_lock:
                self._streams_of[caller.fingerprint] -= 1
                if not self._streams_of[caller.fingerprint]:
                    del self._streams_of[caller.fingerprint]

    @contextmanager
    def _answering(self, path: str, context: grpc.ServicerContext) -> "Iterator[_Attempt]":
        """Turn whatever goes wrong inside into a status with a reason; log it, count what came before the method."""
        attempt = _Attempt()
        try:
            yield attempt
        except KeyServiceError as error:
            refusal = error
        except ClientGoneError:
            context.cancel()
            return
        except grpc.RpcError:  # the client went while its message was awaited: gRPC knows it already
            raise
        except Exception as error:  # noqa: BLE001  # whatever broke, the caller learns nothing of it
            _LOG.exception("internal", extra={"agentkeys_fields": {"method": path}})
            refusal = KeyServiceError(Reason.INTERNAL, type(error).__name__)
        else:
            if _LOG.isEnabledFor(logging.DEBUG):
                attempt.log(path, None)
            return
        if attempt.early and refusal.reason is not Reason.INTERNAL:
            caller = name_of(attempt.caller, _auth(context))
            self._refusals.early(caller=caller, method=name_in_journal(path), reason=refusal.reason)
        attempt.log(path, refusal)
        context.abort_with_status(grpc_status(refusal))


def _parsed(parse: Callable[[bytes], Message], data: bytes, limit: int) -> Message:
    if len(data) > limit:
        raise KeyServiceError(Reason.TOO_LARGE, f"{len(data)} bytes")
    return parse(data)


def _only(messages: Iterator[bytes]) -> bytes:
    found = next(messages, None)
    if found is None:
        raise KeyServiceError(Reason.INVALID_ENCODING, "no message")
    return found


def _auth(context: grpc.ServicerContext) -> AuthContext:
    return cast("AuthContext", context.auth_context())  # lists of values, whatever the stub says


class _Attempt:
    """One call while it is answered: since when, by whom, and whether the method itself has begun."""

    __slots__ = ("caller", "early", "since")

    def __init__(self) -> None:
        self.caller: CallerIdentity | None = None
        self.early = True
        self.since = time.perf_counter_ns()

    def log(self, path: str, refusal: KeyServiceError | None) -> None:
        """One line; never a payload."""
        log_event(
            _LOG,
            "served" if refusal is None else "refused",
            level=logging.DEBUG if refusal is None else logging.INFO,
            request=request_id(),
            method=path,
            caller=self.caller.spiffe_id if self.caller else None,
            reason=refusal.reason.value if refusal else None,
            detail=refusal.detail if refusal else None,
            us=(time.perf_counter_ns() - self.since) // _NANOSECONDS_PER_US,
        )


class _Fallback(grpc.GenericRpcHandler):
    """A handler for whatever no other handler knows."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """A handler that refuses this very method name."""
        path = handler_call_details.method
        return grpc.stream_unary_rpc_method_handler(lambda _, context: self._guard.refuse_unknown(path, context))
