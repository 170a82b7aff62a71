"""Files that may be replaced while a service runs: read again when they change, the last good content kept."""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.logs import log_event

CHECK_INTERVAL_S: Final = 0.5
_LOG: Final = logging.getLogger("agentkeys.files")
_LOOSE: Final = 0o077  # any access of group or others
T = TypeVar("T")
_Stamp = tuple[tuple[int, int, int, int] | None, ...]


def read_limited(path: Path, limit: int, *, private: bool = False) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Args:
        path: the file; symbolic links are followed, as secrets mounted into containers are links.
        limit: most bytes taken.
        private: refuse a file that group or others can read or write.

    Raises:
        ConfigError: missing, unreadable, no regular file, too large, or loose. The message never holds content.
    """
    try:
        # Not to hang on a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - opens a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: not a regular file")
            if private and status.st_mode & _LOOSE:
                raise ConfigError(f"{path}: readable or writable by others; chmod 600 it and think about a new key")
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from error
    if len(data) > limit:
        raise ConfigError(f"{path}: larger than {limit} bytes")
    return data


class Watched(Generic[T]):
    """What `load` made of some files: loaded anew when one of them changes, looked at twice a second at most.

    The first load may raise; later ones that raise ConfigError are logged once a change, and the last good value stays.
    Safe to use from several threads.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], T], *, interval_s: float = CHECK_INTERVAL_S) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._interval_s = interval_s
        self._lock = threading.Lock()
        # The stamp is taken before reading: a change in between shows at the next look.
        self._seen = self._failed = self._stamp()
        self._value = load()
        self._looked = time.monotonic()

    def get(self) -> T:
        """Return the current value."""
        if time.monotonic() - self._looked >= self._interval_s:
            with self._lock:
                if time.monotonic() - self._looked >= self._interval_s:
                    self._look()
        return self._value

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp != self._seen:
            try:
                self._value = self._load()
            except ConfigError as error:
                if stamp != self._failed:
                    log_event(_LOG, "reload_failed", level=logging.ERROR, detail=str(error))
                    self._failed = stamp
            else:
                log_event(_LOG, "reloaded", file=str(self._paths[0]))
                self._seen = stamp
        self._looked = time.monotonic()

    def _stamp(self) -> _Stamp:
        return tuple(_stamp_of(path) for path in self._paths)


def _stamp_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
