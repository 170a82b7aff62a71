"""Audit rows: envelopes in a chain per actor, each signed by the audit key of its epoch (wire.md, Audit)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import orjson

from agentkeys_core.audit_envelope import AuditEnvelope, OpBody, OpKind, OpResult, intent_commitment, kind_name
from agentkeys_core.encoding import (
    b64u_decode,
    b64u_encode,
    fields,
    hex_decode,
    hex_encode,
    parse_canonical,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.shapes import MAX_EPOCH, integer, text

__all__ = [
    "AuditEnvelope",
    "AuditError",
    "AuditRow",
    "ChainFault",
    "ChainHead",
    "ChainReport",
    "OpBody",
    "OpKind",
    "OpResult",
    "RowFault",
    "intent_commitment",
    "kind_name",
    "row_hash",
    "verify_chain",
]

ROW_VERSION: Final = 2
#: Base64 of the largest envelope and 700 bytes around it.
MAX_ROW_BYTES: Final = 64 * 1024
#: What the first row of an actor holds as the hash of the one before.
NO_ROW: Final = bytes(32)
_TAG: Final = b"agentkeys.audit.v2\x00"
_BAD: Final = Reason.INVALID_ENCODING
_NAMES: Final = ("actor", "envelope", "epoch", "kid", "prev", "row_hash", "seq", "sig", "ver")


class RowFault(StrEnum):
    """What is wrong with a row, or with its place in a chain."""

    HASH = "hash"  # row_hash is not the hash of what the row holds
    SIGNATURE = "signature"  # not signed by the key that kid names
    UNKNOWN_KEY = "unknown_key"  # kid is not among the keys given
    ACTOR = "actor"  # of another actor than its envelope or its chain
    GAP = "gap"  # rows are missing before it
    ORDER = "order"  # its sequence number has been passed already
    BREAK = "break"  # it does not hold the hash of the row before


class AuditError(KeyServiceError):
    """A row that proves nothing; `fault` says why."""

    def __init__(self, fault: RowFault, detail: str = "") -> None:
        super().__init__(_BAD, f"audit row: {fault}{detail and f', {detail}'}")
        self.fault = fault


def row_hash(actor: bytes, prev: bytes, seq: int, envelope_hash: bytes) -> bytes:
    """The 32 bytes that the audit key signs (as a message, so hashed once more)."""
    return sha256(_TAG + actor + prev + seq.to_bytes(8, "big") + envelope_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row as signed. `actor`, `prev`, `row_hash`: 32 bytes; `sig`: 64; `kid`: RFC 7638 thumbprint; `seq` from 0."""

    actor: bytes
    envelope: bytes
    epoch: int
    kid: str
    prev: bytes
    row_hash: bytes
    seq: int
    sig: bytes

    def to_json(self) -> dict[str, object]:
        """The object of wire.md."""
        return {
            "actor": hex_encode(self.actor),
            "envelope": b64u_encode(self.envelope),
            "epoch": self.epoch,
            "kid": self.kid,
            "prev": hex_encode(self.prev),
            "row_hash": hex_encode(self.row_hash),
            "seq": self.seq,
            "sig": b64u_encode(self.sig),
            "ver": ROW_VERSION,
        }

    def encode(self) -> bytes:
        """Canonical JSON."""
        return orjson.dumps(self.to_json())  # names in order, ASCII texts, plain integers: the RFC 8785 form already

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical JSON of a row; nothing is verified.

        Raises:
            KeyServiceError: `too_large`, `unknown_fields`, `unsupported_version`, else `invalid_encoding`.
        """
        return cls.from_json(parse_canonical(data, limit=MAX_ROW_BYTES, not_canonical=_BAD))

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a row that stands inside another document; raises as `parse` does."""
        members = fields(obj, required=_NAMES, reason=_BAD)
        if integer(members["ver"], "ver", reason=_BAD) != ROW_VERSION:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "audit row")
        kid = text(members["kid"], "kid", reason=_BAD)
        b64u_decode(kid, length=32, reason=_BAD)
        return cls(
            actor=hex_decode(members["actor"], length=32, reason=_BAD),
            envelope=b64u_decode(members["envelope"], reason=_BAD),
            epoch=integer(members["epoch"], "epoch", low=1, high=MAX_EPOCH, reason=_BAD),
            kid=kid,
            prev=hex_decode(members["prev"], length=32, reason=_BAD),
            row_hash=hex_decode(members["row_hash"], length=32, reason=_BAD),
            seq=integer(members["seq"], "seq", reason=_BAD),
            sig=b64u_decode(members["sig"], length=64, reason=_BAD),
        )

    @property
    def envelope_hash(self) -> bytes:
        """keccak256 of the envelope bytes."""
        return keccak256(self.envelope)

    def content(self) -> AuditEnvelope:
        """What the row says happened; raises as `AuditEnvelope.parse` does."""
        return AuditEnvelope.parse(self.envelope)

    def verify(self, keys: Mapping[str, ES256PublicKey]) -> AuditEnvelope:
        """Return the content of a row that one of `keys` (by kid) signed over exactly these members.

        Raises:
            AuditError: wrong hash, key, signature or actor.
            KeyServiceError: the envelope is malformed.
        """
        if row_hash(self.actor, self.prev, self.seq, self.envelope_hash) != self.row_hash:
            raise AuditError(RowFault.HASH)
        key = keys.get(self.kid)
        if key is None:
            raise AuditError(RowFault.UNKNOWN_KEY)
        if not key.verify(self.row_hash, self.sig):
            raise AuditError(RowFault.SIGNATURE)
        content = self.content()
        if content.actor_omni != self.actor:
            raise AuditError(RowFault.ACTOR)
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """The place after which rows are expected to go on."""

    seq: int
    row_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFault:
    """One finding: `position` counts the rows given from 0, `seq` is what that row claims."""

    position: int
    seq: int
    fault: RowFault | Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """The outcome of `verify_chain`. `head` is the last row seen, None if there was none."""

    count: int
    faults: tuple[ChainFault, ...]
    head: ChainHead | None

    @property
    def ok(self) -> bool:
        """Whether every row given is genuine and in its place.

        Rows cut off at the end show only against a checkpoint or a head known from elsewhere.
        """
        return not self.faults


