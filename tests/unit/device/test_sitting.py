"""The page of one sitting over HTTP: whom it serves, and that an answer counts for its own question alone."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device.errors import DeviceError, Trouble
from device.k11.page import Ceremony, Task
from device.local_web import TOKEN_HEADER
from device.wallet_page import sitting as room
from device.wallet_page.sitting import Sitting, run_question, sitting
from tests.fakes.k11_port import k11_port


@pytest.fixture(autouse=True)
def port() -> Iterator[None]:
    with k11_port():
        yield


@dataclass
class Visitor:
    """A browser with the address."""

    address: str
    client: httpx.Client

    @property
    def root(self) -> str:
        return self.address.partition("/#")[0]

    def headers(self, **changed: str) -> dict[str, str]:
        own = {
            TOKEN_HEADER: self.address.partition("#")[2],
            "Origin": self.root.rpartition("/")[0],
            "Content-Type": "application/json",
        }
        return {name: value for name, value in (own | changed).items() if value}

    def question(self, after: int = 0, **changed: str) -> Any:
        return self.client.get(f"{self.root}/question/{after}", headers=self.headers(**changed)).json()

    def answer(self, number: object, body: object, **changed: str) -> httpx.Response:
        return self.client.post(f"{self.root}/answer/{number}", json=body, headers=self.headers(**changed))


class Sat:
    """A sitting, its visitor, and questions that are asked in threads."""

    def __init__(self, page: Sitting, visitor: Visitor, pool: ThreadPoolExecutor) -> None:
        self.page, self.visitor, self._pool = page, visitor, pool

    def ask(self, title: str, accept: Callable[[object], None]) -> Future[None]:
        task = Task(kind="confirm", title=title, lines=(), digest="", options={}, accept=accept)
        return self._pool.submit(self.page.ask, task)


@pytest.fixture
def sat() -> Iterator[Sat]:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        addresses: list[str] = []
        page = stack.enter_context(sitting(addresses.append))
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=40))
        yield Sat(page, Visitor(addresses[0], client), pool)


def refused(future: Future[None]) -> str:
    with pytest.raises(DeviceError) as caught:
        future.result(10)
    return str(caught.value.reason)


def test_questions_follow_one_another_on_one_page(sat: Sat) -> None:
    given: list[object] = []
    for number, title in enumerate(("one", "two"), 1):
        asked = sat.ask(title, given.append)
        found = sat.visitor.question(number - 1)
        assert (found["title"], found["number"]) == (title, number)
        assert sat.visitor.answer(number, {"confirmed": title}).status_code == 200
        asked.result(10)
    assert given == [{"confirmed": "one"}, {"confirmed": "two"}]


def test_an_answer_to_another_question_changes_nothing(sat: Sat) -> None:
    given: list[object] = []
    sat.ask("one", given.append)
    sat.visitor.question()
    assert sat.visitor.answer(1, {"a": 1}).status_code == 200
    second = sat.ask("two", given.append)
    assert sat.visitor.question(1)["number"] == 2
    for number in (0, 1, 3):
        assert sat.visitor.answer(number, {"b": 2}).status_code == 409
    assert given == [{"a": 1}]
    assert sat.visitor.answer(2, {"c": 3}).status_code == 200
    second.result(10)
    assert sat.visitor.answer(2, {"c": 4}).status_code == 409
    assert given == [{"a": 1}, {"c": 3}]


def test_a_refused_answer_may_be_given_again_and_says_why(sat: Sat) -> None:
    def accept(obj: object) -> None:
        if obj == {"n": 1}:
            raise KeyServiceError(Reason.INVALID_ENCODING, "no hex")
        if obj == {"n": 2}:
            raise DeviceError(Trouble.WALLET_SIGNATURE_INVALID, "another account")

    asked = sat.ask("one", accept)
    sat.visitor.question()
    for number, reason in ((1, "invalid_encoding"), (2, "wallet_signature_invalid")):
        told = sat.visitor.answer(1, {"n": number})
        assert (told.status_code, told.json()["reason"]) == (400, reason)
    assert sat.visitor.answer(1, {"n": 3}).status_code == 200
    asked.result(10)


def test_a_page_that_is_loaded_again_finds_the_question(sat: Sat) -> None:
    asked = sat.ask("one", lambda _: None)
    assert sat.visitor.question()["number"] == sat.visitor.question()["number"] == 1
    sat.visitor.answer(1, {})
    asked.result(10)


def test_a_page_without_news_is_told_to_wait(sat: Sat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAIT_S", 0.01)
    assert sat.visitor.question() == {"kind": "wait", "number": 0}


def test_who_declines_or_is_stopped_ends_what_is_asked(sat: Sat) -> None:
    asked = sat.ask("one", lambda _: None)
    sat.visitor.question()
    assert sat.visitor.answer(1, {"declined": True}).status_code == 200
    assert refused(asked) == "declined"
    asked = sat.ask("two", lambda _: None)
    sat.visitor.question(1)
    sat.page.stop()
    assert refused(asked) == "declined"
    assert refused(sat.ask("three", lambda _: None)) == "declined"


def test_the_last_words_are_heard(sat: Sat) -> None:
    asked = sat.ask("one", lambda _: None)
    sat.visitor.question()
    sat.visitor.answer(1, {})
    asked.result(10)
    heard: list[Any] = []
    listening = threading.Thread(target=lambda: heard.append(sat.visitor.question(1)))
    listening.start()
    sat.page.end("Done", ("a", "b"))
    listening.join(10)
    assert heard == [{"close": False, "kind": "end", "lines": ["a", "b"], "title": "Done"}]


@pytest.mark.parametrize(
    "headers",
    [
        {TOKEN_HEADER: ""},
        {TOKEN_HEADER: "wrong"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:8722"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda given: next(iter(given.values())) or "none",
)
def test_strangers_are_served_nothing(sat: Sat, headers: dict[str, str]) -> None:
    asked = sat.ask("one", lambda _: None)
    sat.visitor.question()
    given = sat.visitor.headers(**headers)
    assert sat.visitor.client.get(f"{sat.visitor.root}/question/0", headers=given).status_code == 403
    assert sat.visitor.answer(1, {}, **headers).status_code == 403
    assert not asked.done()
    sat.page.stop()
    assert refused(asked) == "declined"


def test_only_a_window_of_this_machine_is_led_here(sat: Sat) -> None:
    """The console, at another port, opens this page in a window; nobody frames it or fetches anything of it."""
    window = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}

    def fetched(path: str, **changed: str) -> int:
        headers = sat.visitor.headers(**(window | changed))
        return sat.visitor.client.get(sat.visitor.root + path, headers=headers).status_code

    assert fetched("/") == 200
    for changed in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "script"},
        {"Host": "evil.example"},
    ):
        assert fetched("/", **changed) == 403
    assert fetched("/question/0") == 403


@pytest.mark.parametrize("origin", ["", "null", "http://localhost:8723", "https://localhost:8722"])
def test_an_answer_must_come_from_the_page(sat: Sat, origin: str) -> None:
    sat.ask("one", lambda _: None)
    sat.visitor.question()
    assert sat.visitor.answer(1, {}, Origin=origin).status_code == 403
    sat.page.stop()


@pytest.mark.parametrize(
    "path", ["/question/", "/question/01", "/question/-1", "/question/9999999", "/question/1/", "/task"]
)
def test_other_paths_are_not_there(sat: Sat, path: str) -> None:
    assert sat.visitor.client.get(sat.visitor.root + path, headers=sat.visitor.headers()).status_code == 404


def test_files_hold_no_secret_and_no_inline_script(sat: Sat) -> None:
    for path in Sitting.files:
        found = sat.visitor.client.get(sat.visitor.root + path)
        assert found.status_code == 200
        assert sat.page.token not in found.text
        policy = found.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "img-src" not in policy  # so `default-src 'none'` stands: no wallet's icon is loaded


def test_one_question_of_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FAREWELL_S", 0.01)
    given: list[object] = []
    task = Task(kind="message", title="Sign in", lines=(), digest="", options={}, accept=given.append)
    for answer, taken in (({"signature": "0x"}, [{"signature": "0x"}]), ({"declined": True}, [])):
        given.clear()
        ceremony = Ceremony(task=task)
        opened: list[str] = []
        ready = threading.Event()

        def announce(address: str, opened: list[str] = opened, ready: threading.Event = ready) -> None:
            opened.append(address)
            ready.set()

        with ThreadPoolExecutor(1) as pool, httpx.Client(trust_env=False, timeout=40) as client:
            asked = pool.submit(run_question, ceremony, announce)
            assert ready.wait(10)
            visitor = Visitor(opened[0], client)
            visitor.question()
            assert visitor.answer(1, answer).status_code == 200
            if taken:
                asked.result(10)
            else:
                assert refused(asked) == "declined"
        assert given == taken
