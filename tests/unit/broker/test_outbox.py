"""Work that is done after the answer: in bounds, one failure at a time, and not for ever."""

import logging
import threading
from functools import partial

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from broker.adapters.outbox import THREADS, Outbox


def wait(held: threading.Event) -> None:
    held.wait(30)


def test_what_was_handed_in_is_done_before_the_end() -> None:
    done: list[int] = []
    with Outbox() as outbox:
        for number in range(20):
            outbox(lambda number=number: done.append(number))  # type: ignore[misc]
    assert sorted(done) == list(range(20))


def test_a_failure_is_logged_by_its_type_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("ada@people.test")

    done = threading.Event()
    with caplog.at_level(logging.WARNING), Outbox() as outbox:
        for _ in range(2 * THREADS):
            outbox(fail)
        outbox(done.set)
    assert done.is_set()
    assert "ada@people.test" not in caplog.text
    assert all(vars(record)["agentkeys_fields"] == {"error": "ValueError"} for record in caplog.records)


def test_so_much_waits_and_no_more() -> None:
    held = threading.Event()
    with Outbox(capacity=THREADS + 1) as outbox:
        for _ in range(THREADS + 1):
            outbox(partial(wait, held))
        with pytest.raises(KeyServiceError) as caught:
            outbox(held.set)
        assert caught.value.reason is Reason.OVERLOADED
        held.set()


def test_what_never_ends_holds_up_no_end() -> None:
    held, outbox = threading.Event(), Outbox()
    outbox(partial(wait, held))
    outbox.close(patience_s=0.01)
    held.set()
