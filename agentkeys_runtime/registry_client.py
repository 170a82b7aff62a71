"""The registry as broker and workers follow it: what they read is cached until the change stream says that it is old.

Fails closed: when the stream has been silent, late or behind for longer than the bound, nothing is answered from here.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeVar

import grpc

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys.signer.v1 import registry_pb2_grpc
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.grpc_errors import from_rpc_error
from agentkeys_runtime.registry_view import RegistryView
from agentkeys_runtime.registry_wire import operator_from_message

Response = TypeVar("Response")

#: Silence that a caller tolerates, in seconds; the registry's stream beats every second.
MAX_AGE_S: Final = 5.0
_READ_TIMEOUT_S: Final = 3.0
_APPLY_TIMEOUT_S: Final = 10.0
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 1.0
#: An answer older than a change already seen comes from a process that lags by milliseconds.
_READ_ATTEMPTS: Final = 4
_READ_PAUSE_S: Final = 0.05
_log = logging.getLogger(__name__)


class RegistryStatus(NamedTuple):
    """The registry's own counters; `registry_id` is the `aud` of capability requests."""

    registry_id: str
    k3_epoch: int
    incarnation: int


class RegistryChange(NamedTuple):
    """One change as the stream tells it: whose (omni), its EIP-712 digest (32 bytes), and which kind."""

    sequence: int
    operator_omni: bytes
    digest: bytes
    type: str


