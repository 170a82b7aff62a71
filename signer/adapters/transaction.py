"""One group's transaction: what its units append is gathered here and written in a few statements before the commit.

A call into SQLite lets go of the interpreter lock, and other threads then fight over it; so rows, lines, chain heads
and repeatable releases wait in memory, and a unit that only appends makes no statement of its own. What waits is
seen by later units of the group, and nothing of it is kept where a unit is refused.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from agentkeys_core.audit import NO_ROW, AuditEnvelope, AuditRow, row_hash
from agentkeys_core.hashes import keccak256
from signer.adapters.ledger import SqlLedger
from signer.holds import Hold
from signer.journal import JournalLine, chain_hash
from signer.keyring import Keyring
from signer.ledger import Burn, CapRecord, IssuedSalt, Ledger, ObjectRef, SignedCheckpoint

_INSERT_ROWS: Final = "INSERT INTO rows(id, actor_id, operator_id, seq, row) VALUES "
_INSERT_LINES: Final = "INSERT INTO journal(seq, line, hash) VALUES "
_INSERT_HEADS: Final = "INSERT INTO heads(id, actor, operator_id, next_seq, hash) VALUES "
_AFTER_HEADS: Final = " ON CONFLICT(id) DO UPDATE SET next_seq = excluded.next_seq, hash = excluded.hash"
_INSERT_READS: Final = "INSERT INTO caps(digest, burned, keep_until, row_id) VALUES "
_AFTER_READS: Final = " ON CONFLICT(digest) DO UPDATE SET burned = burned | excluded.burned, row_id = excluded.row_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a group begins: its time (Unix seconds), the newest ids, the last journal line, the current epoch."""

    at: float
    epoch: int
    sequence: int
    head: bytes
    last_row: int
    last_chain: int


class _Chain(NamedTuple):
    """An actor's audit chain: where its next row goes."""

    chain_id: int
    actor: bytes
    operator_id: int
    next_seq: int
    last: bytes


class _Line(NamedTuple):
    sequence: int
    line: bytes
    digest: bytes


class _Row(NamedTuple):
    row_id: int
    actor_id: int
    operator_id: int
    seq: int
    row: bytes


class _Read(NamedTuple):
    digest: bytes
    burned: int
    keep_until: int
    row_id: int


class _Pending:
    """What waits to be written."""

    __slots__ = ("chains", "lines", "reads", "rows")

    def __init__(self) -> None:
        self.chains: dict[bytes, _Chain] = {}
        self.lines: list[_Line] = []
        self.reads: dict[bytes, _Read] = {}
        self.rows: dict[int, _Row] = {}

    def add(self, other: "_Pending") -> None:
        """Take over what waits in `other`, which came later."""
        self.chains.update(other.chains)
        self.lines += other.lines
        self.reads.update(other.reads)
        self.rows.update(other.rows)


