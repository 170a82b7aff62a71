"""A job of the console: what it asks is answered by whom it asks, and by nobody once it was stopped."""

import threading
from collections.abc import Callable, Sequence

import pytest

from device.console import job as job_module
from device.console.job import Job, Work
from device.errors import DeviceError, Trouble
from device.home import Home
from device.k11.page import CONFIRMED, DECLINED, Ceremony, Task
from device.session import Device
from device.show import Show
from tests.unit.device.conftest import Person

TASK = Task(kind="get", title="Approve", lines=(), digest="00", options={}, accept=lambda _: None)
PATIENCE_S = 10


def job_of(home: Home, work: Work) -> Job:
    return Job(home, work, k11=True, terminal=Show(as_json=True))


def test_what_k11_must_approve_is_not_agreed_to_in_the_console(master: Person) -> None:
    def window(ceremony: Ceremony, announce: Callable[[str], None]) -> None:
        announce("http://localhost:8722/elsewhere")
        ceremony.wait(PATIENCE_S)

    def work(job: Job, device: Device) -> Sequence[str]:
        job._in_window(TASK, window)
        return ("approved",)

    with Home.open(master.home) as home:
        job = job_of(home, work)
        job.start()
        asked = job.question
        assert asked is not None
        with pytest.raises(DeviceError) as refused:
            job.answer(asked.id, CONFIRMED)
        assert refused.value.reason is Trouble.USAGE
        assert job.question is asked
        job.answer(asked.id, DECLINED)
        job.settle()
    assert isinstance(job.error, DeviceError)
    assert job.error.reason is Trouble.DECLINED


def test_a_job_that_was_stopped_asks_nothing_more(master: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped while it was at something else, and comes to its question only then."""
    monkeypatch.setattr(job_module, "SETTLE_S", 2.0)
    go_on = threading.Event()

    def work(job: Job, device: Device) -> Sequence[str]:
        job.wait_for("something else")
        assert go_on.wait(PATIENCE_S)
        job.ask(TASK)
        return ("approved",)

    with Home.open(master.home) as home:
        job = job_of(home, work)
        job.start()
        ended: list[bool] = []
        stopping = threading.Thread(target=lambda: ended.append(job.stop()))
        stopping.start()
        assert job._stopped.wait(PATIENCE_S)
        go_on.set()
        stopping.join(PATIENCE_S)
        job.stop()
    assert ended == [True]
    assert isinstance(job.error, DeviceError)
    assert job.error.reason is Trouble.DECLINED
