"""Each reason that these parts can give is asked for by name in at least one test."""

from pathlib import Path

import pytest

from agentkeys_core.errors import Reason

TESTS = Path(__file__).resolve().parents[1]


def said() -> str:
    own = Path(__file__)
    return "\n".join(path.read_text() for path in TESTS.rglob("test_*.py") if path != own)


@pytest.fixture(scope="module")
def tests_say() -> str:
    return said()


@pytest.mark.parametrize("reason", Reason)
def test_is_provoked(reason: Reason, tests_say: str) -> None:
    assert f'"{reason.value}"' in tests_say or f"Reason.{reason.name}" in tests_say
