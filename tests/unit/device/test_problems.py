"""Refusals of broker and workers: what of them is believed, and how much of them is kept."""

import json

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device.errors import DeviceError, Trouble
from device.problems import check_refusal
from device.transport import Answer


def refused(status: int, problem: object) -> KeyServiceError:
    with pytest.raises(KeyServiceError) as caught:
        check_refusal(Answer(status, json.dumps(problem).encode()))
    return caught.value


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'"text"', b"null", b"7"])
@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_refusal_that_is_no_problem_is_not_trusted(status: int, body: bytes) -> None:
    with pytest.raises(DeviceError) as caught:
        check_refusal(Answer(status, body))
    assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED


def test_the_words_of_a_refusal_are_short_and_harmless() -> None:
    assert len(refused(403, {"detail": "x" * 5000}).detail) == 300
    assert refused(403, {"detail": "a\x1b[2Jb\n\u202ec"}).detail == "a[2Jbc"
    assert refused(403, {"detail": ["x"]}).detail == ""


@pytest.mark.parametrize(
    ("status", "reason", "read"),
    [
        (403, "device_revoked", Reason.DEVICE_REVOKED),
        (404, "of another version", Reason.NOT_FOUND),
        (429, None, Reason.RATE_LIMITED),
        (503, {}, Reason.INTERNAL),
    ],
)
def test_a_reason_that_is_not_known_is_read_by_its_status(status: int, reason: object, read: Reason) -> None:
    assert refused(status, {"reason": reason}).reason is read


def test_what_is_no_row_is_none() -> None:
    assert refused(403, {"row": "text"}).row is None
    assert refused(403, {"row": {"seq": 1}}).row == b'{"seq":1}'


def test_a_row_that_is_no_json_of_ours_is_not_trusted() -> None:
    with pytest.raises(DeviceError) as caught:
        check_refusal(Answer(403, b'{"row":{"a":1.5}}'))
    assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED
