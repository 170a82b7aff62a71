"""Each reason that these parts can give is asked for by name in at least one test."""

from pathlib import Path

import pytest

from agentkeys_core.errors import Reason

TESTS = Path(__file__).resolve().parents[1]
#: Given by RPCs that answer `not_implemented` today.
LATER = {
    Reason.WINDOW_CLOSED: "Rewrap",
}


def said() -> str:
    own = Path(__file__)
    return "\n".join(path.read_text() for path in TESTS.rglob("test_*.py") if path != own)


@pytest.fixture(scope="module")
def tests_say() -> str:
    return said()


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in LATER])
def test_is_provoked(reason: Reason, tests_say: str) -> None:
    assert f'"{reason.value}"' in tests_say or f"Reason.{reason.name}" in tests_say


@pytest.mark.parametrize("reason", LATER)
def test_later_ones_are_part_of_the_table(reason: Reason) -> None:
    assert reason.code
