"""Hostile requests to the running broker and workers: each gets a problem with a reason, none a traceback or a hang.

The parsers have their own property tests; here every byte goes through TLS, the HTTP server and the whole application.
"""

import json
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from demo.attacker import cosign
from device.credentials import get, put
from tests.adversarial.town import OPENROUTER, Member, Town

ROUTES = {
    "broker": (
        "/v1/caps",
        "/v1/derive-address",
        "/v1/enrolments/attest",
        "/v1/registry/changes",
        "/v1/sign/siwe",
        "/v1/sign/typed-data",
        "/dev/sign-message",
    ),
    "credentials": tuple(f"/v1/credentials/{verb}" for verb in ("store", "fetch", "list", "delete")),
    "audit": ("/v1/audit/list", "/v1/registry/changes"),
}
PAIRS = [(part, path) for part, paths in ROUTES.items() for path in paths]
#: What a healthy part may answer besides 2xx and 4xx; anything else of 5xx is a fault of ours.
NAMED_5XX = {"registry_stale", "registry_unreachable", "signer_unreachable", "journal_unavailable", "not_implemented"}
ANYTHING = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def master(town: Town) -> Iterator[Member]:
    made = town.master()
    put(made.device, "openrouter", b"still here")
    yield made
    assert get(made.device, "openrouter").value == b"still here", "nothing stored was lost by a refused request"


def check(answer: httpx.Response) -> str:
    """Return the reason of a refusal, once it is a proper problem."""
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text[:200]
    problem = answer.json()
    reason = Reason(problem["reason"])
    assert reason is not Reason.INTERNAL
    assert problem["status"] == answer.status_code
    assert answer.status_code < 500 or reason.value in NAMED_5XX, problem
    assert isinstance(problem["server_time"], int)
    assert "Traceback" not in answer.text
    return reason.value


@pytest.mark.parametrize(("part", "path"), PAIRS)
@ANYTHING
@given(content=st.binary(max_size=400))
def test_random_bytes(town: Town, part: str, path: str, content: bytes) -> None:
    check(town.post(part, path, content))


@pytest.mark.parametrize(("part", "path"), PAIRS)
@ANYTHING
@given(value=JSON)
def test_json_of_any_shape(town: Town, part: str, path: str, value: object) -> None:
    check(town.post(part, path, json.dumps(value).encode()))


@pytest.mark.parametrize("part", ["broker", "credentials"])
@ANYTHING
@given(data=st.data())
def test_a_genuine_request_with_anything_in_place_of_a_member(
    town: Town, master: Member, part: str, data: st.DataObject
) -> None:
    """The cap stays well-formed but for one member, at any depth of the document."""
    asked = master.asked(Op.CRED_FETCH, OPENROUTER)
    whole = json.loads(asked.http(cosign(town.stack, asked.cap)) if part == "credentials" else asked.cap.encode())
    place = whole["cap"] if part == "credentials" and data.draw(st.booleans()) else whole
    name = data.draw(st.sampled_from(sorted(place)))
    action = data.draw(st.sampled_from(["replace", "drop", "rename"]))
    value = place.pop(name)
    if action == "replace":
        place[name] = data.draw(JSON.filter(lambda found: found != value))
    elif action == "rename":
        place[data.draw(st.text(min_size=1, max_size=8))] = value
    path = "/v1/credentials/fetch" if part == "credentials" else "/v1/caps"
    answer = town.post(part, path, json.dumps(whole).encode())
    if part == "broker" and answer.is_success:
        assert set(answer.json()) == {"cosign", "kid"}  # a text for a text: the same one, or K11 in place of null
    else:
        check(answer)


@pytest.mark.parametrize("part", ["broker", "credentials"])
@ANYTHING
@given(data=st.data())
def test_a_genuine_request_with_flipped_bytes(town: Town, master: Member, part: str, data: st.DataObject) -> None:
    asked = master.asked(Op.CRED_FETCH, OPENROUTER)
    body = bytearray(asked.http(cosign(town.stack, asked.cap)) if part == "credentials" else asked.cap.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] ^= data.draw(st.integers(1, 255))
    answer = town.post(part, "/v1/credentials/fetch" if part == "credentials" else "/v1/caps", bytes(body))
    if not answer.is_success:
        check(answer)


@pytest.mark.parametrize("part", list(ROUTES))
@ANYTHING
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]),
    path=st.text("abcdefghij/.%-_~0123456789éß? ", max_size=60),
)
def test_any_path_and_method(town: Town, part: str, method: str, path: str) -> None:
    answer = town.web.request(method, f"{town.stack.origin(part)}/{quote(path)}")
    if method != "HEAD" and not answer.is_success:
        assert check(answer) in {"not_found", "method_not_allowed", "invalid_body"}


