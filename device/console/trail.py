"""The audit trail as a page shows it: each row with what was found out about it here, on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Self

from agentkeys_core.audit_envelope import OpResult, kind_name
from agentkeys_core.errors import KeyServiceError
from device.audit_trail import Export, Verdict
from device.errors import DeviceError, Trouble
from device.intent import moment


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailRow:
    """One row. `faults` are in words, and empty for a row that is genuine and in its place; `at` in Unix seconds."""

    seq: int
    actor: str
    at: int
    kind: str
    service: str
    outcome: str
    words: str
    faults: tuple[str, ...]

    @property
    def when(self) -> str:
        """The time as people read it; empty for a row that cannot be read."""
        return moment(self.at) if self.kind else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows are shown: a kind, a part of service or words, from one day to another (UTC, both included)."""

    kind: str = ""
    part: str = ""
    since: str = ""
    until: str = ""
    earliest: float = 0.0
    latest: float = float("inf")

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Read a query. Raises `usage` for a day that is none."""
        kind, part, since, until = (query.get(name, "") for name in ("kind", "part", "since", "until"))
        return cls(
            kind=kind,
            part=part,
            since=since,
            until=until,
            earliest=_edge(since, time.min) if since else 0.0,
            latest=_edge(until, time.max) if until else float("inf"),
        )

    def fits(self, row: TrailRow) -> bool:
        """Whether a row is shown."""
        if self.kind and row.kind != self.kind:
            return False
        return self.part.lower() in f"{row.service} {row.words}".lower() and self.earliest <= row.at <= self.latest


def _edge(day: str, at: time) -> float:
    try:
        return datetime.combine(date.fromisoformat(day), at, UTC).timestamp()
    except ValueError as exc:
        raise DeviceError(Trouble.USAGE, "a day is written like 2026-01-31") from exc


def trail_rows(export: Export, verdict: Verdict, *, actor: str) -> list[TrailRow]:
    """Return all rows of one actor, whom people know as `actor`."""
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
            nothing = {"at": 0, "kind": "", "service": "", "outcome": "", "words": ""}
            rows.append(TrailRow(seq=row.seq, actor=actor, faults=(*found, "unreadable"), **nothing))  # type: ignore[arg-type]
            continue
        rows.append(
            TrailRow(
                seq=row.seq,
                actor=actor,
                at=content.ts_unix,
                kind=kind_name(content.op_kind),
                service=content.op_body.svc or "",
                outcome=OpResult(content.result).name.lower().replace("_", " "),
                words=content.intent_text or "",
                faults=found,
            )
        )
    return rows


def kinds_of(rows: Sequence[TrailRow]) -> list[str]:
    """The kinds that there are, for the filter."""
    return sorted({row.kind for row in rows if row.kind})
