"""The ledger in SQL. Every statement is a constant with parameters, so that the connection keeps it prepared."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentkeys_core.hashes import sha256
from agentkeys_core.ops import ObjectClass
from signer.holds import Hold
from signer.ledger import Burn, CapRecord, IssuedSalt, ObjectRef, SignedCheckpoint, StoredName, Versions

_CAP_COLUMNS: Final = "digest, burned, keep_until, row_id, salt, expect, outcome, outcome_row_id"
_SUCCESS: Final = 0


class SqlLedger:
    """Implements `signer.ledger.Ledger` on one connection, inside whatever transaction that is in."""

    __slots__ = ("_conn",)

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def cap(self, digest: bytes) -> CapRecord | None:
        """What is remembered of a cap digest."""
        found = self._conn.execute(
            f"SELECT {_CAP_COLUMNS} FROM caps WHERE digest = ?",  # noqa: S608  # a constant of this module
            (digest,),
        ).fetchone()
        if found is None:
            return None
        digest, burned, keep_until, row_id, salt, expect, outcome, outcome_row_id = found
        return CapRecord(
            digest=digest,
            burned=Burn(burned),
            keep_until=keep_until,
            row_id=row_id,
            salt=salt,
            expect=expect,
            outcome=outcome,
            outcome_row_id=outcome_row_id,
        )

    def put_cap(self, record: CapRecord) -> None:
        """Remember `record` in place of whatever was known of its digest."""
        self._conn.execute(
            f"INSERT OR REPLACE INTO caps({_CAP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                record.digest,
                int(record.burned),
                record.keep_until,
                record.row_id,
                record.salt,
                record.expect,
                record.outcome,
                record.outcome_row_id,
            ),
        )

    def note_read(self, digest: bytes, *, row_id: int, keep_until: int) -> None:
        """Remember a release that may be repeated; what else is known of the digest stays."""
        self._conn.execute(
            "INSERT INTO caps(digest, burned, keep_until, row_id) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT(digest) DO UPDATE SET burned = burned | ?2, row_id = ?4",
            (digest, int(Burn.READ), keep_until, row_id),
        )

    def versions(self, ref: ObjectRef) -> Versions | None:
        """The object's versions; None where no salt of it is open."""
        found = self._conn.execute(
            "SELECT id, issued, current, store FROM objects WHERE owner = ? AND class = ? AND service = ?",
            (ref.owner, int(ref.object_class), ref.service),
        ).fetchone()
        if found is None:
            return None
        object_id, issued, current, store = found
        return Versions(object_id=object_id, issued=issued, current=current, store=store)

    def version(self, ref: ObjectRef, salt: bytes) -> tuple[Versions | None, IssuedSalt | None]:
        """The object's versions, and the open salt with these bytes if it was issued for that very object."""
        found = self._conn.execute(
            "SELECT o.id, o.issued, o.current, o.store, s.number, s.epoch, s.store, s.expect, s.rewrap"
            " FROM objects AS o"
            " LEFT JOIN salts AS s ON s.object_id = o.id AND s.salt = ?"
            " WHERE o.owner = ? AND o.class = ? AND o.service = ?",
            (salt, ref.owner, int(ref.object_class), ref.service),
        ).fetchone()
        if found is None:
            return None, None
        object_id, issued, current, store, number, epoch, store_of_salt, expect, rewrap = found
        versions = Versions(object_id=object_id, issued=issued, current=current, store=store)
        if number is None:
            return versions, None
        return versions, IssuedSalt(number=number, epoch=epoch, store=store_of_salt, expect=expect, rewrap=bool(rewrap))

    def add_salt(
        self, ref: ObjectRef, *, salt: bytes, epoch: int, store: bytes, expect: bytes | None, rewrap: bool = False
    ) -> None:
        """Open the object's next salt, for the store with this cap digest."""
        found: tuple[int, int] = self._conn.execute(
            "INSERT INTO objects(owner, class, service, issued) VALUES (?, ?, ?, 1)"
            " ON CONFLICT(owner, class, service) DO UPDATE SET issued = issued + 1 RETURNING id, issued",
            (ref.owner, int(ref.object_class), ref.service),
        ).fetchone()
        object_id, number = found
        self._conn.execute(
            "INSERT INTO salts(object_id, salt, number, epoch, store, expect, rewrap) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (object_id, salt, number, epoch, store, expect, rewrap),
        )

    def make_current(self, object_id: int, issued: IssuedSalt) -> None:
        """Make that store the current one, forget every older salt, and count the store as acknowledged."""
        self._conn.execute(
            "UPDATE objects SET current = ?, store = ? WHERE id = ?", (issued.number, issued.store, object_id)
        )
        self._conn.execute("DELETE FROM salts WHERE object_id = ? AND number < ?", (object_id, issued.number))
        self._conn.execute(
            "UPDATE caps SET outcome = ?, outcome_row_id = row_id WHERE digest = ? AND outcome IS NULL",
            (_SUCCESS, issued.store),
        )

    def drop(self, ref: ObjectRef) -> None:
        """Close all salts of the object; it is listed no more, and no legacy envelope ever brings it back."""
        self._conn.execute("INSERT OR IGNORE INTO dropped(name) VALUES (?)", (_name_of(ref),))
        found = self._conn.execute(
            "DELETE FROM objects WHERE owner = ? AND class = ? AND service = ? RETURNING id",
            (ref.owner, int(ref.object_class), ref.service),
        ).fetchone()
        if found is not None:
            self._conn.execute("DELETE FROM salts WHERE object_id = ?", found)

    def was_dropped(self, ref: ObjectRef) -> bool:
        """Whether the object was deleted at any time."""
        found = self._conn.execute("SELECT 1 FROM dropped WHERE name = ?", (_name_of(ref),)).fetchone()
        return found is not None

    def salts_by_epoch(self) -> Mapping[int, int]:
        """How many open salts still name each epoch."""
        return dict(self._conn.execute("SELECT epoch, count(*) FROM salts GROUP BY epoch ORDER BY epoch").fetchall())

    def row_count(self) -> int:
        """How many rows there are in all chains."""
        found: tuple[int | None] = self._conn.execute("SELECT max(id) FROM rows").fetchone()
        return found[0] or 0

    def row_hashes(self, *, after: int, limit: int) -> Iterator[bytes]:
        """Hashes of rows of all chains in the order of writing, after the first `after`."""
        rows = self._conn.execute(
            "SELECT json_extract(CAST(row AS TEXT), '$.row_hash') FROM rows WHERE id > ? ORDER BY id LIMIT ?",
            (after, limit),
        )
        return (bytes.fromhex(found) for (found,) in rows)

    def checkpoint(self) -> SignedCheckpoint | None:
        """The last checkpoint that was signed."""
        found = self._conn.execute("SELECT size, root, peaks, note FROM checkpoint").fetchone()
        if found is None:
            return None
        size, root, peaks, note = found
        return SignedCheckpoint(size=size, root=root, peaks=peaks, note=note)

    def put_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        """Keep it in place of the one before."""
        self._conn.execute(
            "INSERT OR REPLACE INTO checkpoint(id, size, root, peaks, note) VALUES (1, ?, ?, ?, ?)",
            (checkpoint.size, checkpoint.root, checkpoint.peaks, checkpoint.note),
        )

    def operator_of(self, actor: bytes) -> bytes | None:
        """The operator of an actor that has an audit chain, None for any other."""
        found = self._conn.execute(
            "SELECT actor FROM heads WHERE id = (SELECT operator_id FROM heads WHERE actor = ?)", (actor,)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def hold(self, ref: ObjectRef) -> Hold | None:
        """The last hold of the object, over or not; None where it was ended."""
        found = self._conn.execute(
            "SELECT digest, until FROM holds WHERE owner = ? AND class = ? AND service = ?",
            (ref.owner, int(ref.object_class), ref.service),
        ).fetchone()
        return None if found is None else Hold(digest=found[0], until=found[1])

    def put_hold(self, ref: ObjectRef, hold: Hold) -> None:
        """Let that cap hold the object, whoever held it before."""
        self._conn.execute(
            "INSERT OR REPLACE INTO holds(owner, class, service, digest, until) VALUES (?, ?, ?, ?, ?)",
            (ref.owner, int(ref.object_class), ref.service, hold.digest, hold.until),
        )

    def end_hold(self, ref: ObjectRef, digest: bytes) -> None:
        """Nothing of that cap's session is under way any more; another cap's hold stays."""
        self._conn.execute(
            "DELETE FROM holds WHERE owner = ? AND class = ? AND service = ? AND digest = ?",
            (ref.owner, int(ref.object_class), ref.service, digest),
        )

    def names(self, owner: bytes, object_class: ObjectClass, *, after: str, limit: int) -> Sequence[StoredName]:
        """Services with a current store, in order, after the service `after`."""
        found = self._conn.execute(
            "SELECT service, store FROM objects"
            " WHERE owner = ? AND class = ? AND service > ? AND store IS NOT NULL ORDER BY service LIMIT ?",
            (owner, int(object_class), after, limit),
        )
        return [StoredName(service=service, store=store) for service, store in found]

    def named(self, owner: bytes, object_class: ObjectClass, services: Sequence[str]) -> Iterator[StoredName]:
        """Those of `services` that have a current store, in the order given."""
        for service in services:
            known = self.versions(ObjectRef(owner=owner, object_class=object_class, service=service))
            if known is not None and known.store is not None:
                yield StoredName(service=service, store=known.store)

    def rows_of_actor(self, actor: bytes, *, after: int | None, limit: int) -> Iterator[tuple[int, bytes]]:
        """(sequence, row) of one actor's chain, after a sequence."""
        return self._conn.execute(
            "SELECT seq, row FROM rows WHERE actor_id = (SELECT id FROM heads WHERE actor = ?) AND seq > ?"
            " ORDER BY seq LIMIT ?",
            (actor, -1 if after is None else after, limit),
        )

    def rows_of_operator(self, operator: bytes, *, after: int | None, limit: int) -> Iterator[tuple[int, bytes]]:
        """(global row id, row) of all chains of one operator, after an id."""
        return self._conn.execute(
            "SELECT id, row FROM rows WHERE operator_id = (SELECT id FROM heads WHERE actor = ?) AND id > ?"
            " ORDER BY id LIMIT ?",
            (operator, -1 if after is None else after, limit),
        )

    def row(self, row_id: int) -> bytes:
        """A row as signed: its canonical JSON."""
        found: tuple[bytes] = self._conn.execute("SELECT row FROM rows WHERE id = ?", (row_id,)).fetchone()
        return found[0]


def _name_of(ref: ObjectRef) -> bytes:
    return sha256(bytes((ref.object_class,)) + ref.owner + ref.service.encode())
