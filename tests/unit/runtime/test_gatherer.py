"""Calls that come together travel together, each gets its own answer, and nobody waits for nothing."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime import gatherer
from agentkeys_runtime.gatherer import Gatherer
from tests.unit.core.refusal import refused

LONG_S = 60.0


class Server:
    """Answers questions by their doubles; holds calls up until it is told to let them go."""

    def __init__(self, *, held: bool = True, **options: Any) -> None:
        self.calls: list[list[int]] = []
        self.deadlines: list[float] = []
        self.joined = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.free = threading.Event()
        self.refuse: Callable[[int], Exception | None] = lambda _: None
        if not held:
            self.free.set()
        given: dict[str, Any] = {"one": self.one, "many": self.many, "size": self.size, "company_s": LONG_S}
        self.gatherer: Gatherer[int, int] = Gatherer(**(given | options))

    def size(self, question: int) -> int:
        self.joined.release()
        return question

    def one(self, question: int, deadline: float) -> int:
        (answer,) = self.many([question], deadline)
        if isinstance(answer, KeyServiceError):
            raise answer
        return answer

    def many(self, questions: Sequence[int], deadline: float) -> list[int | KeyServiceError]:
        self.calls.append(list(questions))
        self.deadlines.append(deadline)
        self.begun.release()
        assert self.free.wait(LONG_S)
        found: list[Any] = []
        for question in questions:
            error = self.refuse(question)
            if error is not None and not isinstance(error, KeyServiceError):
                raise error
            found.append(2 * question if error is None else error)
        return found


class Asking:
    """One thread that asks; `answer` waits for what came of it."""

    def __init__(self, server: Server, question: int, *, deadline: float = 0.0) -> None:
        self._found: Any = None
        self._thread = threading.Thread(target=self._ask, args=(server, question, deadline))
        self._thread.start()
        assert server.joined.acquire(timeout=LONG_S)

    def _ask(self, server: Server, question: int, deadline: float) -> None:
        try:
            self._found = server.gatherer.ask(question, deadline=deadline)
        except Exception as error:
            self._found = error

    def answer(self) -> Any:
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()
        return self._found


def reasons(found: Sequence[Any]) -> list[Any]:
    return [answer.reason if isinstance(answer, KeyServiceError) else answer for answer in found]


def test_alone_nobody_waits() -> None:
    server = Server(held=False)  # company would be waited for a minute
    assert [server.gatherer.ask(number, deadline=0) for number in (1, 2, 3)] == [2, 4, 6]
    assert server.calls == [[1], [2], [3]]


def behind_one(server: Server, questions: Sequence[int], **given: Any) -> tuple[Asking, list[Asking]]:
    """A call that is under way, and what was asked meanwhile."""
    first = Asking(server, 100)
    assert server.begun.acquire(timeout=LONG_S)
    return first, [Asking(server, question, **given) for question in questions]


def test_what_comes_during_a_call_goes_together_when_it_is_back() -> None:
    server = Server()
    first, others = behind_one(server, range(5))
    server.free.set()
    assert [asked.answer() for asked in (first, *others)] == [200, 0, 2, 4, 6, 8]
    assert server.calls == [[100], [0, 1, 2, 3, 4]]


def test_nobody_waits_longer_than_told_for_a_call_that_hangs() -> None:
    server = Server(company_s=0.001)
    first, others = behind_one(server, [1])
    assert server.begun.acquire(timeout=LONG_S)  # while the first call is still held up
    server.free.set()
    assert (first.answer(), others[0].answer()) == (200, 2)
    assert server.calls == [[100], [1]]


def test_a_full_group_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatherer, "MAX_GATHERED", 3)
    server = Server()
    first, others = behind_one(server, range(7))
    for _ in range(2):  # both full ones, though the first call is still held up
        assert server.begun.acquire(timeout=LONG_S)
    server.free.set()
    assert [asked.answer() for asked in (first, *others)] == [200, *range(0, 14, 2)]
    assert sorted(server.calls) == [[0, 1, 2], [3, 4, 5], [6], [100]]


def test_a_group_has_no_more_bytes_than_a_batch_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatherer, "MAX_GATHERED_BYTES", 10)
    server = Server()
    first, others = behind_one(server, [4, 6, 1, 50, 2])
    server.free.set()
    assert [asked.answer() for asked in (first, *others)] == [200, 8, 12, 2, 100, 4]
    assert sorted(server.calls) == [[1], [2], [4, 6], [50], [100]]


def test_one_refusal_is_its_own() -> None:
    server = Server()
    server.refuse = lambda question: KeyServiceError(Reason.CAP_REPLAYED, row=b"row") if question == 2 else None
    first, others = behind_one(server, [1, 2, 3])
    server.free.set()
    found = [asked.answer() for asked in (first, *others)]
    assert reasons(found) == [200, 2, Reason.CAP_REPLAYED, 6]
    assert found[2].row == b"row"


def test_a_call_that_fails_fails_for_everyone_in_it_each_by_an_error_of_its_own() -> None:
    server = Server()
    first, others = behind_one(server, [1, 2, 3])
    told = {"current_epoch": "7"}

    def unreachable(_questions: Sequence[int], _deadline: float) -> Any:
        raise KeyServiceError(Reason.SIGNER_UNREACHABLE, metadata=told)

    server.gatherer._many = unreachable
    server.free.set()
    found = [asked.answer() for asked in others]
    assert first.answer() == 200
    assert reasons(found) == [Reason.SIGNER_UNREACHABLE] * 3
    assert len({id(error) for error in found}) == 3
    assert [error.metadata for error in found] == [told] * 3
    assert server.gatherer.ask(5, deadline=0) == 10


def test_nobody_is_left_waiting_where_the_call_breaks() -> None:
    server = Server()
    server.refuse = lambda question: ZeroDivisionError() if question == 1 else None
    first, others = behind_one(server, [1, 2, 3])
    server.free.set()
    leader, *rest = [asked.answer() for asked in others]
    assert first.answer() == 200
    assert isinstance(leader, ZeroDivisionError)
    assert reasons(rest) == [Reason.INTERNAL] * 2
    assert server.gatherer.ask(5, deadline=0) == 10


def test_answers_that_do_not_fit_the_questions_are_nobodys() -> None:
    server = Server()
    first, others = behind_one(server, [1, 2])
    server.gatherer._many = lambda _questions, _deadline: [2]
    server.free.set()
    assert reasons([asked.answer() for asked in (first, *others)]) == [200, Reason.INTERNAL, Reason.INTERNAL]


def test_the_earliest_deadline_is_the_groups() -> None:
    server = Server()
    first, others = behind_one(server, [1], deadline=30.0)
    others.append(Asking(server, 2, deadline=20.0))
    others.append(Asking(server, 3, deadline=25.0))
    server.free.set()
    for asked in (first, *others):
        asked.answer()
    assert server.deadlines == [0.0, 20.0]


def test_too_many_waiters_are_refused() -> None:
    server = Server(max_waiting=3)
    first, others = behind_one(server, [1, 2])
    with refused(Reason.OVERLOADED):
        server.gatherer.ask(3, deadline=0)
    server.free.set()
    assert [asked.answer() for asked in (first, *others)] == [200, 2, 4]
    assert server.gatherer.ask(3, deadline=0) == 6


def test_many_threads_get_their_own_answers() -> None:
    server = Server(held=False, company_s=0.0005)
    wrong: list[tuple[int, int]] = []

    def ask(start: int) -> None:
        for number in range(start, start + 200):
            answer = server.gatherer.ask(number, deadline=time.monotonic() + LONG_S)
            if answer != 2 * number:
                wrong.append((number, answer))

    threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(number for call in server.calls for number in call) == sorted(
        1000 * thread + number for thread in range(8) for number in range(200)
    )