class RegistryFollower:
    """Reads the registry over `channel`, which its owner closes later, and follows its changes on a thread of its own.

    Reads raise `registry_stale` when the stream is older than `max_age_s`, `registry_rolled_back` when the registry is
    older than it was, `registry_unreachable` when it does not answer. Safe for many threads.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        max_age_s: float = MAX_AGE_S,
        on_change: Callable[[RegistryChange], None] | None = None,
    ) -> None:
        """`on_change` is told of each change, in their order and on a thread of this follower; it must not raise."""
        self._stub = registry_pb2_grpc.RegistryStub(channel)
        self._max_age_s = max_age_s
        self._on_change = on_change
        self._view = RegistryView(max_age_s=max_age_s)
        self._stop = threading.Event()
        self._call_lock = threading.Lock()
        self._call: _ChangeStream | None = None
        self._thread = threading.Thread(target=self._follow, name="registry-follower", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and its thread. Reads raise `registry_stale` from here on."""
        self._stop.set()
        self._cancel()
        self._thread.join()
        self._view.forget()

    def wait_ready(self, timeout_s: float) -> bool:
        """Return whether the registry was heard, and everything missed was caught up, within `timeout_s`."""
        return self._view.fresh.wait(timeout_s)

    @property
    def sequence(self) -> int:
        """The newest change that was taken into account."""
        return self._view.sequence

    def lookup_device(self, device_key_hash: bytes, *, reread: bool = False) -> OperatorState | None:
        """State of the operator to which the device belongs; None for a key hash never registered.

        `reread` asks the registry even where the state is known: for a second look before refusing.
        """
        self._view.check_fresh()
        state = None if reread else self._view.cache.of_device(device_key_hash)
        if state is not None:
            return state
        request = pb.GetDeviceRequest(device_key_hash=device_key_hash)
        return self._read(lambda: self._stub.GetDevice(request, timeout=_READ_TIMEOUT_S), device_key_hash)

    def operator(self, operator_omni: bytes, *, reread: bool = False) -> OperatorState | None:
        """State of one operator; None where no such operator is registered."""
        self._view.check_fresh()
        state = None if reread else self._view.cache.of_operator(operator_omni)
        if state is not None:
            return state
        request = pb.GetOperatorRequest(operator_omni=operator_omni)
        return self._read(lambda: self._stub.GetOperator(request, timeout=_READ_TIMEOUT_S))

    def seen_device(self, device_key_hash: bytes) -> OperatorState | None:
        """State of the operator of that device as it was last read here, however old. Asks nobody, raises nothing."""
        return self._view.seen.of_device(device_key_hash)

    def seen_operator(self, operator_omni: bytes) -> OperatorState | None:
        """State of that operator as it was last read here, however old. Asks nobody, raises nothing."""
        return self._view.seen.of_operator(operator_omni)

    def status(self) -> RegistryStatus:
        """Registry id, current K3 epoch and incarnation."""
        self._view.check_fresh()
        return RegistryStatus(self._view.registry_id, self._view.k3_epoch, self._view.incarnation)

    def apply(self, change: bytes) -> bytes:
        """Relay a signed change (JSON); returns its signed audit row, canonical JSON. Works also while reads are stale.

        Raises:
            KeyServiceError: the registry's reason; `registry_unreachable` where none came. Asking again is safe.
        """
        request = pb.ApplyChangeRequest(change=change)
        row = self._call_registry(lambda: self._stub.ApplyChange(request, timeout=_APPLY_TIMEOUT_S)).row
        self._view.cache_unsure()  # whoever applied it must not read what was true before
        return row

    def _read(
        self, ask: Callable[[], pb.OperatorResponse], device_key_hash: bytes | None = None
    ) -> OperatorState | None:
        needed = self._view.sequence
        for attempt in range(_READ_ATTEMPTS):
            if attempt:
                time.sleep(_READ_PAUSE_S)
            answer = self._call_registry(ask)
            if not answer.found:
                if answer.sequence >= needed:
                    return None
                continue
            state = operator_from_message(answer.operator)
            if self._view.keep(state, answer.sequence, device_key_hash):
                return state
        raise KeyServiceError(Reason.REGISTRY_STALE, "the registry answers with older states than it announced")

    def _call_registry(self, ask: Callable[[], Response]) -> Response:
        try:
            return ask()
        except grpc.RpcError as exc:
            refusal = from_rpc_error(exc)
            if refusal.reason in {Reason.SIGNER_UNREACHABLE, Reason.INTERNAL}:
                raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, refusal.detail) from exc
            raise refusal from exc
        except ValueError as exc:  # what gRPC says of a closed channel
            raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, "the channel is closed") from exc

    def _follow(self) -> None:
        """Connect again and again, until closed."""
        pause = _FIRST_RETRY_S
        while not self._stop.is_set():
            try:
                if self._watch_once():
                    pause = _FIRST_RETRY_S
            except KeyServiceError as exc:
                _log.info("registry stream: %s", exc)
                if exc.reason is Reason.REGISTRY_ROLLED_BACK:
                    self._view.rolled_back()
            except Exception:  # noqa: BLE001  # the thread must live on; whatever this was, reads fail closed by age
                _log.exception("registry stream")
            self._stop.wait(pause)
            pause = min(2 * pause, _LAST_RETRY_S)

    def _watch_once(self) -> bool:
        """Follow one stream to its end; true if it was ever up to date."""
        status = self._call_registry(lambda: self._stub.GetStatus(pb.GetStatusRequest(), timeout=_READ_TIMEOUT_S))
        self._view.begin(status)
        view = self._view
        request = pb.WatchChangesRequest(after=view.sequence, known=view.head, known_journal=view.journal)
        try:
            call = self._stub.WatchChanges(request)
        except ValueError as exc:
            raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, "the channel is closed") from exc
        with self._call_lock:
            self._call = call
        if self._stop.is_set():
            call.cancel()
        stream = _Stream(call)
        reader = threading.Thread(target=self._read_stream, args=(stream,), name="registry-stream", daemon=True)
        reader.start()
        # A stream that says nothing, or nothing that counts, may hang on a dead connection: cut it, and connect anew.
        while not stream.ended.wait(self._max_age_s / 10):
            if time.monotonic() - stream.heard_at > self._max_age_s:
                call.cancel()
        reader.join()
        with self._call_lock:
            self._call = None
        if stream.refusal is not None and not self._stop.is_set():
            raise stream.refusal
        return stream.spoke

    def _read_stream(self, stream: "_Stream") -> None:
        try:
            for event in stream.call:
                if self._view.on_event(event):
                    stream.heard_at, stream.spoke = time.monotonic(), True
                if self._on_change is not None and event.HasField("change"):
                    found = event.change
                    self._on_change(RegistryChange(found.sequence, found.operator_omni, found.digest, found.type))
        except grpc.RpcError as exc:
            stream.refusal = from_rpc_error(exc)
        except KeyServiceError as exc:
            stream.refusal = exc
            stream.call.cancel()
        finally:
            stream.ended.set()

    def _cancel(self) -> None:
        with self._call_lock:
            if self._call is not None:
                self._call.cancel()


class _ChangeStream(Protocol):
    """What is used of gRPC's call object."""

    def __iter__(self) -> Iterator[pb.ChangeEvent]: ...

    def cancel(self) -> object: ...


@dataclass(slots=True)
class _Stream:
    """One stream while it is read; its reader writes, its supervisor looks."""

    call: "_ChangeStream"
    heard_at: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    spoke: bool = False
    refusal: KeyServiceError | None = None
