"""Work with a security key, in a thread of its own: it can hang, but neither Ctrl-C nor a time limit waits for it."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from device.errors import DeviceError
from device.k11.port import Holder

T = TypeVar("T")
#: How long a key may take to notice that it was cancelled, before it is left alone.
_GRACE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Limit:
    seconds: float
    late: DeviceError


@dataclass(frozen=True, slots=True)
class _Hint:
    words: str


@dataclass(frozen=True, slots=True)
class _Pin:
    question: str


@dataclass(frozen=True, slots=True)
class _Ended(Generic[T]):
    result: T | None = None
    error: Exception | None = field(default=None, repr=False)


class Errand(Generic[T]):
    """One piece of work; what it asks of the person is asked in the thread that waits for it, which owns the terminal.

    `cancelled` is set when nobody waits any longer; the library passes that on to the key.
    """

    def __init__(self, holder: Holder) -> None:
        self.cancelled = threading.Event()
        self._holder = holder
        self._said: queue.SimpleQueue[_Limit | _Hint | _Pin | _Ended[T]] = queue.SimpleQueue()
        self._pins: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, work: Callable[["Errand[T]"], T], *, limit_s: float, late: DeviceError) -> T:
        """Return what `work` returns or raise what it raises.

        Args:
            work: runs in a thread of its own, and calls `within`, `hint` and `pin`.
            limit_s: how long it may take at first.
            late: raised when it took longer.
        """
        thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        thread.start()
        try:
            return self._serve(limit_s, late)
        finally:
            self.cancelled.set()
            self._pins.put("")  # nobody answers any more
            thread.join(_GRACE_S)

    def within(self, seconds: float, late: DeviceError) -> None:
        """From now on, raise `late` when it takes longer than that; typing a PIN is not counted."""
        self._said.put(_Limit(seconds, late))

    def hint(self, words: str) -> None:
        """Tell the person what to do."""
        self._said.put(_Hint(words))

    def pin(self, question: str) -> str:
        """Return a PIN as typed; nothing where nobody waits any longer."""
        self._said.put(_Pin(question))
        return self._pins.get()

    def _serve(self, limit_s: float, late: DeviceError) -> T:
        until = time.monotonic() + limit_s
        while True:
            try:
                said = self._said.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                raise late from None
            match said:
                case _Limit():
                    limit_s, late = said.seconds, said.late
                    until = time.monotonic() + limit_s
                case _Hint():
                    self._holder.hint(said.words)
                case _Pin():
                    self._pins.put(self._holder.pin(said.question))
                    until = time.monotonic() + limit_s  # typing takes as long as it takes
                case _Ended():
                    if said.error is not None:
                        raise said.error
                    return said.result  # type: ignore[return-value]  # its own type is T where it has no error

    def _work(self, work: Callable[["Errand[T]"], T]) -> None:
        try:
            self._said.put(_Ended(result=work(self)))
        except Exception as exc:  # noqa: BLE001 - raised again where it is waited for
            self._said.put(_Ended(error=exc))
