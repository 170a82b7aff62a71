"""A part that is slow keeps whoever asks it waiting, and neither Stop nor Freeze."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from device.console.inbox import Inbox
from device.console.job import Job
from device.pairing_desk import Claimed
from tests.unit.device.console_kit import Visitor
from tests.unit.device.deployment import Deployment
from tests.unit.device.https import Stall

CHANGES = ("broker", "/v1/registry/changes")
USES = ("broker", "/v1/devices/uses")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stalls is given up later than a busy machine needs for everything else, and sooner than a job's end is."""
    for part in ("device.broker_session", "device.change_desk"):
        monkeypatch.setattr(f"{part}.TIMEOUT_S", 20.0)


@pytest.fixture
def tab(visitor: Visitor, deployment: Deployment) -> Iterator[ThreadPoolExecutor]:
    """Another tab; whatever stalls is let go in the end."""
    with ThreadPoolExecutor() as made:
        yield made
        for stall in deployment.stalls.values():
            stall.let_go.set()


def stalled(deployment: Deployment, at: tuple[str, str]) -> Stall:
    stall = deployment.stalls[at] = Stall()
    return stall


def sending(visitor: Visitor, deployment: Deployment, tab: ThreadPoolExecutor) -> tuple[Job, Stall, Future[str]]:
    """A job whose change the broker does not take in."""
    visitor.send("/do", what="unfreeze")
    stall = stalled(deployment, CHANGES)
    answered = tab.submit(visitor.agree)
    assert stall.reached.wait(20)
    job = visitor.console._job
    assert job is not None
    return job, stall, answered


def is_asked(visitor: Visitor) -> str:
    """What the page of the job asks."""
    page = visitor.get("/page/job").text
    assert 'name="answer"' in page
    return page.partition("<h1>")[2].partition("</h1>")[0]


def test_a_page_that_waits_for_the_broker_delays_no_freeze(
    visitor: Visitor, deployment: Deployment, tab: ThreadPoolExecutor
) -> None:
    stall = stalled(deployment, USES)
    waiting = tab.submit(visitor.get, "/page/devices")
    assert stall.reached.wait(20)
    assert visitor.send("/do", what="freeze") == {"go": "job"}
    assert "is frozen" in visitor.agree()
    assert not waiting.done()
    stall.let_go.set()
    assert "My devices" in waiting.result(30).text


def test_a_page_that_waits_delays_no_other(visitor: Visitor, deployment: Deployment, tab: ThreadPoolExecutor) -> None:
    stall = stalled(deployment, USES)
    waiting = tab.submit(visitor.get, "/page/devices")
    assert stall.reached.wait(20)
    for page in ("masters", "job", "changes"):
        assert visitor.get(f"/page/{page}").status_code == 200
    assert not waiting.done()


def test_what_is_being_sent_delays_no_freeze(visitor: Visitor, deployment: Deployment, tab: ThreadPoolExecutor) -> None:
    job, _, _ = sending(visitor, deployment, tab)
    assert visitor.send("/do", what="freeze") == {"go": "job"}
    assert is_asked(visitor) == "Freeze everything of this operator"
    assert not job.ended
    assert visitor.console._job is not None
    assert len(visitor.console._job.said) == 1  # whoever freezes is told that the other may have taken effect


def test_stop_waits_for_nothing(visitor: Visitor, deployment: Deployment, tab: ThreadPoolExecutor) -> None:
    job, _, _ = sending(visitor, deployment, tab)
    assert visitor.stop() == {"go": "devices"}
    assert not job.ended


def test_what_is_being_sent_gives_way_to_nothing_else_but_a_freeze(
    visitor: Visitor, deployment: Deployment, tab: ThreadPoolExecutor
) -> None:
    """Who waited for the end of one job does not begin in the place of the one that overtook both."""
    job, stall, answered = sending(visitor, deployment, tab)
    late: Future[dict[str, Any]] = tab.submit(visitor.send, "/do", what="unfreeze")
    while not job._stopped.is_set():
        threading.Event().wait(0.02)
    visitor.send("/do", what="freeze")
    asked = visitor.id_on("job")
    stall.let_go.set()
    assert late.result(30)["reason"] == "usage"
    answered.result(30)
    assert visitor.id_on("job") == asked
    assert is_asked(visitor) == "Freeze everything of this operator"


def test_what_was_brought_meanwhile_stays() -> None:
    machine = Claimed(id="1" * 32, public_key=bytes(33), label=None, services=(), hash=bytes(32))
    inbox = Inbox()
    inbox._take(machine)
    decided = inbox.brought
    assert decided is not None
    inbox._take(machine)
    inbox.forget(decided)
    assert inbox.brought is not None
    inbox.forget(inbox.brought)
    assert inbox.brought is None


def test_a_console_that_has_ended_begins_nothing(visitor: Visitor) -> None:
    visitor.console.close()
    assert visitor.send("/do", what="freeze")["reason"] == "usage"
    assert visitor.console._job is None
