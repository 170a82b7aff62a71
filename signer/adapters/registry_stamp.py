"""A few bytes that all signer processes of one host share: who looks at them notices a change without asking SQLite."""

import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_WORDS: Final = 4
_SIZE: Final = 8 * _WORDS
_STAMP, _INCARNATION, _HIGH_WATER, _JOURNAL = range(_WORDS)


class SharedStamp:
    """A stamp drawn anew around each commit, and the newest head that any process has seen.

    Writes of one aligned 64-bit word are atomic. The stamp is random, not counted: two processes that write at once
    leave a value that no reader has seen before, whichever of them comes last.
    """

    __slots__ = ("_map", "_words")

    def __init__(self, path: Path) -> None:
        """Open or make the file at `path`, mode 0600."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _SIZE:
                os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def beside(cls, database: Path, registry_id: str) -> Self:
        """The stamp of a state file. A new registry in an old folder does not inherit its predecessor's high water."""
        return cls(cls.path_beside(database, registry_id))

    @staticmethod
    def path_beside(database: Path, registry_id: str) -> Path:
        """Where the stamp of a state file lies."""
        return database.with_name(f"registry-{registry_id[:16]}.stamp")

    def read(self) -> int:
        """The stamp; any difference to an earlier one means that something may have been committed."""
        return self._words[_STAMP]

    def bump(self) -> None:
        """Draw a new stamp: once before a commit, so that nobody trusts what was read meanwhile, and once after it."""
        self._words[_STAMP] = secrets.randbits(64)

    def high_water(self, incarnation: int) -> int:
        """The newest sequence committed under this incarnation, as far as known. Read it before the database."""
        return self._words[_HIGH_WATER] if self._words[_INCARNATION] == incarnation else 0

    def raise_high_water(self, incarnation: int, sequence: int) -> None:
        """Remember a committed sequence; it only falls with a new incarnation."""
        if not self._begin(incarnation):
            return
        self._words[_HIGH_WATER] = max(self._words[_HIGH_WATER], sequence)

    def journal_high_water(self, incarnation: int) -> int:
        """The newest journal line known under this incarnation. Read it before the database."""
        return self._words[_JOURNAL] if self._words[_INCARNATION] == incarnation else 0

    def raise_journal(self, incarnation: int, sequence: int) -> None:
        """Remember a committed journal line; it only falls with a new incarnation."""
        if not self._begin(incarnation):
            return
        self._words[_JOURNAL] = max(self._words[_JOURNAL], sequence)

    @property
    def incarnation(self) -> int:
        """The newest incarnation that was served from here."""
        return self._words[_INCARNATION]

    def _begin(self, incarnation: int) -> bool:
        """Whether this incarnation is the newest, after whatever was known of older ones is forgotten."""
        if self._words[_INCARNATION] < incarnation:
            self._words[_HIGH_WATER] = self._words[_JOURNAL] = 0
            self._words[_INCARNATION] = incarnation
        return self._words[_INCARNATION] == incarnation

    def close(self) -> None:
        """Unmap the file. Not to be used afterwards."""
        self._words.release()
        self._map.close()


class StampHolder:
    """Whatever looks at a stamp for as long as it is open. Open it after a fork."""

    _shared: SharedStamp

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the stamp. Not to be used afterwards."""
        self._shared.close()

    def _hold(self, database: Path, registry_id: str, first_look: Callable[[], object]) -> None:
        """Open the stamp of a state file and look at it once; where that fails, it is closed again."""
        self._shared = SharedStamp.beside(database, registry_id)
        try:
            first_look()
        except BaseException:
            self.close()
            raise
