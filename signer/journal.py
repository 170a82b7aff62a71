"""The journal: one hash-chained line for each release, refusal, change and host action, its head under a MAC.

Pure but for the checks at the end, which read a connection that they are given. No line holds a request body, a key or
a signature.
Spec: design section 5 ("Journal and audit are one thing").
"""

import hashlib
import hmac
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import orjson

from agentkeys_core.audit import AuditError, AuditRow
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import ES256PublicKey

GENESIS: Final = bytes(32)
_LINE_TAG: Final = b"agentkeys.journal.v1\x00"
_HEAD_TAG: Final = b"agentkeys.journal.head.v1\x00"
_STREAM_TAG: Final = b"agentkeys.journal.stream.v1\x00"


class JournalTamperedError(Exception):
    """The journal on disk is not the one that this signer wrote. The text names the place; it holds no secret.

    `line` is the number of the first journal line that does not fit, `row` that of the first audit row, where the
    fault lies in one.
    """

    def __init__(self, detail: str, *, line: int | None = None, row: int | None = None) -> None:
        super().__init__(detail)
        self.line = line
        self.row = row


class MacKeys(Protocol):
    """What the journal's head needs of the keyring: a MAC under a held epoch's K3-derived key."""

    def journal_mac(self, epoch: int, data: bytes) -> bytes:
        """HMAC-SHA256 (32 bytes) of `data` under the journal MAC key of `epoch`; raises epoch_not_held, sealed."""
        ...


class ReplayKeys(MacKeys, Protocol):
    """What a full replay needs beside it: who may have signed audit rows."""

    def audit_keys(self) -> Mapping[str, ES256PublicKey]:
        """The public audit key of each held epoch, by kid; raises sealed."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead(JournalHead):
    """A head as clients keep and echo it; its MAC covers registry and incarnation as well."""

    incarnation: int


def chain_hash(previous: bytes, sequence: int, line: bytes) -> bytes:
    """Hash (32 bytes) of line number `sequence` (from 1), which binds every line before it."""
    return hashlib.sha256(_LINE_TAG + previous + sequence.to_bytes(8, "big") + line).digest()


def head_message(sequence: int, head_hash: bytes) -> bytes:
    """The bytes that the head's MAC covers."""
    return _HEAD_TAG + sequence.to_bytes(8, "big") + head_hash


def stream_message(registry_id: str, *, incarnation: int, sequence: int, head_hash: bytes) -> bytes:
    """The bytes under the MAC of a head that clients keep."""
    place = incarnation.to_bytes(8, "big") + sequence.to_bytes(8, "big")
    return _STREAM_TAG + sha256(registry_id.encode()) + place + head_hash


def sign_head(keys: MacKeys, *, sequence: int, head_hash: bytes, epoch: int) -> JournalHead:
    """The head, MACed under `epoch`. Raises epoch_not_held, sealed."""
    mac = keys.journal_mac(epoch, head_message(sequence, head_hash))
    return JournalHead(sequence=sequence, hash=head_hash, epoch=epoch, mac=mac)


def verify_head(head: JournalHead, keys: MacKeys) -> None:
    """Return when the head's MAC is ours, else raise `JournalTamperedError`."""
    try:
        expected = keys.journal_mac(head.epoch, head_message(head.sequence, head.hash))
        ours = hmac.compare_digest(expected, head.mac)
    except (TypeError, OverflowError) as exc:  # of a file that was not written by us
        raise JournalTamperedError("the journal's head is malformed") from exc
    if not ours:
        detail = f"the MAC of the journal's head (line {head.sequence}) is not this signer's"
        raise JournalTamperedError(detail, line=head.sequence)


def read_head(conn: sqlite3.Connection) -> JournalHead:
    """The stored head. Raises `JournalTamperedError` when there is none."""
    found = conn.execute("SELECT seq, hash, epoch, mac FROM journal_head WHERE id = 1").fetchone()
    if found is None:
        raise JournalTamperedError("the journal has no head")
    sequence, head_hash, epoch, mac = found
    return JournalHead(sequence=sequence, hash=head_hash, epoch=epoch, mac=mac)


def read_line_hash(conn: sqlite3.Connection, sequence: int) -> bytes | None:
    """The chain's hash at that line; None where there is no such line."""
    found: tuple[bytes] | None = conn.execute("SELECT hash FROM journal WHERE seq = ?", (sequence,)).fetchone()
    return None if found is None else found[0]


