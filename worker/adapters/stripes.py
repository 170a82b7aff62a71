"""Locks of this process: each stands for all objects whose path hashes to its number, so their count is fixed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256

LOCKS: Final = 256
LOCK_TIMEOUT_S: Final = 15.0


class Stripes:
    """One writer an object, among the threads of this process."""

    def __init__(self, *, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))

    @contextmanager
    def hold(self, path: str) -> Iterator[int]:
        """Hold the object's lock and yield its number. Raises `overloaded` where that takes too long."""
        number = sha256(path.encode())[0] % LOCKS
        if not self._locks[number].acquire(timeout=self._timeout_s):
            raise KeyServiceError(Reason.OVERLOADED, "another request holds this object")
        try:
            yield number
        finally:
            self._locks[number].release()
