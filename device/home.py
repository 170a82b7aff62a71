"""The device's folder: private files, written whole or not at all, and refused where others could have touched them."""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from device.errors import DeviceError, Trouble

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Above every file that we keep; a profile may have 64 KiB.
MAX_FILE_BYTES: Final = 256 * 1024


def _unsafe(path: object, why: str) -> DeviceError:
    return DeviceError(Trouble.UNSAFE_FILE, f"{path} {why}")


def _check_private(status: os.stat_result, path: object, *, folder: bool) -> None:
    """Raise `unsafe_file` unless the file is ours and closed to everybody else."""
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
        raise _unsafe(path, "is not a folder" if folder else "is not a regular file")
    if status.st_uid != os.geteuid():
        raise _unsafe(path, "belongs to another user")
    if status.st_mode & _OTHERS:
        wanted = FOLDER_MODE if folder else FILE_MODE
        mode = stat.S_IMODE(status.st_mode)
        raise _unsafe(path, f"has mode {mode:04o}, which lets others in; run: chmod {wanted:o} {path}")


def _open(path: str, flags: int, shown: object, *, folder: int | None = None) -> int:
    """Open without following a link at the end of the path.

    Raises FileNotFoundError, FileExistsError or `unsafe_file`.
    """
    try:
        return os.open(path, flags, FILE_MODE, dir_fd=folder)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _unsafe(shown, "is a symbolic link or no folder") from exc
        raise _unsafe(shown, f"cannot be opened: {os.strerror(exc.errno or 0)}") from exc


def _read_all(descriptor: int, limit: int, shown: object) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DeviceError(Trouble.BAD_FILE, f"{shown} has more than {limit} bytes")
    return data


def read_private_file(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a secret file anywhere: no link, a regular file of ours, closed to others.

    Raises:
        DeviceError: `unsafe_file`, or `bad_file` where it is missing or has more than `limit` bytes.
    """
    try:
        descriptor = _open(str(path), _READ, path)
    except FileNotFoundError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{path} does not exist") from exc
    try:
        _check_private(os.fstat(descriptor), path, folder=False)
    except DeviceError:
        os.close(descriptor)
        raise
    return _read_all(descriptor, limit, path)


def read_public_file(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a file that holds no secret.

    Raises `bad_file` where it cannot be read or has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{path}: {os.strerror(exc.errno or 0)}") from exc
    if len(data) > limit:
        raise DeviceError(Trouble.BAD_FILE, f"{path} has more than {limit} bytes")
    return data


def write_new_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file of mode 0600 whole, on disk when this returns.

    Raises:
        DeviceError: `file_exists` where there is one and `replace` is false; `bad_file` where the folder cannot be
            written.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{path.parent}: {os.strerror(exc.errno or 0)}") from exc
    try:
        _write(folder, path.name, data, replace=replace)
    except FileExistsError as exc:
        raise DeviceError(Trouble.FILE_EXISTS, f"{path} exists already") from exc
    except OSError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{path}: {os.strerror(exc.errno or 0)}") from exc
    finally:
        os.close(folder)


def _write(folder: int, name: str, data: bytes, *, replace: bool) -> None:
    """Write under a temporary name, fsync, rename (or link, which fails where the name is taken), fsync the folder."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, _CREATE, FILE_MODE, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            os.unlink(temporary, dir_fd=folder)
    except OSError:
        os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


class Home:
    """An open, checked folder.

    Files are reached through its descriptor, so that nobody can swap the folder meanwhile.
    """

    __slots__ = ("_folder", "path")

    def __init__(self, path: Path, folder: int) -> None:
        self.path = path
        self._folder = folder

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open the folder after checking that it is ours and closed to others; `create` makes it where it is missing.

        Raises:
            DeviceError: `unsafe_file`, or `not_initialised` where it is missing.
        """
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # one that is there is checked like any other
                path.mkdir(mode=FOLDER_MODE)
        try:
            folder = _open(str(path), _FOLDER, path)
        except FileNotFoundError as exc:
            raise DeviceError(
                Trouble.NOT_INITIALISED, f"{path} does not exist; run agentkeys init or agentkeys pair"
            ) from exc
        try:
            _check_private(os.fstat(folder), path, folder=True)
        except DeviceError:
            os.close(folder)
            raise
        return cls(path, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; safe to call twice."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None where there is none. Raises `unsafe_file` or `bad_file`."""
        shown = self.path / name
        try:
            descriptor = _open(name, _READ, shown, folder=self._folder)
        except FileNotFoundError:
            return None
        try:
            _check_private(os.fstat(descriptor), shown, folder=False)
        except DeviceError:
            os.close(descriptor)
            raise
        return _read_all(descriptor, MAX_FILE_BYTES, shown)

    def write(self, name: str, data: bytes) -> None:
        """Put a file, new or instead of the old one; either is whole at every moment."""
        _write(self._folder, name, data, replace=True)

    def create(self, name: str, data: bytes) -> None:
        """Put a file that must not exist yet. Raises `file_exists`: keys are never overwritten."""
        try:
            _write(self._folder, name, data, replace=False)
        except FileExistsError as exc:
            raise DeviceError(Trouble.FILE_EXISTS, f"{self.path / name} exists already") from exc

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        try:
            os.unlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            return
        os.fsync(self._folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes on this folder out of the same step (a counter read and written, a key made once)."""
        descriptor = os.open(".", _FOLDER, dir_fd=self._folder)  # a duplicate would share its lock with every other one
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
