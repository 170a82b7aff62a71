"""The headers of every answer of the device's own pages, graded: the console's and those of one K11 ceremony."""

import socket
from collections.abc import Iterator
from email.parser import BytesHeaderParser

import httpx
import pytest

from device.home import Home
from device.intent import Intent
from device.k11.browser import BrowserAuthenticator
from device.k11.ceremony import read_creation
from device.k11.page import _Site
from device.keys import SignedDigest
from device.local_web import TOKEN_HEADER
from tests.fakes.header_grades import faults
from tests.unit.device.browser_key import CHALLENGE, Key
from tests.unit.device.console_kit import Visitor
from tests.unit.device.test_k11_page import Visit

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW")


@pytest.fixture
def visit(home: Home, signed: tuple[SignedDigest, Intent]) -> Iterator[Visit]:
    record = read_creation(Key().create(CHALLENGE), challenge=CHALLENGE)
    made = Visit(lambda announce, port: BrowserAuthenticator(announce, port=port).approve(record, *signed))
    yield made
    made.end()


def graded(answer: httpx.Response) -> None:
    assert faults(answer.headers, named=False, script=True, passkeys=True) == [], (answer.request, answer.status_code)
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["server"] == "agentkeys"


def ask_everything(client: httpx.Client, root: str, token: str, paths: set[str]) -> None:
    """Each path by each method: by a stranger, by our own page, under a rebound name, and outside of our own path."""
    origin = root.rpartition("/")[0]
    own = {TOKEN_HEADER: token, "Origin": origin, "Content-Type": "application/json"}
    for path in {f"{root}{path}" for path in paths | {"/nowhere"}} | {origin + "/"}:
        for method in METHODS:
            body = b"{}" if method == "POST" else None
            for headers in ({}, own, {**own, "Host": "evil.test"}):
                graded(client.request(method, path, headers=headers, content=body))


def test_every_path_of_the_console(visitor: Visitor) -> None:
    console = visitor.console
    paths = {*console.files, *console.routes["GET"], *console.routes["POST"]}
    ask_everything(visitor.client, visitor.root, console.token, paths)


def test_every_path_of_a_ceremony(visit: Visit) -> None:
    ask_everything(visit.client, visit.base, visit.token, {*_Site.files, "/task", "/answer"})


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    ],
    ids=["version", "noise", "long path", "many headers"],
)
def test_what_is_no_http(visitor: Visitor, head: bytes) -> None:
    host, _, port = visitor.origin.removeprefix("http://").partition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(head)
        plain.shutdown(socket.SHUT_WR)
        try:
            while chunk := plain.recv(65_536):
                answer += chunk
        except ConnectionResetError:  # it had enough before all of it was sent
            pass
    assert b"<" not in answer, "a page of the library's own"
    status, _, rest = answer.partition(b"\r\n")
    if status.startswith(b"HTTP/1"):
        found = {name.lower(): value for name, value in BytesHeaderParser().parsebytes(rest).items()}
        assert faults(found, named=False, script=True, passkeys=True) == [], status
