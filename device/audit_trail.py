"""The device's own audit chain: fetched, written to a file, and verified without any server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.audit import AuditRow, ChainFault, ChainHead, ChainReport, verify_chain
from agentkeys_core.bodies import AuditAnswer, AuditListBody
from agentkeys_core.encoding import canonical_json, fields, hex_decode, hex_encode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import AUDIT_OWN, AUDIT_TREE, Op, Service
from agentkeys_core.shapes import integer, sequence
from device.client import ask
from device.errors import DeviceError, Trouble
from device.identity import remember
from device.learn import actor_of
from device.paging import paged
from device.session import Device

#: Rows are about 1 KiB; a page stays far below the size of an answer.
PAGE: Final = 500
MAX_EXPORT_BYTES: Final = 512 * 1024 * 1024
_VERSION: Final = 1
_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One actor's rows from the first on, as a file holds them.

    It carries no keys: whoever verifies it brings his own.
    """

    actor: bytes
    rows: tuple[AuditRow, ...]
    exported_at: int  # Unix seconds, by the device's clock

    def encode(self) -> bytes:
        """Canonical JSON."""
        rows = [row.to_json() for row in self.rows]
        return canonical_json(
            {"actor": hex_encode(self.actor), "exported_at": self.exported_at, "rows": rows, "ver": _VERSION}
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an export. Raises `bad_file`."""
        try:
            names = ("actor", "exported_at", "rows", "ver")
            members = fields(strict_json(data, limit=MAX_EXPORT_BYTES, reason=_BAD), required=names, reason=_BAD)
            integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
            return cls(
                actor=hex_decode(members["actor"], length=32),
                rows=tuple(AuditRow.from_json(row) for row in sequence(members["rows"], "rows", reason=_BAD)),
                exported_at=integer(members["exported_at"], "exported_at", reason=_BAD),
            )
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"not an audit export: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an export proves.

    `missing` is true where a row that this device has seen before is not in it, or is another one.
    """

    report: ChainReport
    missing: bool

    @property
    def ok(self) -> bool:
        """Whether every row is genuine, in its place, and nothing known is left out."""
        return self.report.ok and not self.missing

    def lines(self) -> list[str]:
        """The findings for people."""
        found = [f"row {fault.position} (sequence {fault.seq}): {_words(fault)}" for fault in self.report.faults]
        if self.missing:
            found.append("the end is missing or differs: this device has seen a row that is not in the export")
        return found


def _words(fault: ChainFault) -> str:
    return str(fault.fault).replace("_", " ")


def verify_export(export: Export, keys: Mapping[str, ES256PublicKey], *, seen: ChainHead | None) -> Verdict:
    """Check chain, sequence, signatures, that all rows are of one actor, and that the last row seen is there."""
    report = verify_chain(export.rows, keys)
    missing = any(row.actor != export.actor for row in export.rows)
    if seen is not None:
        missing |= not any(row.seq == seen.seq and row.row_hash == seen.row_hash for row in export.rows)
    return Verdict(report=report, missing=missing)


def fetch_rows(device: Device, service: str = AUDIT_OWN) -> tuple[AuditRow, ...]:
    """Return all rows of this device's actor, or with `audit:tree` of all actors of its operator, unverified.

    Raises:
        DeviceError: `answer_not_trusted` for pages that do not go forward, or hold more than an export may;
            otherwise as `ask`.
    """
    rows: list[AuditRow] = []
    size = 0

    def page(after: int | None) -> tuple[Sequence[AuditRow], int | None]:
        nonlocal size
        body = AuditListBody(after=after, limit=PAGE).encode()
        answer = ask(device, Op.AUDIT_LIST, Service.parse(service, Op.AUDIT_LIST), body).plaintext or b""
        size += len(answer)
        if size > MAX_EXPORT_BYTES:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the audit rows have more than {MAX_EXPORT_BYTES} bytes")
        try:
            found = AuditAnswer.parse(answer)
        except KeyServiceError as exc:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"audit rows: {exc}") from exc
        return found.rows, found.next

    for found in paged(page, limit=PAGE):
        rows += found
    return tuple(rows)


def export_own(device: Device) -> tuple[Export, Verdict]:
    """Fetch this actor's rows, verify them at once, and remember the last one where all are right."""
    actor = actor_of(device)
    rows = fetch_rows(device)
    export = Export(actor=actor, rows=rows, exported_at=device.now())
    keys = device.keys.all_for(*rows)
    verdict = verify_export(export, keys, seen=device.memory.heads.get(actor))
    if rows and verdict.ok:
        remember(device.home, rows[-1])  # an export that lacks it later was cut short
    return export, verdict


def export_tree(device: Device) -> list[tuple[Export, Verdict]]:
    """Fetch the rows of all actors of this operator and verify each actor's chain for itself; our own comes first.

    What this device has seen before is known of its own chain alone: the end of another's may be missing unnoticed.
    Whether rows are of this operator's actors the pages of the tree do not say; whoever shows them names the actors.
    """
    own = actor_of(device)
    chains: dict[bytes, list[AuditRow]] = {own: []}
    for row in fetch_rows(device, AUDIT_TREE):
        chains.setdefault(row.actor, []).append(row)
    found = []
    for actor, rows in chains.items():
        export = Export(actor=actor, rows=tuple(rows), exported_at=device.now())
        seen = device.memory.heads.get(actor)
        found.append((export, verify_export(export, device.keys.all_for(*rows), seen=seen)))
    return found
