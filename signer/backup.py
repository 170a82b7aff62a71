"""A consistent copy of vault and state, taken while the signer serves (docs/runbooks/keys.md)."""

import os
import secrets
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from signer.adapters.database import StateError
from signer.adapters.journal_file import read_only
from signer.config import SignerConfig
from signer.private_files import read_private, sync_folder, write_private
from signer.vault import MAX_VAULT_BYTES

STATE: Final = "state.db"
VAULT: Final = "vault.bin"


def back_up(config: SignerConfig, folder: Path) -> None:
    """Make `folder` (0700) with a copy of the state file and one of the sealed vault; whole and durable, or not at all.

    The state is copied first: every epoch that it records is then in the vault that is copied after it. What unseals
    the vault is not copied: it belongs elsewhere.

    Raises:
        StateError: the name is taken, or the state file cannot be read.
        VaultError: the vault cannot be read.
    """
    if folder.exists() or folder.is_symlink():
        raise StateError(f"{folder} exists; nothing is ever overwritten")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    partial.mkdir(mode=0o700)
    try:
        copy_state(config.database, partial / STATE)
        write_private(partial / VAULT, bytes(read_private(config.vault, limit=MAX_VAULT_BYTES)), replace=False)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(partial)


def copy_state(source: Path, target: Path) -> None:
    """Copy one consistent moment of a state file, also of one that is being written, into one new durable file (0600).

    Raises:
        StateError: no state file of ours, or the copy cannot be written.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        with read_only(source) as conn, closing(sqlite3.connect(target)) as copy:
            conn.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # nothing of it stays in a second file
    except sqlite3.Error as exc:
        raise StateError(f"{target} cannot be written") from exc
    with target.open("rb") as stream:
        os.fsync(stream.fileno())
    sync_folder(target.parent)
