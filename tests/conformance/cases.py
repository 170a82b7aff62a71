"""What a case is, and the list of all cases. A module of `groups` adds its own when it is imported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agentkeys_core.errors import Reason
from tests.conformance.site import Site

#: Runs the steps that lead up to it. A case that expects a refusal returns the one call that must be refused.
Steps = Callable[[Site], Any]


class CaseFailedError(AssertionError):
    """The target does not do what the case asks for; the text says what it did instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One behaviour that every implementation must show.

    `group` is the RPC, `gives` the reason with which the returned call must be refused (None: the steps must pass),
    `needs` names a feature of the manifest. `last` cases leave the target of no use and run at the end, in order.
    """

    group: str
    title: str
    steps: Steps
    gives: Reason | None = None
    needs: str | None = None
    last: bool = False

    @property
    def name(self) -> str:
        """What `--only` matches, e.g. `DeriveCredKek/refuses-a-spent-cap`."""
        return f"{self.group}/{self.title.replace(' ', '-')}"


CASES: Final[dict[str, Case]] = {}


def add(case: Case) -> None:
    """Put a case on the list; two of one name are a mistake of the suite."""
    if case.name in CASES:
        raise ValueError(f"two cases are named {case.name}")
    CASES[case.name] = case


def case(
    group: str, title: str, *, gives: Reason | None = None, needs: str | None = None, last: bool = False
) -> Callable[[Steps], Steps]:
    """Add the decorated steps as a case."""

    def register(steps: Steps) -> Steps:
        add(Case(group=group, title=title, steps=steps, gives=gives, needs=needs, last=last))
        return steps

    return register


def expect(holds: object, told: str) -> None:
    """Fail the case with `told` unless `holds`."""
    if not holds:
        raise CaseFailedError(told)


def equal(found: object, wanted: object, what: str) -> None:
    """Fail the case unless both are equal. Secrets stay out of the text: only lengths of bytes are shown."""
    if found != wanted:
        raise CaseFailedError(f"{what}: {_shown(found)} instead of {_shown(wanted)}")


def _shown(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
