"""Notes of deletes beside the objects: one small file each, for as long as its cap could be sent again."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event
from worker.adapters import durable
from worker.adapters.objects_local import LocalObjects

FOLDER: Final = ".deletions"
#: Old notes are looked for once in this many deletes.
PRUNE_EVERY: Final = 256
_LIMIT: Final = 256  # bytes
_LOG: Final = logging.getLogger("agentkeys.objects")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """`version` is what the first attempt of a delete met, empty for nothing; `first` says that this is it."""

    version: bytes
    first: bool


class LocalDeletions:
    """Which version of its object each delete met first, so that a repeat never removes a newer one.

    Called under the object's lock, so that each note has one writer.
    """

    def __init__(self, objects: LocalObjects, *, clock: Callable[[], float] = time.time) -> None:
        self._root = objects.root
        self._clock = clock
        self._count = 0

    def begin(self, digest: bytes, version: bytes, *, keep_until: float) -> Begun:
        """Note durably what the delete with this cap digest meets; what an earlier attempt noted stands.

        Raises:
            KeyServiceError: `object_store_unavailable` where nothing can be noted, and then nothing is deleted.
        """
        try:
            with durable.folder_at(self._root, [FOLDER], create=True) as folder:
                self._prune(folder)
                found = durable.read_at(folder, digest.hex(), limit=_LIMIT)
                if found is not None:
                    return Begun(version=bytes.fromhex(found.decode().split(" ")[1]), first=False)
                durable.replace_at(folder, digest.hex(), f"{int(keep_until)} {version.hex()}".encode())
                return Begun(version=version, first=True)
        except (OSError, ValueError, IndexError) as error:
            raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE, "the delete cannot be noted") from error

    def withdraw(self, digest: bytes) -> None:
        """Forget a delete that was refused. A note that stays harms nothing: it ends with its cap."""
        try:
            with durable.folder_at(self._root, [FOLDER], create=True) as folder:
                durable.remove_at(folder, digest.hex())
        except OSError as error:
            log_event(_LOG, "note_stays", level=logging.WARNING, error=type(error).__name__)

    def _prune(self, folder: int) -> None:
        self._count += 1
        if self._count % PRUNE_EVERY != 1:
            return
        now = self._clock()
        for name in os.listdir(folder):
            if name.startswith("."):
                continue
            found = durable.read_at(folder, name, limit=_LIMIT) or b""
            with suppress(ValueError):
                if int(found.split(b" ")[0]) < now:
                    durable.remove_at(folder, name)
