"""Objects in a local folder: durable writes, one writer an object, nothing reached through a symbolic link."""

import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from agentkeys_core.envelope import MAX_ENVELOPE_BYTES
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import ObjectClass, object_folder
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.logs import log_event
from worker.adapters import durable
from worker.adapters.stripes import LOCK_TIMEOUT_S, Stripes

_LOCK_PAUSE_S: Final = 0.01
_LOCK_FOLDER: Final = ".locks"
_INSTANCES: Final = "instances"
_OPEN_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH: Final = re.compile(r"bots/[0-9a-f]{64}/(?:credentials|memory)/[a-z0-9][a-z0-9._-]{0,63}\.enc")
_LOG: Final = logging.getLogger("agentkeys.objects")
T = TypeVar("T")


class LocalObjects:
    """Files by the paths of objects; failures are `object_store_unavailable`. Safe for many threads and processes."""

    def __init__(self, directory: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Open the folder, made with mode 0700 where it is missing, and remove what crashed writes left in it.

        Raises:
            ConfigError: it cannot be used, belongs to another account, or is writable by others.
        """
        self._timeout_s = lock_timeout_s
        self._stripes = Stripes(timeout_s=lock_timeout_s)
        try:
            directory.mkdir(mode=durable.FOLDER_MODE, exist_ok=True)
            self.root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _check_folder(directory, os.fstat(self.root))
                with durable.folder_at(self.root, [_LOCK_FOLDER], create=True) as folder:
                    self._lock_folder = os.dup(folder)
                self._instance = self._join()
            except BaseException:
                os.close(self.root)
                raise
        except OSError as error:
            raise ConfigError(f"{directory}: cannot be used ({error.strerror or type(error).__name__})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        for descriptor in (self._instance, self._lock_folder, self.root):
            os.close(descriptor)

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Keep every other writer of this object out, in this process and in others. `overloaded` after a while."""
        deadline = time.monotonic() + self._timeout_s
        with self._stripes.hold(_checked(path)) as number:
            descriptor = _guarded(lambda: self._flock(f"{number:02x}", deadline))
            try:
                yield
            finally:
                os.close(descriptor)

    def read(self, path: str) -> bytes | None:
        """The object, None where there is none. One byte more than any envelope has shows that it is none."""
        *parts, name = _checked(path).split("/")

        def work() -> bytes | None:
            try:
                with durable.folder_at(self.root, parts, create=False) as folder:
                    return durable.read_at(folder, name, limit=MAX_ENVELOPE_BYTES + 1)
            except FileNotFoundError:
                return None

        return _guarded(work)

    def write(self, path: str, data: bytes) -> None:
        """Replace the object durably: after a crash it is the old one or the new one."""
        *parts, name = _checked(path).split("/")

        def work() -> None:
            with durable.folder_at(self.root, parts, create=True) as folder:
                durable.replace_at(folder, name, data)

        _guarded(work)

    def remove(self, path: str) -> None:
        """Remove the object durably; nothing where there is none."""
        *parts, name = _checked(path).split("/")

        def work() -> None:
            try:
                with durable.folder_at(self.root, parts, create=False) as folder:
                    durable.remove_at(folder, name)
            except FileNotFoundError:
                return

        _guarded(work)

    def paths(self, object_class: ObjectClass) -> Iterator[str]:
        """See `worker.rewrap`. Whatever is not the file of an object is passed over."""
        folder = object_folder(object_class)
        for owner in _guarded(lambda: self._names("bots")):
            for name in _guarded(lambda owner=owner: self._names("bots", owner, folder)):  # type: ignore[misc]
                path = f"bots/{owner}/{folder}/{name}"
                if _PATH.fullmatch(path):
                    yield path

    def _names(self, *parts: str) -> list[str]:
        try:
            with durable.folder_at(self.root, parts, create=False) as folder:
                return durable.names_at(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _join(self) -> int:
        """Say that this process uses the folder; the first one sweeps it, as no write of others is under way then."""
        descriptor = os.open(_INSTANCES, _OPEN_LOCK, durable.FILE_MODE, dir_fd=self._lock_folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            swept = durable.sweep(self.root)
            if swept:
                log_event(_LOG, "swept", files=swept)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def _flock(self, name: str, deadline: float) -> int:
        descriptor = os.open(name, _OPEN_LOCK, durable.FILE_MODE, dir_fd=self._lock_folder)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise KeyServiceError(Reason.OVERLOADED, "another worker holds this object") from error
                    time.sleep(_LOCK_PAUSE_S)
                else:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def _checked(path: str) -> str:
    """Return the path of an object. Paths are made of checked names; no mistake may become a path elsewhere."""
    if not _PATH.fullmatch(path):
        raise ValueError("not the path of an object")
    return path


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        log_event(_LOG, "store_failed", level=logging.ERROR, error=name)
        raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE, f"the object store failed: {name}") from error


def _check_folder(directory: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{directory}: belongs to another account")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{directory}: writable by other accounts; chmod 700 it")