def verify_chain(
    rows: Iterable[AuditRow], keys: Mapping[str, ES256PublicKey], *, after: ChainHead | None = None
) -> ChainReport:
    """Check rows of one actor, in order, and report every fault by position instead of stopping at the first.

    Args:
        rows: as stored, the first right after `after`.
        keys: the audit keys by kid.
        after: the row before the first given; None if the first must be number 0 of its chain.
    """
    faults: list[ChainFault] = []
    actor: bytes | None = None
    head, count = after, 0
    for position, row in enumerate(rows):
        count += 1
        found = [*_place_faults(row, head), *_own_faults(row, keys)]
        if actor is not None and row.actor != actor and RowFault.ACTOR not in found:
            found.append(RowFault.ACTOR)
        actor = row.actor if actor is None else actor
        faults += [ChainFault(position=position, seq=row.seq, fault=fault) for fault in found]
        head = ChainHead(seq=row.seq, row_hash=row.row_hash)
    return ChainReport(count=count, faults=tuple(faults), head=head)


def _place_faults(row: AuditRow, head: ChainHead | None) -> Iterable[RowFault]:
    expected, prev = (0, NO_ROW) if head is None else (head.seq + 1, head.row_hash)
    if row.seq > expected:
        yield RowFault.GAP  # what the missing rows hash to is unknown, so prev says nothing here
    elif row.seq < expected:
        yield RowFault.ORDER
    elif row.prev != prev:
        yield RowFault.BREAK


def _own_faults(row: AuditRow, keys: Mapping[str, ES256PublicKey]) -> Iterable[RowFault | Reason]:
    try:
        row.verify(keys)
    except AuditError as exc:
        yield exc.fault
    except KeyServiceError as exc:
        yield exc.reason
