"""The journal: one hash-chained line for each release, refusal, change and host action, its head under a MAC.

Pure but for the checks at the end, which read a connection that they are given. No line holds a request body, a key or
a signature.
Spec: design section 5 ("Journal and audit are one thing").
"""

import hashlib
import hmac
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import orjson

from agentkeys_core.audit import AuditRow, row_hash
from agentkeys_core.hashes import keccak256

GENESIS: Final = bytes(32)
_LINE_TAG: Final = b"agentkeys.journal.v1\x00"
_HEAD_TAG: Final = b"agentkeys.journal.head.v1\x00"


class JournalTamperedError(Exception):
    """The journal on disk is not the one that this signer wrote. The text names the place; it holds no secret."""


class MacKeys(Protocol):
    """What the journal needs of the keyring: a MAC under a held epoch's K3-derived key."""

    def journal_mac(self, epoch: int, data: bytes) -> bytes:
        """HMAC-SHA256 (32 bytes) of `data` under the journal MAC key of `epoch`; raises epoch_not_held, sealed."""
        ...


class LineKind(StrEnum):
    """What a line records."""

    RELEASE = "release"
    REFUSAL = "refusal"
    HOST = "host"
    CHANGE = "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """One line.

    `at` is in Unix seconds, `caller` names the certificate (or "host"), `cap_digest` and `row_hash` are 32 bytes
    where they apply, `count` is how many equal refusals the line stands for (1 otherwise).
    """

    at: int
    kind: LineKind
    method: str
    caller: str
    cap_digest: bytes | None = None
    reason: str = ""
    count: int = 1
    row_hash: bytes | None = None

    def encode(self) -> bytes:
        """Canonical JSON of the line: the bytes that the chain hashes."""
        return orjson.dumps(  # names in order, texts and small integers: this is the RFC 8785 form already
            {
                "at": self.at,
                "caller": self.caller,
                "cap": None if self.cap_digest is None else self.cap_digest.hex(),
                "count": self.count,
                "kind": self.kind.value,
                "method": self.method,
                "reason": self.reason,
                "row": None if self.row_hash is None else self.row_hash.hex(),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHead:
    """Where the chain ends: `sequence` lines so far, hash of the last (32 bytes), MAC of both under `epoch`."""

    sequence: int
    hash: bytes
    epoch: int
    mac: bytes


def chain_hash(previous: bytes, sequence: int, line: bytes) -> bytes:
    """Hash (32 bytes) of line number `sequence` (from 1), which binds every line before it."""
    return hashlib.sha256(_LINE_TAG + previous + sequence.to_bytes(8, "big") + line).digest()


def head_message(sequence: int, head_hash: bytes) -> bytes:
    """The bytes that the head's MAC covers."""
    return _HEAD_TAG + sequence.to_bytes(8, "big") + head_hash


def sign_head(keys: MacKeys, *, sequence: int, head_hash: bytes, epoch: int) -> JournalHead:
    """The head, MACed under `epoch`. Raises epoch_not_held, sealed."""
    mac = keys.journal_mac(epoch, head_message(sequence, head_hash))
    return JournalHead(sequence=sequence, hash=head_hash, epoch=epoch, mac=mac)


def verify_head(head: JournalHead, keys: MacKeys) -> None:
    """Return when the head's MAC is ours, else raise `JournalTamperedError`."""
    expected = keys.journal_mac(head.epoch, head_message(head.sequence, head.hash))
    if not hmac.compare_digest(expected, head.mac):
        raise JournalTamperedError(f"the MAC of the journal's head (line {head.sequence}) is not this signer's")


def read_head(conn: sqlite3.Connection) -> JournalHead:
    """The stored head. Raises `JournalTamperedError` when there is none."""
    found = conn.execute("SELECT seq, hash, epoch, mac FROM journal_head WHERE id = 1").fetchone()
    if found is None:
        raise JournalTamperedError("the journal has no head")
    sequence, head_hash, epoch, mac = found
    return JournalHead(sequence=sequence, hash=head_hash, epoch=epoch, mac=mac)


def check_head(conn: sqlite3.Connection, keys: MacKeys) -> JournalHead:
    """The stored head, after its MAC and the last line were checked against it. Cheap: done at every start."""
    head = read_head(conn)
    verify_head(head, keys)
    last = conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    if last != (head.sequence, head.hash):
        raise JournalTamperedError("the last journal line is not the one that the head names")
    return head


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReport:
    """What a full replay found in order."""

    lines: int
    rows: int
    head: JournalHead


def verify_journal(conn: sqlite3.Connection, keys: MacKeys) -> JournalReport:
    """Replay the whole journal and every audit chain; each row must be named by exactly one line, in order.

    Raises `JournalTamperedError`, which names the first place that does not fit. Signatures of rows are the
    business of whoever holds the audit public keys; a row's hash is what the journal fixes. A signer may be writing
    meanwhile: the replay reads one snapshot.
    """
    conn.execute("BEGIN")
    try:
        return _replay(conn, keys)
    finally:
        conn.execute("ROLLBACK")


def _replay(conn: sqlite3.Connection, keys: MacKeys) -> JournalReport:
    head = check_head(conn, keys)
    previous, count = GENESIS, 0
    rows = _row_hashes(conn)
    rows_seen = 0
    for sequence, line, stored, named in conn.execute(
        "SELECT seq, line, hash, json_extract(CAST(line AS TEXT), '$.row') FROM journal ORDER BY seq"
    ):
        count += 1
        previous = chain_hash(previous, count, line)
        if sequence != count or previous != stored:
            raise JournalTamperedError(f"the journal's chain breaks at line {count}")
        if named is not None:
            rows_seen += 1
            if next(rows, None) != bytes.fromhex(named):
                raise JournalTamperedError(f"line {count} names an audit row that is not row {rows_seen}")
    if next(rows, None) is not None:
        raise JournalTamperedError(f"audit row {rows_seen + 1} is named by no line")
    if (count, previous) != (head.sequence, head.hash):
        raise JournalTamperedError("the journal does not end at its head")
    return JournalReport(lines=count, rows=rows_seen, head=head)


def _row_hashes(conn: sqlite3.Connection) -> Iterator[bytes]:
    """Hash of every audit row in the order of writing, each recomputed and chained to its actor's last one."""
    heads: dict[bytes, tuple[int, bytes]] = {}
    for number, data in conn.execute("SELECT id, row FROM rows ORDER BY id"):
        row = AuditRow.parse(data)
        sequence, previous = heads.get(row.actor, (0, GENESIS))
        if row.seq != sequence or row.prev != previous:
            raise JournalTamperedError(f"audit row {number} does not follow the last row of its actor")
        if row_hash(row.actor, row.prev, row.seq, keccak256(row.envelope)) != row.row_hash:
            raise JournalTamperedError(f"the hash of audit row {number} is not that of its content")
        heads[row.actor] = (sequence + 1, row.row_hash)
        yield row.row_hash