@pytest.mark.parametrize(("part", "path"), PAIRS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_every_route_refuses_other_methods_by_name(town: Town, part: str, path: str, method: str) -> None:
    answer = town.web.request(method, town.stack.origin(part) + path)
    expected = ("gone", 410) if path.startswith("/dev/") else ("method_not_allowed", 405)
    assert (check(answer), answer.status_code) == expected


@pytest.mark.parametrize("kind", ["operators", "devices"])
@ANYTHING
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).filter(
        lambda text: set(text) != {"."}
    )
)
def test_any_name_in_a_registry_read(town: Town, kind: str, name: str) -> None:
    answer = town.web.get(f"{town.stack.origin('broker')}/v1/registry/{kind}/{quote(name, safe='')}")
    if answer.is_success:
        assert answer.json()["devices"] == []
    else:
        assert check(answer) in {"invalid_omni", "invalid_encoding", "not_found"}


@pytest.mark.parametrize(("part", "path"), PAIRS)
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"content-type": "text/plain"}, "invalid_body"),
        ({"content-type": "application/json; charset=utf-16"}, None),
        ({"content-type": ""}, "invalid_body"),
        ({"content-encoding": "gzip"}, "invalid_body"),
        ({"content-type": "application/json" + "x" * 4000}, "invalid_body"),
        ({"authorization": "Bearer x.y.z", "cookie": "a=" + "b" * 2000}, None),
        ({"expect": "100-continue"}, None),
        ({"x-forwarded-for": "127.0.0.1", "forwarded": "for=signer"}, None),
    ],
)
def test_headers_of_all_kinds(town: Town, part: str, path: str, headers: dict[str, str], expected: str | None) -> None:
    given_headers = {"content-type": "application/json", **headers}
    answer = town.web.post(town.stack.origin(part) + path, content=b"{}", headers=given_headers)
    reason = check(answer)
    if expected is not None and not path.startswith("/dev/"):
        assert reason == expected


@pytest.mark.parametrize(("part", "path"), [pair for pair in PAIRS if not pair[1].startswith("/dev/")])
def test_too_much_is_refused_without_being_read(town: Town, part: str, path: str) -> None:
    """Declared too long, or sent too long without a length; both end by name, and soon."""
    size = 4 * 1024 * 1024
    assert reason_or_cut(town, part, path, b"[" * size) == "too_large"
    chunks = (b"[" * 65_536 for _ in range(size // 65_536))
    assert reason_or_cut(town, part, path, chunks) == "too_large"


def reason_or_cut(town: Town, part: str, path: str, content: bytes | Iterator[bytes]) -> str:
    """The refusal; a server that answers and hangs up while the body is still sent counts as one by that name."""
    try:
        headers = {"content-type": "application/json"}
        return check(town.web.post(town.stack.origin(part) + path, content=content, headers=headers))
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return "too_large"


def test_nesting_and_duplicates_have_their_reasons(town: Town) -> None:
    deep = b'{"a":' * 100 + b"1" + b"}" * 100
    for part, path in PAIRS:
        if path.startswith("/dev/"):
            continue
        expected = {"invalid_body", "invalid_change"}
        assert check(town.post(part, path, deep)) in expected
        assert check(town.post(part, path, b'{"cap":1,"cap":1}')) in expected
        assert check(town.post(part, path, b'{"cap":NaN}')) in expected
        assert check(town.post(part, path, b'{"cap":"\\ud800"}')) in expected


def test_a_boolean_is_no_integer(town: Town) -> None:
    body = canonical_json({"omni": "ab" * 32, "epoch": True})
    assert check(town.post("broker", "/v1/derive-address", body)) == "invalid_body"


@pytest.mark.parametrize("part", list(ROUTES))
@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/caps HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/caps HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        b"POST /v1/caps HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\nhost: x\n\n",
        b"POST /v1/caps HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=[
        "noise",
        "version",
        "negative length",
        "two lengths",
        "bad chunk",
        "long path",
        "long header",
        "http/2",
        "bare LF",
        "length and coding",
    ],
)
def test_what_is_no_http_is_cut_off_and_does_no_harm(town: Town, part: str, head: bytes) -> None:
    context = ssl.create_default_context(cafile=str(town.stack.ca))
    with (
        socket.create_connection(("127.0.0.1", town.stack.ports[part]), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        try:
            tls.sendall(head)
            answer = tls.recv(4096)
        except OSError:  # it had enough before all of it was sent
            answer = b""
    assert b"Traceback" not in answer
    assert not answer.startswith(b"HTTP/1.1 5")
    assert not answer.startswith(b"HTTP/1.1 2")
    assert town.web.get(town.stack.origin(part) + "/healthz").json()["status"] == "ok"


def test_no_part_logged_an_unforeseen_error(town: Town, master: Member) -> None:
    """Last in this file: after all of it, nothing failed in a way that has no name."""
    for part in ROUTES:
        log = (town.stack.root / "logs" / f"{part}.log").read_text()
        lines = [json.loads(line) for line in log.splitlines()]
        # What the HTTP library says of an answer to somebody whose bytes it has just given up on is no fault of ours.
        faults = [line for line in lines if "exception" in line and line["exception"] != "LocalProtocolError"]
        assert not faults
        assert not [line for line in lines if line["event"] == "failed"]
        assert "Traceback" not in log
