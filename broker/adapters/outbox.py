"""What is done after the answer went out: so much of it waits, and no more."""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Self

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event

Work = Callable[[], None]

#: Pieces of work that wait or are done. More is refused rather than piled up.
CAPACITY: Final = 64
THREADS: Final = 4
#: How long an end waits for what is still to be done.
PATIENCE_S: Final = 10.0
_LOG: Final = logging.getLogger("agentkeys.broker")


class Outbox:
    """Takes work from many threads and does it in its own."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._places = threading.BoundedSemaphore(capacity)
        self._waiting: SimpleQueue[Work | None] = SimpleQueue()
        # Daemons: a mail server that does not answer shall hold up nobody's end.
        self._threads = [threading.Thread(target=self._run, name="outbox", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, work: Work) -> None:
        """Do this soon, elsewhere. What it raises is logged by its type. Raises `overloaded` where too much waits."""
        if not self._places.acquire(blocking=False):
            raise KeyServiceError(Reason.OVERLOADED, "too much mail is waiting")
        self._waiting.put(work)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Do what waits, and end; what is not done by then never is. Nothing may be handed in afterwards."""
        for _ in self._threads:
            self._waiting.put(None)
        until = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whoever asked has had an answer, and the next one shall go out
                log_event(_LOG, "left_undone", level=logging.WARNING, error=type(error).__name__)
            finally:
                self._places.release()
