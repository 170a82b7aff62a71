"""Files that are the old or the new one after any crash, below folders that no symbolic link leads out of."""

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
TEMPORARY_END: Final = ".tmp"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def folder_at(root: int, parts: Sequence[str], *, create: bool) -> Iterator[int]:
    """Yield a descriptor of the folder `parts` below the open folder `root`, each step opened without following links.

    Raises:
        OSError: a part is a link or no folder; FileNotFoundError where one is missing and `create` is false.
    """
    current = os.dup(root)
    try:
        for part in parts:
            if create:
                _make(current, part)
            deeper = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = deeper
        yield current
    finally:
        os.close(current)


def read_at(folder: int, name: str, *, limit: int) -> bytes | None:
    """Return at most `limit` bytes of a regular file, None where there is none.

    Raises:
        OSError: a link, no regular file, or not readable.
    """
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        return file.read(limit)


def replace_at(folder: int, name: str, data: bytes) -> None:
    """Make `data` the file's content, durably: temporary name, fsync, rename, fsync of the folder.

    Raises:
        OSError: it could not be written, or the name is a link or a folder; then the old file stands.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError("the name is taken by something that is no file")
    temporary = f".{name}.{secrets.token_hex(8)}{TEMPORARY_END}"
    try:
        with os.fdopen(os.open(temporary, _NEW, FILE_MODE, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def remove_at(folder: int, name: str) -> None:
    """Remove the file durably; nothing where there is none. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
        os.fsync(folder)


def names_at(folder: int) -> list[str]:
    """Return the names in an open folder, in order. Raises OSError."""
    return sorted(os.listdir(folder))


def sweep(folder: int) -> int:
    """Remove what crashed writes left below an open folder, links not followed; returns how many files that were."""
    count = 0
    for name in os.listdir(folder):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            with folder_at(folder, [name], create=False) as deeper:
                count += sweep(deeper)
        elif stat.S_ISREG(mode) and name.startswith(".") and name.endswith(TEMPORARY_END):
            os.unlink(name, dir_fd=folder)
            count += 1
    return count


def _make(folder: int, name: str) -> None:
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=folder)
    except FileExistsError:
        return
    os.fsync(folder)
