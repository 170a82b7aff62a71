"""Files that only the host's own account may read: read with every doubt refused, written whole or not at all."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from signer.ports import VaultError, VaultProblem

PRIVATE_MODE: Final = 0o600
_OTHERS: Final = 0o077


def check_private(path: Path, status: os.stat_result) -> None:
    """Refuse what is no regular file of this very account with access for nobody else.

    Raises:
        VaultError: not_a_regular_file, wrong_owner, loose_mode.
    """
    if not stat.S_ISREG(status.st_mode):
        raise VaultError(VaultProblem.NOT_A_REGULAR_FILE, f"{path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise VaultError(VaultProblem.WRONG_OWNER, f"{path} belongs to another account")
    if status.st_mode & _OTHERS:
        raise VaultError(VaultProblem.LOOSE_MODE, f"{path} is open to other accounts: chmod 600 it")


def read_private(path: Path, *, limit: int) -> bytearray:
    """The content of a private file, at most `limit` bytes, in a buffer that the caller can wipe. Symlinks are refused.

    Raises:
        VaultError: not_found, not_a_regular_file, wrong_owner, loose_mode, too_large, unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise VaultError(VaultProblem.NOT_FOUND, f"{path} does not exist") from exc
    except OSError as exc:
        problem = VaultProblem.NOT_A_REGULAR_FILE if path.is_symlink() else VaultProblem.UNREADABLE
        raise VaultError(problem, f"{path} cannot be opened: {exc.strerror}") from exc
    try:
        check_private(path, os.fstat(descriptor))
        return read_descriptor(descriptor, limit=limit, name=str(path))
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, *, limit: int, name: str) -> bytearray:
    """All of an open descriptor, at most `limit` bytes. Raises VaultError: too_large, unreadable."""
    buffer = bytearray(limit + 1)
    length = 0
    try:
        with memoryview(buffer) as view:
            while length <= limit and (read := os.readv(descriptor, [view[length:]])):
                length += read
    except OSError as exc:
        raise VaultError(VaultProblem.UNREADABLE, f"{name} cannot be read: {exc.strerror}") from exc
    if length > limit:
        buffer[:] = bytes(len(buffer))
        raise VaultError(VaultProblem.TOO_LARGE, f"{name} is larger than {limit} bytes")
    content = buffer[:length]
    buffer[:] = bytes(len(buffer))
    return content


def write_private(path: Path, content: bytes, *, replace: bool) -> None:
    """Make `content` durable under `path`, mode 0600: after a crash the file is the old one or the new one.

    Raises:
        VaultError: exists, where the name is taken and `replace` is False; unreadable, where writing fails.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(temporary, content)
        if replace:
            os.rename(temporary, path)  # noqa: PTH104  # beside os.link
        else:
            os.link(temporary, path)  # unlike rename it refuses a taken name
            temporary.unlink()
        sync_folder(path.parent)
    except FileExistsError as exc:
        raise VaultError(VaultProblem.EXISTS, f"{path} exists and is never overwritten") from exc
    except OSError as exc:
        raise VaultError(VaultProblem.UNREADABLE, f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, PRIVATE_MODE), "wb") as stream:
        os.fchmod(stream.fileno(), PRIVATE_MODE)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
