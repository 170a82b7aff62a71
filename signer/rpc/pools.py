"""Thread pools that know how many calls they carry, so that the guard can refuse instead of queueing without end."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Counted:
    """`in_flight` is the number of calls queued and running, and of what they carry."""

    _count_lock: threading.Lock
    in_flight: int

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


class CountingPool(Counted, ThreadPoolExecutor):
    """A ThreadPoolExecutor that counts."""

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


class ElasticPool(Counted, Executor):
    """So many threads for work, and `spare` ones in the place of those that wait for a slow client.

    gRPC takes a thread from the pool before the request's message has arrived. Without spare threads, as many clients
    that never send theirs would stop the signer for everyone.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        self._base, self._spare, self._name = threads, 0, name
        self._lock = self._count_lock = threading.Lock()
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = self._idle = self._untaken = 0  # tasks are counted here: the queue's own size runs ahead
        self._numbers = itertools.count()
        self._closed = False
        self.in_flight = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As Executor.submit."""
        future: Future[T] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as exc:  # noqa: BLE001  # belongs to whoever holds the future
                future.set_exception(exc)
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            self.in_flight += 1
            self._untaken += 1
            self._tasks.put(task)
            self._start_missing()
        return future

    def spare(self, threads: int) -> None:
        """Allow for so many threads that wait for their clients; what is too many then ends by itself."""
        with self._lock:
            self._spare = threads
            self._start_missing()

    @property
    def threads(self) -> int:
        """How many threads there are now."""
        return self._threads

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # as Executor has it
        """Take no more tasks; what was queued still runs."""
        with self._lock:
            self._closed = True
            self._tasks.put(None)

    def _start_missing(self) -> None:
        while self._idle < self._untaken and self._threads < self._base + self._spare:
            self._threads += 1
            self._idle += 1  # until it has taken a task
            thread = threading.Thread(target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True)
            thread.start()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            with self._lock:
                self._idle -= 1
                self._untaken -= task is not None
            if task is not None:
                task()
            with self._lock:
                if task is not None:
                    self.in_flight -= 1
                if task is None or self._threads > self._base + self._spare:
                    self._threads -= 1
                    if task is None:
                        self._tasks.put(None)  # for the next one
                    return
                self._idle += 1
