"""K1 on disk: made once, never overwritten, read with every doubt refused; replaced in two steps that overlap.

`prepare_key` makes the next key, whose public half the host pins at signer and workers; `promote_key` lets it sign from
the next start on. The key that it replaces verifies sessions until `forget_key`, as the prepared one does from the next
start on; its caps end within minutes.

Files appear whole or not at all, and a public half follows its key: what was cut short anywhere goes on when it is run
again, and the broker starts meanwhile.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentkeys_core.encoding import canonical_json, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_runtime.config import ConfigError
from broker.keys import K1Keys

KEY_NAME: Final = "k1.pem"
JWK_NAME: Final = "k1.jwk.json"
NEXT_KEY_NAME: Final = "k1.next.pem"
NEXT_JWK_NAME: Final = "k1.next.jwk.json"
PREVIOUS_KEY_NAME: Final = "k1.previous.pem"
_LIMIT: Final = 16_384  # bytes
_OTHERS: Final = 0o077
_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def create_key(state_dir: Path) -> ES256PublicKey:
    """Make K1 in `state_dir` (made if missing, 0700): `k1.pem`, 0600, and its public half `k1.jwk.json`.

    Raises:
        ConfigError: either file exists, or cannot be written. No key is overwritten.
    """
    with _writing(state_dir):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _create(state_dir / KEY_NAME, state_dir / JWK_NAME)


def prepare_key(state_dir: Path) -> ES256PublicKey:
    """Make the next K1 beside the present one: `k1.next.pem`, 0600, and `k1.next.jwk.json`. It signs nothing yet.

    Raises:
        ConfigError: there is no present key, a next one is prepared already, or files cannot be written.
    """
    _read_key(state_dir / KEY_NAME)
    with _writing(state_dir):
        return _create(state_dir / NEXT_KEY_NAME, state_dir / NEXT_JWK_NAME)


def promote_key(state_dir: Path) -> ES256PublicKey:
    """Let the prepared key be K1 from the next start on; the present one is kept as `k1.previous.pem`.

    Raises:
        ConfigError: none was prepared, the last one replaced was not forgotten yet, or files cannot be written.
    """
    path, following, previous = (state_dir / name for name in (KEY_NAME, NEXT_KEY_NAME, PREVIOUS_KEY_NAME))
    jwk, next_jwk = state_dir / JWK_NAME, state_dir / NEXT_JWK_NAME
    present = _public(path)
    if not os.path.lexists(following) and os.path.lexists(previous) and _published(jwk) != present:
        public = present  # cut short: the key has its place already, and its public half not yet
    else:
        public = _public(following)
        with _writing(state_dir):
            _keep(path, previous)
            following.replace(path)
            _sync_folder(state_dir)
    with _writing(state_dir):
        _publish(next_jwk, public)
        next_jwk.replace(jwk)
        _sync_folder(state_dir)
    return public


def forget_key(state_dir: Path) -> None:
    """Remove the key that was replaced: sessions that it signed end. Raises ConfigError where there is none."""
    with _writing(state_dir):
        try:
            (state_dir / PREVIOUS_KEY_NAME).unlink()
        except FileNotFoundError as error:
            raise ConfigError(f"{state_dir / PREVIOUS_KEY_NAME} does not exist: no key was replaced") from error
        _sync_folder(state_dir)


def load_keys(state_dir: Path) -> K1Keys:
    """Read K1, the key that it replaced where that was not forgotten yet, and the next one where it is prepared.

    So what one of several brokers signs is good at the others while they are restarted one after the other.

    Raises:
        ConfigError: missing, a symbolic link, no regular file, of another account, open to others, or no P-256 key.
    """
    others = [state_dir / name for name in (PREVIOUS_KEY_NAME, NEXT_KEY_NAME)]
    return K1Keys.of(_read_key(state_dir / KEY_NAME), *(_read_key(path) for path in others if os.path.lexists(path)))


@contextmanager
def _writing(state_dir: Path) -> Iterator[None]:
    """Has failures of the disk told as ConfigErrors, and leaves no key behind under a name that nobody looks at."""
    try:
        yield
        for name in (KEY_NAME, NEXT_KEY_NAME):
            _part(state_dir / name).unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename2 or error.filename} exists and is never overwritten") from error
    except OSError as error:
        raise ConfigError(f"{state_dir}: cannot be written ({error.strerror})") from error


def _create(path: Path, jwk: Path) -> ES256PublicKey:
    """Make a key and its public half, or the half alone where a run was cut short between the two."""
    if os.path.lexists(jwk):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(jwk))
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError as error:
        try:
            key = _read_key(path)
        except ConfigError:
            raise error from None
    public = ES256PublicKey.of(key.public_key())
    _sync_folder(path.parent)
    _publish(jwk, public)
    _sync_folder(path.parent)
    return public


def _keep(path: Path, previous: Path) -> None:
    """Give the present key its second name, unlike a rename: it stays in its place until the next one takes it."""
    try:
        os.link(path, previous)
    except FileExistsError:
        if _public(previous) != _public(path):
            raise
    _sync_folder(path.parent)


def _public(path: Path) -> ES256PublicKey:
    return ES256PublicKey.of(_read_key(path).public_key())


def _published(path: Path) -> ES256PublicKey | None:
    """The public half as it stands in a file, None where it stands there no longer or not yet."""
    try:
        return ES256PublicKey.from_jwk(strict_json(path.read_bytes(), limit=_LIMIT, reason=Reason.INVALID_ENCODING))
    except (OSError, KeyServiceError):
        return None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - opens a descriptor, not a path
            _check(path, os.fstat(descriptor))
            pem = file.read(_LIMIT)
    except OSError as error:
        words = "is a symbolic link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise ConfigError(f"{path}: {words}") from error
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: not an unencrypted private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: not a P-256 key")
    return key


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: not a regular file")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path}: belongs to another account")
    if status.st_mode & _OTHERS:
        raise ConfigError(f"{path}: open to other accounts; chmod 600 it and think about a new key")


def _write_new(path: Path, content: bytes) -> None:
    """Make a private file, whole. Raises FileExistsError."""
    part = _part(path)
    _write_part(part, content, _PRIVATE)
    try:
        os.link(part, path)
    finally:
        part.unlink()


def _publish(path: Path, public: ES256PublicKey) -> None:
    """Write a public half, whole, in place of what stands there."""
    part = _part(path)
    _write_part(part, canonical_json(public.jwk()) + b"\n", _PUBLIC)
    part.replace(path)


def _part(path: Path) -> Path:
    """Where a file is written before it gets its name; what a crash left there counts for nothing."""
    return path.with_name(f"{path.name}.part")


def _write_part(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, _NEW, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
