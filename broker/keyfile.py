"""K1 on disk: made once, never overwritten, read with every doubt refused."""

import os
import stat
from contextlib import suppress
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

from agentkeys_core.encoding import canonical_json
from agentkeys_core.keys import ES256PublicKey
from agentkeys_runtime.config import ConfigError

KEY_NAME: Final = "k1.pem"
JWK_NAME: Final = "k1.jwk.json"
_LIMIT: Final = 16_384  # bytes
_OTHERS: Final = 0o077
_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def create_key(state_dir: Path) -> ES256PublicKey:
    """Make K1 in `state_dir` (made if missing, 0700): `k1.pem`, 0600, and its public half `k1.jwk.json`.

    Raises:
        ConfigError: either file exists, or cannot be written. Nothing is overwritten.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public = ES256PublicKey.of(key.public_key())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.path.lexists(state_dir / JWK_NAME):
            raise ConfigError(f"{state_dir / JWK_NAME} exists and is never overwritten")
        _write_new(state_dir / KEY_NAME, pem, _PRIVATE)
        _write_new(state_dir / JWK_NAME, canonical_json(public.jwk()) + b"\n", _PUBLIC)
        _sync_folder(state_dir)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} exists and is never overwritten") from error
    except OSError as error:
        raise ConfigError(f"{state_dir}: cannot be written ({error.strerror})") from error
    return public


def load_key(state_dir: Path) -> ec.EllipticCurvePrivateKey:
    """Read K1.

    Raises:
        ConfigError: missing, a symbolic link, no regular file, of another account, open to others, or no P-256 key.
    """
    path = state_dir / KEY_NAME
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


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, _NEW, mode), "wb") as file:
        try:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                path.unlink()  # a half-written key would stand in the way of the next attempt
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
