"""Whoever presses a button of the console answers what that page shows, and nothing else."""

from collections.abc import Iterator

import pytest

from device.errors import DeviceError, Trouble
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.deployment import Deployment


@pytest.fixture
def visitor(master: Person) -> Iterator[Visitor]:
    with console_at(master.home) as made:
        yield made


def nothing_was_sent(deployment: Deployment) -> bool:
    return not any(path == "/v1/registry/changes" for _, path in deployment.seen[-3:])


@pytest.mark.parametrize(
    "members", [{"answer": []}, {"answer": ["yes"]}, {"confirmed": ["true"]}, {"answer": ["confirmed", "confirmed"]}]
)
def test_another_answer_is_none(visitor: Visitor, deployment: Deployment, members: dict[str, list[str]]) -> None:
    visitor.send("/do", what="freeze")
    asked = visitor.id_on("job")
    bodies: list[object] = [{"id": [asked], **members}, [], {"confirmed": True}]
    for body in bodies:
        told = visitor.post("/answer", body)
        assert (told.status_code, told.json()["reason"]) == (409, "usage")
    assert visitor.id_on("job") == asked  # which is asked still
    assert nothing_was_sent(deployment)


def test_whoever_declines_signs_nothing(visitor: Visitor, deployment: Deployment) -> None:
    visitor.send("/do", what="freeze")
    visitor.answer("declined")
    assert "declined" in visitor.get("/page/job").text
    assert nothing_was_sent(deployment)
    assert "End the freeze" not in visitor.get("/page/devices").text


@pytest.mark.parametrize("answer", ["confirmed", "declined"])
def test_a_press_in_one_tab_answers_no_question_of_another(
    visitor: Visitor, deployment: Deployment, answer: str
) -> None:
    """Two tabs: what the first one still shows was asked before, and something graver is asked by now."""
    visitor.send("/do", what="freeze")
    shown = visitor.id_on("job")
    visitor.send("/do", what="unfreeze")
    asked = visitor.id_on("job")
    for stale in (shown, "", "0" * 32):
        told = visitor.post("/answer", {"id": [stale], "answer": [answer]})
        assert (told.status_code, told.json()["reason"]) == (409, "usage")
    assert visitor.id_on("job") == asked
    assert nothing_was_sent(deployment)


def test_a_stop_in_one_tab_stops_no_job_of_another(visitor: Visitor) -> None:
    visitor.send("/do", what="freeze")
    job = visitor.console._job
    assert job is not None
    assert visitor.send("/stop")["reason"] == "usage"
    assert visitor.send("/stop", id="0" * 32)["reason"] == "usage"
    assert not job.ended


def test_another_job_declines_the_one_before(visitor: Visitor) -> None:
    visitor.send("/do", what="freeze")
    first = visitor.console._job
    visitor.send("/do", what="unfreeze")
    assert first is not None
    assert isinstance(first.error, DeviceError)
    assert first.error.reason is Trouble.DECLINED
    assert visitor.answer("declined").json() == {"go": "job"}
    assert "declined" in visitor.get("/page/job").text
