"""Makes and replaces files so that a key is never readable by others, not for a moment, and no link leads elsewhere."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from certs.errors import CertsError

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
SIZE_LIMIT: Final = 16 * 1024 * 1024
_FOLDER_MODE: Final = 0o700
_WRITABLE: Final = 0o022
_LOOSE: Final = 0o077
_NEW: Final = ".new"


class Folder:
    """A directory, held open: every file is reached from here, so that no path can be swapped underneath.

    A symbolic link is refused as the directory and as any file in it, and so is a directory that others can write to.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing directory; CertsError where it is none, a link, or writable by others."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            link = "is a symbolic link" if path.is_symlink() else f"cannot be opened ({_why(error)})"
            raise CertsError(f"{path} {link}; name the folder itself") from error
        if os.fstat(self._fd).st_mode & _WRITABLE:
            os.close(self._fd)
            raise CertsError(f"{path} can be written to by others; chmod 700 it first")

    @classmethod
    def make(cls, path: Path) -> "Folder":
        """Open the directory, made with mode 0700 (as are missing parents) if it is not there."""
        try:
            for folder in [path, *path.parents][::-1]:
                with contextlib.suppress(FileExistsError):
                    if not folder.exists():
                        folder.mkdir(mode=_FOLDER_MODE)
        except (OSError, ValueError) as error:
            raise CertsError(f"{path} cannot be made ({_why(error)})") from error
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs of these commands out of this folder."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def has(self, name: str) -> bool:
        """Say whether anything stands there under this name, a dangling link too."""
        return self._status(name) is not None

    def read(self, name: str, *, private: bool = False) -> bytes:
        """Return a regular file's bytes; with `private`, only if group and others have no access to it."""
        where = self.path / name
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError as error:
            raise CertsError(f"{where} cannot be read ({_why(error)})") from error
        with open(descriptor, "rb") as file:  # noqa: PTH123 - opens a descriptor, not a path
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise CertsError(f"{where} is not a regular file")
            if private and mode & _LOOSE:
                raise CertsError(f"{where} is readable or writable by others; a key like that must not be used")
            data = file.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise CertsError(f"{where} is too large")
        return data

    def create(self, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Make these files (name to content and mode), all or none; CertsError if one of them exists."""
        for name in files:
            if self.has(name):
                raise CertsError(f"{self.path / name} exists; nothing was overwritten")
        made: list[str] = []
        try:
            for name, (data, mode) in files.items():
                self._write(name, data, mode)
                made.append(name)
        except BaseException:
            for name in made:
                os.unlink(name, dir_fd=self._fd)
            raise
        os.fsync(self._fd)

    def replace(self, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Replace existing files: all are written aside first, then renamed in this order. Owners stay as they were."""
        for name in files:
            status = self._status(name)
            if status is None or not stat.S_ISREG(status.st_mode):
                raise CertsError(f"{self.path / name} is not a regular file; it was not replaced")
        for name, (data, mode) in files.items():
            self.discard(name + _NEW)
            self._write(name + _NEW, data, mode, owner=self._status(name))
        for name in files:
            self._rename(name)
        os.fsync(self._fd)

    def finish(self, name: str) -> None:
        """Do the rename that a replace cut off by a crash still owes for this file."""
        self._rename(name)
        os.fsync(self._fd)

    def discard(self, name: str) -> None:
        """Remove what stands under this name, a link itself and not what it leads to."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def _rename(self, name: str) -> None:
        os.rename(name + _NEW, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _write(self, name: str, data: bytes, mode: int, *, owner: os.stat_result | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            # The mode counts from the first moment: the umask can only take bits away.
            descriptor = os.open(name, flags, mode, dir_fd=self._fd)
        except OSError as error:
            raise CertsError(f"{self.path / name} cannot be made ({_why(error)})") from error
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - opens a descriptor, not a path
                os.fchmod(descriptor, mode)  # bits that a strange umask took
                if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                    with contextlib.suppress(PermissionError):  # only root can give a file to its service
                        os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            os.unlink(name, dir_fd=self._fd)
            raise

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


def _why(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
