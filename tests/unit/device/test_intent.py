"""What a person reads before a touch, where it is about a registry that was restored."""

import pytest

from agentkeys_core.changes import Unfreeze
from device.intent import change_intent


def shown(incarnation: int) -> dict[str, str]:
    change = Unfreeze(operator_omni=bytes(32), incarnation=incarnation, nonce=1, deadline=1_764_000_000)
    return dict(change_intent(change, bytes(32)).lines)


def test_an_unfreeze_in_the_first_incarnation_speaks_of_no_restore() -> None:
    assert "restored" not in shown(1)


def test_an_unfreeze_after_a_restore_says_when_that_was() -> None:
    assert shown(1_764_000_000)["restored"].startswith("2025-11-24 16:00:00 UTC; ")


@pytest.mark.parametrize("incarnation", [2, 2**53 - 1])
def test_whatever_incarnation_is_told_can_be_shown(incarnation: int) -> None:
    assert "UTC" in shown(incarnation)["restored"]
