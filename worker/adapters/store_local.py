"""The object store in a local folder: files, their locks, and the notes of what deletes met."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from agentkeys_core.hashes import sha256
from worker.adapters.deletions_local import LocalDeletions
from worker.adapters.objects_local import LocalObjects
from worker.admission import Admitted

#: Beyond a request's expiry: both clocks' tolerance, and as much again.
KEEP_DELETION_S: Final = 180


class LocalStore:
    """Implements `worker.ports.ObjectStore`. Safe for many threads and processes of one host."""

    def __init__(self, objects: LocalObjects, deletions: LocalDeletions) -> None:
        self._objects = objects
        self._deletions = deletions

    def reader(self, admitted: Admitted) -> Callable[[], bytes | None]:
        """See the port."""
        return partial(self._objects.read, admitted.path)

    @contextmanager
    def hold(self, admitted: Admitted) -> Iterator["LocalHeld"]:
        """See the port: the lock lasts until the request is answered."""
        with self._objects.lock(admitted.path):
            yield LocalHeld(self._objects, self._deletions, admitted)


class LocalHeld:
    """Implements `worker.ports.Held`: the lock is held already, and a version is the hash of the file."""

    def __init__(self, objects: LocalObjects, deletions: LocalDeletions, admitted: Admitted) -> None:
        self._objects = objects
        self._deletions = deletions
        self._admitted = admitted

    def is_unchanged(self, version: bytes) -> bool:
        """See the port."""
        return version == self.version()

    def claim(self) -> None:
        """See the port."""

    def write(self, data: bytes) -> bytes:
        """See the port."""
        self._objects.write(self._admitted.path, data)
        return sha256(data)

    def removal(self) -> "LocalRemoval":
        """See the port."""
        return LocalRemoval(self, self._objects, self._deletions, self._admitted)

    def version(self) -> bytes:
        """What tells one stored object from every other, also where it is damaged; empty for none."""
        data = self._objects.read(self._admitted.path)
        return b"" if data is None else sha256(data)


class LocalRemoval:
    """Implements `worker.ports.Removal`; what the first attempt met is noted on disk."""

    def __init__(self, held: LocalHeld, objects: LocalObjects, deletions: LocalDeletions, admitted: Admitted) -> None:
        self._held = held
        self._objects = objects
        self._deletions = deletions
        self._admitted = admitted
        keep_until = admitted.request.expires_at + KEEP_DELETION_S
        self._begun = deletions.begin(admitted.digest, held.version(), keep_until=keep_until)

    def refuse(self) -> None:
        """See the port."""
        if self._begun.first:
            self._deletions.withdraw(self._admitted.digest)

    def carry_out(self) -> None:
        """See the port."""
        if self._begun.version and self._held.version() == self._begun.version:
            self._objects.remove(self._admitted.path)
