"""Thread pools that know how many calls they carry, so that the guard can refuse instead of queueing without end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class CountingPool(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose `in_flight` is the number of calls queued and running."""

    def __init__(self, threads: int, *, name: str) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self._count_lock = threading.Lock()
        self.in_flight = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As ThreadPoolExecutor.submit."""
        with self._count_lock:
            self.in_flight += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError:  # the pool is shutting down
            self._left(None)
            raise
        future.add_done_callback(self._left)
        return future

    def _left(self, _future: object) -> None:
        with self._count_lock:
            self.in_flight -= 1
