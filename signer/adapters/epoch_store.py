"""The SQL of K3 epochs: which one is current, what is recorded of each, and the step to the next."""

import sqlite3
from types import MappingProxyType
from typing import Final

from agentkeys_core.audit import AuditEnvelope, OpBody, OpKind, OpResult
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from signer.adapters.committer import Committer, Tx
from signer.adapters.database import Database
from signer.adapters.registry_stamp import SharedStamp
from signer.journal import JournalLine, LineKind
from signer.rotation import EpochRecord, check_spacing

_REGISTRY_TAG: Final = b"agentkeys-registry-v1\x00"


def registry_omni(registry_id: str) -> bytes:
    """The omni (32 bytes) whose audit chain holds what happened to the registry as a whole (docs/adr/0019)."""
    return sha256(_REGISTRY_TAG + registry_id.encode())


class EpochStore:
    """Implements `signer.rotation.EpochRegistry` on the state file."""

    def __init__(self, database: Database, journal: Committer, stamp: SharedStamp) -> None:
        self._database = database
        self._journal = journal
        self._stamp = stamp

    def record(self) -> EpochRecord:
        """What the registry says of epochs now. Raises journal_unavailable."""
        with self._database.reading() as conn:
            return _record(conn)

    def note(self, method: str) -> None:
        """Append a journal line of a host action, durably. Raises journal_unavailable, clock_behind, sealed."""

        def unit(tx: Tx) -> None:
            tx.journal(JournalLine(at=tx.now, kind=LineKind.HOST, method=method, caller="host"))

        self._journal.run(unit)

    def advance(self, epoch: int, check: bytes) -> None:
        """Make `epoch` the current one, with its K3 check, an audit row and a journal line, in one transaction.

        Raises:
            RotationError: too_soon.
            KeyServiceError: k3_mismatch where the registry has recorded another K3 under that number, or is not at the
                epoch before it; journal_unavailable, clock_behind, sealed.
        """

        def unit(tx: Tx) -> None:
            record = _record(tx.conn)
            if record.current != epoch - 1 or record.checks.get(epoch, check) != check:
                raise KeyServiceError(Reason.K3_MISMATCH, f"the registry is not waiting for this epoch {epoch}")
            check_spacing(record, now=tx.now)
            _write(tx, epoch, check)

        self._stamp.bump()  # nobody trusts a status that is read while this is being committed
        self._journal.run(unit)
        self._stamp.bump()


def _write(tx: Tx, epoch: int, check: bytes) -> None:
    conn = tx.conn
    conn.execute("INSERT OR IGNORE INTO k3_checks(epoch, check_value) VALUES (?, ?)", (epoch, check))
    conn.execute("UPDATE meta SET value = ? WHERE key = 'k3_epoch'", (epoch,))
    conn.execute("INSERT OR REPLACE INTO meta(key, value) VALUES ('rotated_at', ?)", (tx.now,))
    omni = registry_omni(conn.execute("SELECT value FROM meta WHERE key = 'registry_id'").fetchone()[0])
    row = tx.append_row(
        AuditEnvelope(
            ts_unix=tx.now,
            actor_omni=omni,
            operator_omni=omni,
            op_kind=OpKind.K3_EPOCH_ADVANCE,
            op_body=OpBody(epoch=epoch),
            result=OpResult.SUCCESS,
        )
    )
    tx.journal(JournalLine(at=tx.now, kind=LineKind.HOST, method="rotate-commit", caller="host", row_hash=row.row_hash))


def _record(conn: sqlite3.Connection) -> EpochRecord:
    meta = dict(conn.execute("SELECT key, value FROM meta WHERE key IN ('k3_epoch', 'rotated_at')"))
    checks = dict(conn.execute("SELECT epoch, check_value FROM k3_checks"))
    return EpochRecord(current=meta["k3_epoch"], checks=MappingProxyType(checks), rotated_at=meta.get("rotated_at"))