class Tx:
    """What a unit may do inside the transaction of its group. Implements `signer.ledger.Transaction`."""

    __slots__ = (
        "_appended",
        "_conn",
        "_group",
        "_keyring",
        "_last_chain",
        "_last_row",
        "_line",
        "_named",
        "_saved",
        "_unit",
        "_unit_start",
        "at",
        "epoch",
        "last_row_id",
        "ledger",
        "now",
    )

    def __init__(self, conn: sqlite3.Connection, keyring: Keyring, start: Start) -> None:
        self.at = start.at
        """When the file was locked for this group, in Unix seconds with their fraction."""
        self.now = int(start.at)
        """The same in whole seconds, as records hold it."""
        self.epoch = start.epoch
        """The current K3 epoch."""
        self.last_row_id = 0
        """Global id of the row that `append_row` added last."""
        self.ledger: Ledger = _TxLedger(conn, self)
        """Burns and inventory as this unit sees them."""
        self._conn = conn
        self._keyring = keyring
        self._group, self._unit = _Pending(), _Pending()
        self._saved = False
        self._appended: list[bytes] = []
        self._named: list[bytes] = []
        self._line = (start.sequence, start.head)
        self._last_row, self._last_chain = start.last_row, start.last_chain
        self._unit_start = (self._line, self._last_row, self._last_chain)

    @property
    def conn(self) -> sqlite3.Connection:
        """The connection, for tables of other modules: what is done on it is undone with the unit.

        Audit rows, chains, journal lines and caps of this group are not in the file yet; ask `ledger` for those.
        """
        if not self._saved:
            self._conn.execute("SAVEPOINT unit")
            self._saved = True
        return self._conn

    @property
    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last journal line so far."""
        return self._line

    def append_row(self, envelope: AuditEnvelope) -> AuditRow:
        """Append the signed row of `envelope` to its actor's chain; the unit must also write a line that names it.

        Raises:
            KeyServiceError: epoch_not_held, sealed.
        """
        actor = envelope.actor_omni
        chain = self._chain_of(actor, envelope.operator_omni)
        encoded = envelope.encode()
        digest = row_hash(actor, chain.last, chain.next_seq, keccak256(encoded))
        row = AuditRow(
            actor=actor,
            envelope=encoded,
            epoch=self.epoch,
            kid=self._keyring.audit_kid(self.epoch),
            prev=chain.last,
            row_hash=digest,
            seq=chain.next_seq,
            sig=self._keyring.audit_sign(self.epoch, digest),
        )
        self._last_row += 1
        self.last_row_id = self._last_row
        self._unit.rows[self._last_row] = _Row(
            self._last_row, chain.chain_id, chain.operator_id, chain.next_seq, row.encode()
        )
        self._unit.chains[actor] = chain._replace(next_seq=chain.next_seq + 1, last=digest)
        self._appended.append(digest)
        return row

    def journal(self, line: JournalLine) -> None:
        """Append `line` to the hash chain."""
        encoded = line.encode()
        sequence = self._line[0] + 1
        digest = chain_hash(self._line[1], sequence, encoded)
        self._unit.lines.append(_Line(sequence, encoded, digest))
        self._line = (sequence, digest)
        if line.row_hash is not None:
            self._named.append(line.row_hash)

    def begin_unit(self) -> None:
        """A unit begins: `keep_unit` or `drop_unit` ends it."""
        self._unit = _Pending()
        self._appended.clear()
        self._named.clear()
        self._saved = False
        self._unit_start = (self._line, self._last_row, self._last_chain)

    def keep_unit(self) -> None:
        """Make the unit part of the group; every row must be named by one journal line, in order.

        Raises:
            RuntimeError: a row is unrecorded, or a line names another one. The unit is then to be dropped.
        """
        if self._appended != self._named:
            raise RuntimeError("a unit appended audit rows that its journal lines do not name")
        if self._saved:
            self._conn.execute("RELEASE unit")
        self._group.add(self._unit)

    def drop_unit(self) -> None:
        """Undo whatever the unit did."""
        if self._saved:
            self._conn.execute("ROLLBACK TO unit")
            self._conn.execute("RELEASE unit")
        self._line, self._last_row, self._last_chain = self._unit_start

    def write(self) -> None:
        """Write all that waits, one statement a table."""
        group = self._group
        _insert(self._conn, _INSERT_HEADS, group.chains.values(), _AFTER_HEADS)
        _insert(self._conn, _INSERT_ROWS, group.rows.values())
        _insert(self._conn, _INSERT_LINES, group.lines)
        _insert(self._conn, _INSERT_READS, group.reads.values(), _AFTER_READS)

    def count_rows(self, operator: bytes) -> int:
        """How many audit rows all chains of this operator have, with those that are not in the file yet."""
        found = self._conn.execute("SELECT id FROM heads WHERE actor = ?", (operator,)).fetchone()
        waiting = self._unit.chains.get(operator) or self._group.chains.get(operator)
        chain_id = waiting.chain_id if waiting is not None else found[0] if found is not None else None
        query = "SELECT count(*) FROM rows WHERE operator_id = ?"
        written: tuple[int] = self._conn.execute(query, (chain_id,)).fetchone()
        pending = [*self._group.rows.values(), *self._unit.rows.values()]
        return written[0] + sum(row.operator_id == chain_id for row in pending)

    def pending_row(self, row_id: int) -> bytes | None:
        """A row that is not in the file yet."""
        found = self._unit.rows.get(row_id) or self._group.rows.get(row_id)
        return None if found is None else found.row

    def pending_read(self, digest: bytes) -> _Read | None:
        """A repeatable release that is not in the file yet."""
        return self._unit.reads.get(digest) or self._group.reads.get(digest)

    def note_read(self, read: _Read) -> None:
        """Remember a repeatable release."""
        self._unit.reads[read.digest] = read

    def _chain_of(self, actor: bytes, operator: bytes) -> _Chain:
        chain = self._unit.chains.get(actor) or self._group.chains.get(actor)
        if chain is not None:
            return chain
        found = self._conn.execute(
            "SELECT id, operator_id, next_seq, hash FROM heads WHERE actor = ?", (actor,)
        ).fetchone()
        if found is not None:
            chain_id, operator_id, next_seq, last = found
            return _Chain(chain_id, actor, operator_id, next_seq, last)
        parent = None if actor == operator else self._chain_of(operator, operator)
        self._last_chain += 1
        chain_id = self._last_chain
        chain = _Chain(chain_id, actor, chain_id if parent is None else parent.chain_id, 0, NO_ROW)
        self._unit.chains[actor] = chain
        return chain


class _TxLedger(SqlLedger):
    """The ledger of a transaction: sees what waits, and takes a savepoint before the first write of a unit."""

    __slots__ = ("_tx",)

    def __init__(self, conn: sqlite3.Connection, tx: Tx) -> None:
        super().__init__(conn)
        self._tx = tx

    def cap(self, digest: bytes) -> CapRecord | None:
        """What is remembered of a cap digest."""
        known = super().cap(digest)
        read = self._tx.pending_read(digest)
        if read is None:
            return known
        if known is None:
            known = CapRecord(digest=digest, burned=Burn.NONE, keep_until=read.keep_until)
        return replace(known, burned=known.burned | Burn.READ, row_id=read.row_id)

    def row(self, row_id: int) -> bytes:
        """A row as signed: its canonical JSON."""
        return self._tx.pending_row(row_id) or super().row(row_id)

    def note_read(self, digest: bytes, *, row_id: int, keep_until: int) -> None:
        """Remember a release that may be repeated; what else is known of the digest stays."""
        self._tx.note_read(_Read(digest, int(Burn.READ), keep_until, row_id))

    def put_cap(self, record: CapRecord) -> None:
        """Remember `record` in place of whatever was known of its digest."""
        _ = self._tx.conn  # the savepoint
        super().put_cap(record)

    def add_salt(
        self, ref: ObjectRef, *, salt: bytes, epoch: int, store: bytes, expect: bytes | None, rewrap: bool = False
    ) -> None:
        """Open the object's next salt, for the store with this cap digest."""
        _ = self._tx.conn
        super().add_salt(ref, salt=salt, epoch=epoch, store=store, expect=expect, rewrap=rewrap)

    def make_current(self, object_id: int, issued: IssuedSalt) -> None:
        """Make that store the current one, forget every older salt, and count the store as acknowledged."""
        _ = self._tx.conn
        super().make_current(object_id, issued)

    def drop(self, ref: ObjectRef) -> None:
        """Close all salts of the object; it is listed no more, and no legacy envelope ever brings it back."""
        _ = self._tx.conn
        super().drop(ref)

    def put_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        """Keep it in place of the one before."""
        _ = self._tx.conn
        super().put_checkpoint(checkpoint)

    def put_hold(self, ref: ObjectRef, hold: Hold) -> None:
        """Let that cap hold the object, whoever held it before."""
        _ = self._tx.conn
        super().put_hold(ref, hold)

    def end_hold(self, ref: ObjectRef, digest: bytes) -> None:
        """Nothing of that cap's session is under way any more; another cap's hold stays."""
        _ = self._tx.conn
        super().end_hold(ref, digest)


_STATEMENTS: Final[dict[tuple[str, int], str]] = {}


def _insert(conn: sqlite3.Connection, head: str, entries: Iterable[tuple[object, ...]], tail: str = "") -> None:
    """Insert all entries by one statement; its text is kept, so that the connection finds it prepared."""
    rows = tuple(entries)
    if not rows:
        return
    key = (head, len(rows))
    statement = _STATEMENTS.get(key)
    if statement is None:
        place = f"({', '.join('?' * len(rows[0]))})"
        statement = _STATEMENTS[key] = head + ", ".join([place] * len(rows)) + tail
    conn.execute(statement, [value for row in rows for value in row])


__all__ = ["Start", "Tx"]
