"""Asking again: until it is there, at the pace that the asked part sets, and not for ever."""

import pytest

from agentkeys_core.errors import Code, KeyServiceError, Reason
from device.errors import DeviceError, Trouble
from device.problems import check_refusal
from device.transport import Answer, _seconds
from device.waiting import POLL_S, until

OTHERWISE = DeviceError(Trouble.NOT_CONFIRMED)


class Part:
    """Answers one after the other."""

    def __init__(self, *answers: "str | Exception | None") -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []

    def ask(self) -> str | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def until(self, limit_s: float = 60.0) -> str:
        return until(self.ask, otherwise=OTHERWISE, pause=self.pauses.append, limit_s=limit_s)


def refusal(reason: Reason, status: int, retry_after: str) -> KeyServiceError:
    """As it comes out of an answer."""
    answer = Answer(status, f'{{"reason":"{reason}"}}'.encode(), _seconds(retry_after))
    with pytest.raises(KeyServiceError) as caught:
        check_refusal(answer)
    return caught.value


def test_asks_until_there_is_something() -> None:
    part = Part(None, None, "there")
    assert part.until() == "there"
    assert part.pauses == [POLL_S, POLL_S]


def test_a_part_that_is_away_or_busy_ends_nothing() -> None:
    busy, away = KeyServiceError(Reason.OVERLOADED), KeyServiceError(Reason.REGISTRY_UNREACHABLE)
    assert Part(DeviceError(Trouble.UNREACHABLE), busy, away, "there").until() == "there"


@pytest.mark.parametrize(
    ("header", "pause"), [("7", 7.0), ("0", POLL_S), ("", POLL_S), ("-1", POLL_S), ("soon", POLL_S), ("٣", POLL_S)]
)
def test_a_part_is_asked_when_it_says(header: str, pause: float) -> None:
    part = Part(refusal(Reason.RATE_LIMITED, 429, header), "there")
    part.until()
    assert part.pauses == [pause]


@pytest.mark.parametrize("header", ["99999", "1" * 400])
def test_no_part_makes_anybody_wait_for_longer_than_the_limit(header: str) -> None:
    part = Part(refusal(Reason.RATE_LIMITED, 429, header), "there")
    part.until(limit_s=5.0)
    assert 0 < part.pauses[0] <= 5.0


def test_it_ends_by_name() -> None:
    with pytest.raises(DeviceError) as caught:
        Part(None).until(limit_s=0.0)
    assert caught.value is OTHERWISE


@pytest.mark.parametrize("final", [KeyServiceError(Reason.CEREMONY_ENDED), DeviceError(Trouble.PEER_NOT_TRUSTED)])
def test_a_final_refusal_is_passed_on(final: Exception) -> None:
    with pytest.raises(type(final)) as caught:
        Part(final, "never").until()
    assert caught.value is final


@pytest.mark.parametrize("reason", Reason)
def test_what_says_something_only_of_now_is_asked_again_and_nothing_else(reason: Reason) -> None:
    """A reason of these two codes says nothing about what was asked; every other one is the answer to it."""
    part = Part(KeyServiceError(reason), "there")
    if reason.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        assert part.until() == "there"
    else:
        with pytest.raises(KeyServiceError) as caught:
            part.until()
        assert caught.value.reason is reason
