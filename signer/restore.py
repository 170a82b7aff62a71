"""Puts a backup in force: under a new incarnation, with every user frozen until a master confirms (docs/adr/0021).

What happened after the backup is lost, and nothing in it can say what that was. So nothing that was signed before the
restore may count after it: changes name the incarnation, requests their time, and heads that clients hold say nothing
of another incarnation.
"""

import os
import shutil
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from signer.adapters.committer import CLOCK_TOLERANCE_S
from signer.adapters.database import StateError, read_meta
from signer.adapters.journal_file import replay
from signer.backup import STATE, VAULT, Manifest, new_private_file
from signer.config import SignerConfig
from signer.journal import JournalLine, LineKind, chain_hash, read_head, sign_head
from signer.keyring import Keyring
from signer.ports import Unsealer
from signer.private_files import read_private, sync_folder, write_private
from signer.vault import MAX_VAULT_BYTES, Vault

#: Requests issued up to this long after a restore are refused: a device's clock may be that far ahead.
CAPS_AFTER_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What is in force now. `frozen` counts the operators that wait for a master; `made_at` is the backup's time."""

    registry_id: str
    incarnation: int
    k3_epoch: int
    journal_lines: int
    frozen: int
    made_at: int = 0


def restore(config: SignerConfig, folder: Path, unsealer: Unsealer, *, now: int) -> Restored:
    """Install the state file of a backup, and its vault where none is in place; `now` in Unix seconds.

    A vault in place stays: it can only hold more epochs than the backup's. The caller holds the state folder's lock.

    Raises:
        StateError: a state file is in place (move it away); the backup is not whole, or not as this signer made it.
        VaultError: neither vault opens.
        JournalTamperedError: the backup is not what the signer wrote.
        KeyServiceError: k3_mismatch, epoch_not_held where vault and state do not belong together; clock_behind.
    """
    if config.database.exists():
        raise StateError(f"{config.database} is in place: move it away first; nothing is ever overwritten")
    with ExitStack() as stack:
        installed = config.vault if config.vault.exists() else folder / VAULT
        keyring = stack.enter_context(Keyring(Vault(installed).open(unsealer)))
        manifest = Manifest.load(folder)
        temporary = config.database.with_name(f"{config.database.name}.restoring")
        temporary.unlink(missing_ok=True)  # of a restore that was cut off
        stack.callback(temporary.unlink, missing_ok=True)
        new_private_file(temporary)
        shutil.copyfile(folder / STATE, temporary)  # checked is what is installed, whatever happens to its source
        manifest.check(keyring, temporary)
        replay(temporary, keyring, stamped=False)
        done = replace(_begin_anew(temporary, keyring, now), made_at=manifest.made_at)
        if installed != config.vault:
            write_private(config.vault, bytes(read_private(installed, limit=MAX_VAULT_BYTES)), replace=False)
        os.link(temporary, config.database)  # last: without it nothing serves
        sync_folder(config.database.parent)
    return done


def _begin_anew(path: Path, keyring: Keyring, now: int) -> Restored:
    """Turn the copy into the state of a new incarnation, in one transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("BEGIN IMMEDIATE")
        meta, head = read_meta(conn), read_head(conn)
        if now < meta.clock_high_water - CLOCK_TOLERANCE_S:
            raise KeyServiceError(Reason.CLOCK_BEHIND, "this clock is behind the backup")
        # By the clock, not by counting: two restores of the same backup must not share an incarnation.
        incarnation = max(meta.incarnation + 1, now)
        conn.execute("UPDATE meta SET value = ? WHERE key = 'incarnation'", (incarnation,))
        conn.execute("INSERT OR REPLACE INTO meta(key, value) VALUES ('caps_after', ?)", (now + CAPS_AFTER_S,))
        frozen = conn.execute("UPDATE registry_operators SET frozen = 1").rowcount
        # A freeze cancels rotations that wait; one that its user stopped in the lost time must not come due after all.
        conn.execute("DELETE FROM registry_rotations")
        line = JournalLine(at=now, kind=LineKind.HOST, method="restore", caller="host").encode()
        sequence = head.sequence + 1
        digest = chain_hash(head.hash, sequence, line)
        conn.execute("INSERT INTO journal(seq, line, hash) VALUES (?, ?, ?)", (sequence, line, digest))
        signed = sign_head(keyring, sequence=sequence, head_hash=digest, epoch=meta.k3_epoch)
        conn.execute(
            "UPDATE journal_head SET seq = ?, hash = ?, epoch = ?, mac = ?, clock_high_water = ?",
            (sequence, digest, signed.epoch, signed.mac, max(now, meta.clock_high_water)),
        )
        conn.execute("COMMIT")
    return Restored(
        registry_id=meta.registry_id,
        incarnation=incarnation,
        k3_epoch=meta.k3_epoch,
        journal_lines=sequence,
        frozen=frozen,
    )
