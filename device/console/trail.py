"""The audit trail as a page shows it: each row with what was found out about it here, on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentkeys_core.audit_envelope import OpResult, kind_name
from agentkeys_core.errors import KeyServiceError
from device.audit_trail import Export, Verdict
from device.intent import moment


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailRow:
    """One row. `faults` are in words, and empty for a row that is genuine and in its place."""

    seq: int
    when: str
    kind: str
    service: str
    outcome: str
    words: str
    faults: tuple[str, ...]

    def fits(self, kind: str, part: str) -> bool:
        """Whether a filter shows it."""
        return (not kind or self.kind == kind) and part.lower() in f"{self.service} {self.words}".lower()


def trail_rows(export: Export, verdict: Verdict) -> list[TrailRow]:
    """Return all rows, the newest first."""
    faults: dict[int, list[str]] = {}
    for fault in verdict.report.faults:
        faults.setdefault(fault.position, []).append(str(fault.fault).replace("_", " "))
    rows = []
    for position, row in enumerate(export.rows):
        found = tuple(faults.get(position, ()))
        if row.actor != export.actor:
            found += ("another actor's",)
        try:
            content = row.content()
        except KeyServiceError:
            rows.append(
                TrailRow(seq=row.seq, when="", kind="", service="", outcome="", words="", faults=(*found, "unreadable"))
            )
            continue
        rows.append(
            TrailRow(
                seq=row.seq,
                when=moment(content.ts_unix),
                kind=kind_name(content.op_kind),
                service=content.op_body.svc or "",
                outcome=OpResult(content.result).name.lower().replace("_", " "),
                words=content.intent_text or "",
                faults=found,
            )
        )
    return rows[::-1]


def kinds_of(rows: Sequence[TrailRow]) -> list[str]:
    """The kinds that there are, for the filter."""
    return sorted({row.kind for row in rows if row.kind})
