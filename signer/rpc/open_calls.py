"""Every unary call that is open, from the moment its caller is known until its answer has left.

What a client does slowly must cost the client, not the others: a thread that waits for a message is replaced by
another one, a message that does not come or an answer that nobody reads ends its call, and each certificate may hold
only so many open calls.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from agentkeys_core.errors import KeyServiceError, Reason

#: A message that is late by this much stalls its thread; a usual one takes a thousandth of it.
STALLED_S: Final = 0.05
_TICK_S: Final = 0.05


class Context(Protocol):
    """What is asked of gRPC's context of a call."""

    def is_active(self) -> bool:
        """Whether the client still waits."""
        ...

    def time_remaining(self) -> float:
        """Seconds until the client's deadline."""
        ...

    def cancel(self) -> object:
        """End the call now, whatever it waits for."""
        ...

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called at the call's end; False where it has ended already."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLimits:
    """Counts of one certificate, and times in seconds."""

    per_caller: int = 512
    reading_per_caller: int = 16
    message_s: float = 5.0
    life_s: float = 30.0


class ClientGoneError(Exception):
    """Nobody waits for this call any more."""


class Spares(Protocol):
    """A pool that starts other threads in the place of stalled ones."""

    def spare(self, threads: int) -> None:
        """Allow for so many stalled threads."""
        ...


class _Open:
    __slots__ = ("caller", "context", "reading", "since")

    def __init__(self, caller: str, context: Context, now: float) -> None:
        self.caller, self.context, self.since = caller, context, now
        self.reading = True


class OpenCalls:
    """Watches over the open calls of one process. `start` begins to watch, on a thread of its own.

    A call only notes itself, without a lock; what is counted is counted by the watcher, twenty times a second. Until
    it looks, a caller can exceed its bounds by what the threads there are can begin.
    """

    def __init__(
        self, pool: Spares, limits: OpenLimits | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._limits = limits or OpenLimits()
        self._monotonic = monotonic
        self._open: dict[int, _Open] = {}
        self._over: frozenset[str] = frozenset()
        self._spare = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="open-calls", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def message(self, caller: str, context: Context, messages: Iterator[bytes]) -> bytes:
        """Note the call as open until it has ended, and return its one message once that is here.

        Raises:
            KeyServiceError: overloaded where this certificate holds too many calls; invalid_encoding for no message.
            ClientGoneError: the client gave up, or its deadline has passed: nothing is to be begun.
        """
        if caller in self._over:
            raise KeyServiceError(Reason.OVERLOADED, "too many open calls of one caller")
        call = _Open(caller, context, self._monotonic())
        self._open[id(call)] = call
        if not context.add_callback(lambda: self._ended(call)):
            self._ended(call)
            raise ClientGoneError
        try:
            message = next(messages)
        except StopIteration as exc:
            check_waiting(context)
            raise KeyServiceError(Reason.INVALID_ENCODING, "no message") from exc
        finally:
            call.reading = False
        check_waiting(context)
        return message

    def _ended(self, call: _Open) -> None:
        self._open.pop(id(call), None)

    def _watch(self) -> None:
        while not self._stopping.wait(_TICK_S):
            self.look()

    def look(self) -> None:
        """Replace the threads that are stalled, end what has been open for too long, and see who holds too much."""
        now = self._monotonic()
        held: Counter[str] = Counter()
        stalled: Counter[str] = Counter()
        late = []
        for call in list(self._open.values()):  # one step for the interpreter, whatever other threads do
            held[call.caller] += 1
            age = now - call.since
            if call.reading and age > STALLED_S:
                stalled[call.caller] += 1
            if age > (self._limits.message_s if call.reading else self._limits.life_s):
                late.append(call)
        self._over = frozenset(
            caller
            for caller, count in held.items()
            if count >= self._limits.per_caller or stalled[caller] >= self._limits.reading_per_caller
        )
        if stalled.total() != self._spare:
            self._spare = stalled.total()
            self._pool.spare(self._spare)
        for call in late:
            with suppress(Exception):  # whatever gRPC says of a call that ends at this very moment
                call.context.cancel()


def check_waiting(context: Context) -> None:
    """Return while the client waits for the answer. Raises ClientGoneError."""
    if not context.is_active() or context.time_remaining() <= 0:
        raise ClientGoneError
