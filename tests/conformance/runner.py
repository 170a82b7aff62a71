"""Runs cases against a target and says how each ended."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc

from tests.conformance import refusals
from tests.conformance.cases import CASES, Case, CaseFailedError
from tests.conformance.site import Site


class Outcome(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of one case; `detail` says why it failed or was skipped."""

    case: Case
    outcome: Outcome
    detail: str = ""


def selected(only: Sequence[str] = ()) -> list[Case]:
    """The cases whose name matches one of the patterns (`*` is a wildcard, plain text matches anywhere); all by default."""
    found = [case for case in CASES.values() if not only or any(_matches(case.name, pattern) for pattern in only)]
    return sorted(found, key=lambda case: case.last)  # stable: otherwise in the order of the modules


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern if "*" in pattern else f"*{pattern}*")


def run(site: Site, cases: Iterable[Case], tell: Callable[[Verdict], None] = lambda _: None) -> list[Verdict]:
    """Run each case on its own: one that fails does not keep the next from running."""
    verdicts = []
    for case in cases:
        verdict = judge(site, case)
        tell(verdict)
        verdicts.append(verdict)
    return verdicts


def judge(site: Site, case: Case) -> Verdict:
    """How this case ends on this target."""
    if case.needs is not None and not site.manifest.has(case.needs):
        return Verdict(case=case, outcome=Outcome.SKIPPED, detail=f"the manifest has no {case.needs}")
    try:
        _try(site, case)
    except grpc.RpcError as error:
        return Verdict(case=case, outcome=Outcome.FAILED, detail=f"a step was refused: {refusals.read(error)}")
    except CaseFailedError as error:
        return Verdict(case=case, outcome=Outcome.FAILED, detail=str(error))
    except Exception as error:  # whatever a malformed answer makes the parsers raise
        return Verdict(case=case, outcome=Outcome.FAILED, detail=f"an answer cannot be read: {error!r}")
    return Verdict(case=case, outcome=Outcome.PASSED)


def _try(site: Site, case: Case) -> None:
    returned = case.steps(site)
    if case.gives is None:
        return
    if not callable(returned):
        raise CaseFailedError("the case names no call to be refused")
    told = refusals.complaint(refusals.refusal_of(returned), case.gives)
    if told is not None:
        raise CaseFailedError(told)
