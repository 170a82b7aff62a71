"""Whose turn it is to write: one signer process at a time, without SQLite's long naps between tries.

SQLite waits for a lock by sleeping up to 100 ms between tries, so that under load one process can miss every gap until
its patience ends. Processes of ours take turns by a lock on a file of their own, asked for every half millisecond.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PAUSE_S: Final = 0.0005


class Turn:
    """The lock file beside the state file. A process that dies loses its turn with its descriptor."""

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".turn")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @contextmanager
    def taken(self, patience_s: float) -> Iterator[None]:
        """Hold the turn; without it after `patience_s` seconds, go on all the same: SQLite's own lock still decides."""
        deadline = time.monotonic() + patience_s
        while not (mine := self._take()) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        try:
            yield
        finally:
            if mine:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _take(self) -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
