"""A consistent copy of vault and state, taken while the signer serves (docs/runbooks/keys.md).

A backup lies where others may write. What the state file says of devices and scopes is no part of the journal, so the
copy as a whole is put under a MAC that needs K3, and a restore takes nothing else.
"""

import hashlib
import hmac
import os
import secrets
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from agentkeys_core.encoding import canonical_json, fields, hex_decode, hex_encode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import MAX_EPOCH, integer
from signer.adapters.database import StateError, check_epochs, read_meta
from signer.adapters.journal_file import read_only
from signer.config import SignerConfig
from signer.journal import MacKeys
from signer.keyring import Keyring
from signer.ports import Unsealer
from signer.private_files import read_private, sync_folder, write_private
from signer.vault import MAX_VAULT_BYTES, Vault

STATE: Final = "state.db"
VAULT: Final = "vault.bin"
MANIFEST: Final = "backup.json"
_VERSION: Final = 1
_LIMIT: Final = 4096  # bytes of a manifest
_TAG: Final = b"agentkeys.backup.v1\x00"
_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What stands beside the copies: SHA-256 of the state file (32 bytes), when it was made, and a MAC of `epoch`."""

    state: bytes
    made_at: int
    epoch: int
    mac: bytes = bytes(32)

    def signed(self, keys: MacKeys) -> Self:
        """The manifest under its MAC. Raises epoch_not_held, sealed."""
        return replace(self, mac=keys.journal_mac(self.epoch, self._message()))

    def check(self, keys: MacKeys, state: Path) -> None:
        """Return if this signer made the manifest, over exactly that file. Raises StateError, epoch_not_held."""
        if not hmac.compare_digest(keys.journal_mac(self.epoch, self._message()), self.mac):
            raise StateError("the MAC of the backup is not this signer's")
        if not hmac.compare_digest(digest_of(state), self.state):
            raise StateError("the state file of the backup was changed")

    def _message(self) -> bytes:
        return _TAG + self.state + self.made_at.to_bytes(8, "big") + self.epoch.to_bytes(4, "big")

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {
                "epoch": self.epoch,
                "mac": hex_encode(self.mac),
                "made_at": self.made_at,
                "state": hex_encode(self.state),
                "ver": _VERSION,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `encode`'s bytes. Raises KeyServiceError: too_large, unknown_fields, invalid_encoding."""
        names = ("epoch", "mac", "made_at", "state", "ver")
        members = fields(parse_canonical(data, limit=_LIMIT, not_canonical=_BAD), required=names, reason=_BAD)
        integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
        return cls(
            state=hex_decode(members["state"], length=32, reason=_BAD),
            made_at=integer(members["made_at"], "made_at", reason=_BAD),
            epoch=integer(members["epoch"], "epoch", low=1, high=MAX_EPOCH, reason=_BAD),
            mac=hex_decode(members["mac"], length=32, reason=_BAD),
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The manifest of a backup. Raises VaultError where there is none, StateError where it is no manifest."""
        try:
            return cls.parse(bytes(read_private(folder / MANIFEST, limit=_LIMIT)))
        except KeyServiceError as exc:
            raise StateError(f"{folder / MANIFEST} is not what `backup` wrote") from exc


def back_up(config: SignerConfig, folder: Path, unsealer: Unsealer, *, now: int) -> None:
    """Make `folder` (0700) with copies of state file and sealed vault; whole and durable, or not at all.

    The state is copied first: every epoch that it records is then in the vault that is copied after it. What unseals
    the vault is not copied: it belongs elsewhere. `now` in Unix seconds.

    Raises:
        StateError: the name is taken, or the state file cannot be read.
        VaultError: the vault does not open.
        KeyServiceError: k3_mismatch, epoch_not_held where vault and state do not belong together.
    """
    if folder.exists() or folder.is_symlink():
        raise StateError(f"{folder} exists; nothing is ever overwritten")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    partial.mkdir(mode=0o700)
    try:
        _copy_state(config.database, partial / STATE)
        write_private(partial / VAULT, bytes(read_private(config.vault, limit=MAX_VAULT_BYTES)), replace=False)
        with Keyring(Vault(partial / VAULT).open(unsealer)) as keyring, read_only(partial / STATE) as conn:
            check_epochs(conn, keyring)
            manifest = Manifest(state=digest_of(partial / STATE), made_at=now, epoch=read_meta(conn).k3_epoch)
            write_private(partial / MANIFEST, manifest.signed(keyring).encode(), replace=False)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(partial)


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def new_private_file(path: Path) -> None:
    """Make an empty file, mode 0600. Raises FileExistsError."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _copy_state(source: Path, target: Path) -> None:
    """Copy one consistent moment of a state file, also of one that is being written, into one new durable file."""
    new_private_file(target)
    try:
        with read_only(source) as conn, closing(sqlite3.connect(target)) as copy:
            conn.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # nothing of it stays in a second file
    except sqlite3.Error as exc:
        raise StateError(f"{target} cannot be written") from exc
    with target.open("rb") as stream:
        os.fsync(stream.fileno())
