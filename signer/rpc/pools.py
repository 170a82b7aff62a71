"""Thread pools that know how many calls they carry, so that the guard can refuse instead of queueing without end."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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

    @contextmanager
    def carrying(self, more: int, *, limit: int) -> Iterator[int]:
        """Count up to `more` calls on top while the block runs, as many as `limit` in all allows; that number."""
        with self._count_lock:
            taken = max(0, min(more, limit - self.in_flight))
            self.in_flight += taken
        try:
            yield taken
        finally:
            with self._count_lock:
                self.in_flight -= taken

    def _left(self, _future: object) -> None:
        with self._count_lock:
            self.in_flight -= 1
