"""The HTTP application that broker and workers stand on: limits, methods, headers, and no answer but JSON."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web import answering
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import ANY_METHOD, Call, Endpoint, Known, Page, refusing
from agentkeys_runtime.web.gate import WAITING_PER_SENDER, WAITING_THREADS
from tests.fakes.app_client import AppClient
from tests.fakes.header_grades import faults

LIMIT = 100
JSON = {"Content-Type": "application/json"}


def fail(call: Call) -> Mapping[str, object]:
    raise RuntimeError("a value that nobody may see")


def unserialisable(call: Call) -> Mapping[str, object]:
    return {"key": b"bytes"}


def echo(call: Call) -> Mapping[str, object]:
    return {"length": len(call.body), "thread": threading.current_thread().name}


def endpoints(extra: Callable[[Call], Mapping[str, object]] = echo) -> tuple[Endpoint, ...]:
    gone = refusing(KeyServiceError(Reason.GONE, "removed", metadata={"instead": "elsewhere"}))
    return (
        Endpoint(method="POST", path="/echo", summary="s", handler=echo, body_limit=LIMIT, response={}),
        Endpoint(method="GET", path="/named/{name}", summary="s", handler=lambda c: dict(c.path), response={}),
        Endpoint(method="GET", path="/fails", summary="s", handler=fail, response={}),
        Endpoint(method="GET", path="/bytes", summary="s", handler=unserialisable, response={}),
        Endpoint(method=ANY_METHOD, path="/gone", summary="s", handler=gone),
        Endpoint(method="GET", path="/extra", summary="s", handler=extra, response={}),
    )


@pytest.fixture(scope="module")
def client() -> Iterator[AppClient]:
    with AppClient(create_app("test", endpoints(), clock=lambda: 1_764_000_000.0)) as made:
        yield made


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(client: AppClient) -> None:
    assert client.post("/echo", content=bytes(LIMIT), headers=JSON).json()["length"] == LIMIT
    answer = client.post("/echo", content=bytes(LIMIT + 1), headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (400, "too_large")


def test_a_body_without_a_length_is_cut_off_while_it_comes(client: AppClient) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield bytes(60)

    answer = client.post("/echo", content=endless(), headers=JSON)
    assert answer.json()["reason"] == "too_large"


def test_a_body_that_does_not_come_ends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(answering, "BODY_TIMEOUT_S", 0.05)

    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/echo",
            "raw_path": b"/echo",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        await create_app("test", endpoints())(scope, receive, send)
        return sent

    start, body = asyncio.run(ask())
    assert start["status"] == 400
    assert json.loads(body["body"])["reason"] == "invalid_body"


@pytest.mark.parametrize("declared", ["101", "999999999999999999999", "-1", "+5", "abc"])
def test_a_declared_length_over_the_limit_is_refused_at_once(client: AppClient, declared: str) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    headers = {**JSON, "Content-Length": declared}
    answer = client.post("/echo", content=nothing(), headers=headers)
    expected = "too_large" if declared[0] in "19" else None
    assert answer.json().get("reason") == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": ""},
        {**JSON, "Content-Encoding": "gzip"},
    ],
)
def test_another_media_type_or_a_coded_body_is_refused(client: AppClient, headers: dict[str, str]) -> None:
    answer = client.post("/echo", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_body")


@pytest.mark.parametrize("media", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken(client: AppClient, media: str) -> None:
    assert client.post("/echo", content=b"{}", headers={"Content-Type": media}).status_code == 200


def test_handlers_run_in_threads(client: AppClient) -> None:
    assert "AnyIO" in client.post("/echo", content=b"{}", headers=JSON).json()["thread"]


@pytest.mark.parametrize("path", ["/", "/nope", "/echo/", "/named/", "//echo", "/%ff", "/..%2f"])
def test_an_unknown_path_is_a_problem(client: AppClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_a_method_that_a_path_does_not_have_is_a_problem(client: AppClient, method: str) -> None:
    answer = client.request(method, "/echo")
    assert (answer.status_code, answer.json()["reason"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
def test_an_endpoint_may_refuse_every_method(client: AppClient, method: str) -> None:
    answer = client.request(method, "/gone")
    assert (answer.status_code, answer.json()["instead"]) == (410, "elsewhere")


@pytest.mark.parametrize("path", ["/fails", "/bytes"])
def test_an_unforeseen_error_is_internal_and_shows_nothing(
    client: AppClient, path: str, lines: Callable[[], list[Any]]
) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
    assert "Traceback" not in answer.text
    logged = json.dumps(lines())
    assert "nobody may see" not in answer.text + logged
    assert any(line.get("at") for line in lines())  # its place is logged


def test_every_answer_has_the_headers_and_no_cookie(client: AppClient) -> None:
    for path in ("/extra", "/nope", "/fails", "/gone", "/openapi.json"):
        headers = client.get(path).headers
        assert faults(headers, named=True) == []
        assert len(headers["agentkeys-request-id"]) == 16


def test_a_request_is_one_log_line_without_its_content(client: AppClient, lines: Callable[[], list[Any]]) -> None:
    client.get("/nope?token=topsecret")
    client.get("/named/topsecret")
    client.post("/echo", content=b'"topsecret"', headers={**JSON, "Authorization": "topsecret"})
    own = [line for line in lines() if line["logger"] != "httpx"]  # the client of this test logs as well
    told = [line for line in own if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in told] == [("-", 404), ("/named/{name}", 200), ("/echo", 200)]
    assert "topsecret" not in json.dumps(own)


def test_too_many_at_once_are_refused_by_name() -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(call: Call) -> Mapping[str, object]:
        started.set()
        go_on.wait(20)
        return {}

    with AppClient(create_app("test", endpoints(slow), max_in_flight=1)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.get, "/extra")
        started.wait(20)
        answer = client.get("/extra")
        assert (answer.status_code, answer.json()["reason"]) == (429, "overloaded")
        go_on.set()
        assert first.result().status_code == 200
        assert client.get("/extra").status_code == 200


def test_what_waits_for_others_is_refused_rather_than_queued_and_holds_up_nothing() -> None:
    started, go_on = threading.Semaphore(0), threading.Event()

    def waiting(call: Call) -> Mapping[str, object]:
        started.release()
        go_on.wait(20)
        return {}

    apart = Endpoint(method="GET", path="/waits", summary="s", handler=waiting, response={}, waits=True)
    app = create_app("test", [*endpoints(lambda _: {}), apart], max_in_flight=1)
    with ExitStack() as stack, ThreadPoolExecutor(WAITING_THREADS) as pool:
        senders = [stack.enter_context(AppClient(app, f"192.0.2.{number}")) for number in range(WAITING_THREADS)]
        held = [pool.submit(client.get, "/waits") for client in senders]
        for _ in held:
            assert started.acquire(timeout=20)
        client = stack.enter_context(AppClient(app))
        answer = client.get("/waits")
        assert (answer.status_code, answer.json()["reason"]) == (429, "overloaded")
        assert client.get("/extra").status_code == 200
        go_on.set()
        assert [one.result().status_code for one in held] == [200] * WAITING_THREADS
        assert client.get("/waits").status_code == 200


def test_one_sender_has_a_few_of_the_places_where_others_are_waited_for() -> None:
    started, go_on = threading.Semaphore(0), threading.Event()

    def waiting(call: Call) -> Mapping[str, object]:
        started.release()
        go_on.wait(20)
        return {}

    apart = Endpoint(method="GET", path="/waits", summary="s", handler=waiting, response={}, waits=True)
    app = create_app("test", [apart])
    with AppClient(app, "192.0.2.1") as one, AppClient(app, "192.0.2.2") as other, ThreadPoolExecutor(8) as pool:
        held = [pool.submit(one.get, "/waits") for _ in range(WAITING_PER_SENDER)]
        for _ in held:
            assert started.acquire(timeout=20)
        assert one.get("/waits").json()["reason"] == "overloaded"
        held.append(pool.submit(other.get, "/waits"))
        assert started.acquire(timeout=20)
        go_on.set()
        assert [answer.result().status_code for answer in held] == [200] * len(held)
        assert one.get("/waits").status_code == 200


def test_what_fails_beyond_the_handlers_is_a_problem_as_well() -> None:
    """The framework would say so in words of its own, and as plain text."""

    def broken(error: KeyServiceError) -> Page:
        raise RuntimeError("a value that nobody may see")

    def confused(call: Call) -> Known | None:
        raise RuntimeError("a value that nobody may see")

    def refuse(call: Call) -> Mapping[str, object]:
        raise KeyServiceError(Reason.NOT_FOUND)

    made = [
        Endpoint(method="GET", path="/page", summary="s", handler=refuse, refusal=broken),
        Endpoint(method="GET", path="/known", summary="s", handler=echo, response={}, known=confused, price=10),
    ]
    app = create_app("test", made, addresses=AddressLimits(per_second=1e-6, burst=10))
    with AppClient(app) as client:
        assert client.get("/known").status_code == 200
        for path in ("/page", "/known"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
            assert answer.headers["content-type"] == "application/problem+json"
            assert "nobody may see" not in answer.text


@pytest.mark.parametrize("method", ["BREW", "TRACE", "CONNECT", "OPTIONS", "PUT"])
@pytest.mark.parametrize("path", ["/echo", "/none", "/named/a/b", "//echo", "/echo/"])
def test_what_no_route_takes_is_a_problem(client: AppClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["reason"]) in {(404, "not_found"), (405, "method_not_allowed")}
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_route_is_in_the_description(client: AppClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    assert set(described["paths"]) == {endpoint.path for endpoint in endpoints()} | {"/openapi.json"}
    names = [operation["operationId"] for item in described["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    assert [place["name"] for place in described["paths"]["/named/{name}"]["get"]["parameters"]] == ["name"]
    assert "410" in described["paths"]["/gone"]["delete"]["responses"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]),
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=30),
    content=st.binary(max_size=2 * LIMIT),
    media=st.sampled_from(["application/json", "text/html", "", "\x7f"]),
)
def test_no_request_gets_a_500(client: AppClient, method: str, path: str, content: bytes, media: str) -> None:
    answer = client.request(method, f"/echo{path}", content=content, headers={"Content-Type": media})
    assert answer.status_code < 500
