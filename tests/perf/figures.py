"""The figures of design section 11: what each means, what it should reach, and how they are shown. Nothing is asserted."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. `reach` is an upper bound unless `at_least`; None where the figure is only reported."""

    key: str
    meaning: str
    reach: float | None = None
    at_least: bool = False

    def met(self, value: float | None) -> bool | None:
        """Whether `value` reaches what it should; None where nothing is to be reached, or nothing was measured."""
        if value is None or self.reach is None:
            return None
        return value >= self.reach if self.at_least else value <= self.reach

    @property
    def bound(self) -> str:
        """What to reach, as text."""
        return "reported" if self.reach is None else f"{'>=' if self.at_least else '<='} {self.reach:g}"


FIGURES: Final = (
    Figure(key="noop_cpu_us", meaning="server CPU per no-op mTLS unary RPC, concurrency 16"),
    Figure(key="verify_k10_vs_noop", meaning="VerifyK10Sig / floor", reach=1.4),
    Figure(key="derive_cred_kek_vs_noop", meaning="DeriveCredKek, every check, row and journal / floor", reach=2.8),
    Figure(key="sign_audit_row_vs_noop", meaning="SignAuditRow, journalled / floor", reach=2.8),
    Figure(
        key="verify_k10_batch_vs_libsecp",
        meaning="items per CPU second in batches of 64 / bare libsecp256k1",
        reach=0.7,
        at_least=True,
    ),
    Figure(key="derive_batch_vs_single", meaning="CPU per item of a batch of 64 / single", reach=0.4),
    Figure(key="gathering_cpu", meaning="signer CPU per stored credential, worker gathering / each call alone"),
    Figure(key="overhead_us", meaning="(DeriveCredKek - no-op) - the same checks in process", reach=100),
    Figure(key="two_process_cpu", meaning="server CPU per DeriveCredKek, 2 processes / 1", reach=1.15),
    Figure(key="cold_start_s", meaning="signer start to first answer", reach=1.5),
    Figure(key="rss_mib", meaning="resident memory of one process, after load", reach=90),
    Figure(key="revocation_ms", meaning="revoke to first refusal in every process, under load", reach=1000),
    Figure(key="cost_growth", meaning="CPU per DeriveCredKek, large registry and inventory / small", reach=1.1),
)
KEYS: Final = tuple(figure.key for figure in FIGURES)


@dataclass(slots=True)
class Results:
    """What one run found: a value for each key that was measured, notes, and every sample behind them."""

    values: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def sample(self, name: str, value: float) -> None:
        """Keep one measurement."""
        self.samples.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """The middle of what was measured under this name."""
        return statistics.median(self.samples[name])

    def ratio(self, name: str, floor: str) -> float:
        """The middle of the ratios round by round: what disturbs the machine disturbs both sides of a round."""
        pairs = zip(self.samples[name], self.samples[floor], strict=True)
        return statistics.median(above / below for above, below in pairs)


def as_json(results: Results, *, about: Mapping[str, object]) -> dict[str, object]:
    """The document of build/bench.json."""
    figures: dict[str, object] = {}
    for figure in FIGURES:
        value = results.values.get(figure.key)
        figures[figure.key] = {
            "meaning": figure.meaning,
            "met": figure.met(value),
            "note": results.notes.get(figure.key),
            "reach": figure.bound,
            "value": None if value is None else round(value, 3),
        }
    samples = {name: [round(value, 3) for value in values] for name, values in sorted(results.samples.items())}
    return {"about": dict(about), "figures": figures, "samples": samples}


def write(path: Path, document: Mapping[str, object]) -> None:
    """Write the document, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def table(results: Results, keys: Sequence[str]) -> str:
    """The figures as lines of text: key, value, what to reach, whether it does."""
    lines = [f"{'figure':<28} {'value':>9}  {'reach':<9} {'met':<4} meaning"]
    for figure in FIGURES:
        if figure.key not in keys:
            continue
        value = results.values.get(figure.key)
        shown = "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        met = {True: "yes", False: "NO", None: ""}[figure.met(value)]
        note = results.notes.get(figure.key)
        meaning = f"{figure.meaning} ({note})" if note else figure.meaning
        lines.append(f"{figure.key:<28} {shown:>9}  {figure.bound:<9} {met:<4} {meaning}")
    return "\n".join(lines)