def check_head(conn: sqlite3.Connection, keys: MacKeys) -> JournalHead:
    """The stored head, after its MAC and the last line were checked against it. Cheap: done at every start."""
    head = read_head(conn)
    verify_head(head, keys)
    last = conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    if last != (head.sequence, head.hash):
        line = 1 if last is None else min(last[0] + 1, head.sequence)
        raise JournalTamperedError("the last journal line is not the one that the head names", line=line)
    return head


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReport:
    """What a full replay found in order."""

    lines: int
    rows: int
    head: JournalHead


def verify_journal(
    conn: sqlite3.Connection, keys: ReplayKeys, *, known: tuple[int, bytes] | None = None
) -> JournalReport:
    """Replay the whole journal and every audit chain; each row must be named by exactly one line, in order, and signed.

    `known` is the number and hash of a line that is known from elsewhere: without one, a journal that was cut and whose
    head was put back with it looks like any older journal. A signer may be writing meanwhile: one snapshot is read.

    Raises:
        JournalTamperedError: names the first place that does not fit.
        KeyServiceError: epoch_not_held for a head of an epoch that the vault does not hold; sealed.
    """
    conn.execute("BEGIN")
    try:
        return _replay(conn, keys, known)
    finally:
        conn.execute("ROLLBACK")


def _replay(conn: sqlite3.Connection, keys: ReplayKeys, known: tuple[int, bytes] | None) -> JournalReport:
    head = read_head(conn)
    previous, count, rows_seen = GENESIS, 0, 0
    rows = _row_hashes(conn, keys.audit_keys())
    for sequence, line, stored in conn.execute("SELECT seq, line, hash FROM journal ORDER BY seq"):
        count += 1
        if sequence != count or not isinstance(line, bytes):
            raise JournalTamperedError(f"journal line {count} is missing", line=count)
        previous = chain_hash(previous, count, line)
        if previous != stored:
            raise JournalTamperedError(f"the journal's chain breaks at line {count}", line=count)
        if known is not None and known[0] == count and known[1] != previous:
            raise JournalTamperedError(f"line {count} is not the line that is known under this number", line=count)
        named = orjson.loads(line)["row"]
        if named is not None:
            rows_seen += 1
            if next(rows, None) != bytes.fromhex(named):
                detail = f"line {count} names an audit row that is not row {rows_seen}"
                raise JournalTamperedError(detail, line=count, row=rows_seen)
    if (count, previous) != (head.sequence, head.hash):
        missing = min(count, head.sequence) + 1
        raise JournalTamperedError(f"the journal does not end at its head, line {head.sequence}", line=missing)
    if next(rows, None) is not None:
        raise JournalTamperedError(f"audit row {rows_seen + 1} is named by no line", row=rows_seen + 1)
    verify_head(head, keys)
    if known is not None and known[0] > count:
        raise JournalTamperedError(f"line {count + 1} is missing: line {known[0]} was known", line=count + 1)
    return JournalReport(lines=count, rows=rows_seen, head=head)


def _row_hashes(conn: sqlite3.Connection, keys: Mapping[str, ES256PublicKey]) -> Iterator[bytes]:
    """Hash of every audit row in the order of writing, each verified and chained to its actor's last one."""
    heads: dict[bytes, tuple[int, bytes]] = {}
    for number, (stored, data) in enumerate(conn.execute("SELECT id, row FROM rows ORDER BY id"), start=1):
        if stored != number:
            raise JournalTamperedError(f"audit row {number} is missing", row=number)
        try:
            row = AuditRow.parse(data)
            row.verify(keys)
        except AuditError as exc:
            raise JournalTamperedError(f"audit row {number} proves nothing: {exc.fault}", row=number) from exc
        except (KeyServiceError, TypeError) as exc:
            raise JournalTamperedError(f"audit row {number} is malformed", row=number) from exc
        sequence, previous = heads.get(row.actor, (0, GENESIS))
        if row.seq != sequence or row.prev != previous:
            raise JournalTamperedError(f"audit row {number} does not follow the last row of its actor", row=number)
        heads[row.actor] = (sequence + 1, row.row_hash)
        yield row.row_hash
