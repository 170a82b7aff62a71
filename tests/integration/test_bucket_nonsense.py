"""Object stores that answer nonsense, or nothing: each is a named refusal with its signed row, and never a hang."""

import http.server
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.encoding import canonical_json
from signer.ports import StsSession
from tests.fakes.services_kit import Services, services_in
from tests.fakes.serving import served
from tests.unit.signer.world import ARN
from worker.adapters.objects_s3 import Bucket

#: Longer than any call to a store may take.
SILENCE_S = 10.0


class Exchange:
    """Gives everybody the same session: whoever answers here checks nothing."""

    def assume_role(self, **_asked: str) -> StsSession:
        return StsSession(access_key_id="A", secret_access_key="secret", session_token="token", expires_at=1)


class Peer(http.server.BaseHTTPRequestHandler):
    """Answers every verb with what the test says."""

    behave: Callable[["Peer"], None] = staticmethod(lambda _: None)

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Peer.behave(self)

    def do_PUT(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | given).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """One that takes connections which break as they come."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with served(Server(("127.0.0.1", 0), Peer)) as port:
        bucket = Bucket(endpoint=f"http://127.0.0.1:{port}", region="us-east-1", name="objects", role_arn=ARN)
        with services_in(tmp_path, exchange=Exchange(), bucket=bucket) as made:
            yield made


def cut_off(peer: Peer) -> None:
    peer.answer(200, b"begun", Content_Length="5000")
    peer.close_connection = True


def says_nothing(_: Peer) -> None:
    time.sleep(SILENCE_S)


def speaks_tls(peer: Peer) -> None:
    peer.wfile.write(b"\x16\x03\x03\x00\x02\x02\x28")


NONSENSE: dict[str, Callable[[Peer], None]] = {
    "nothing": lambda peer: setattr(peer, "close_connection", True),
    "silence": says_nothing,
    "not http": speaks_tls,
    "page": lambda peer: peer.answer(500, b"<html>"),
    "teapot": lambda peer: peer.answer(418, b"token"),
    "refusal without words": lambda peer: peer.answer(403),
    "unauthorised": lambda peer: peer.answer(401),
    "loop": lambda peer: peer.answer(307, Location="/"),
    "elsewhere": lambda peer: peer.answer(301, Location="http://127.0.0.1:1/"),
    "length": lambda peer: peer.answer(200, Content_Length="-1"),
}


OBJECT = {"ETag": '"a"', "Last_Modified": "Fri, 27 Nov 2026 03:00:00 GMT"}


def refused(services: Services, operation: str, reason: str) -> None:
    asked = {"store": services.store, "fetch": services.fetch}[operation]()
    answered = services.send(asked)
    assert answered.reason == reason
    assert AuditRow.parse(canonical_json(answered.row)).content().result is OpResult.FAILURE
    assert "token" not in str(answered.json)


@pytest.mark.parametrize("operation", ["store", "fetch"])
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_a_named_refusal(
    services: Services, monkeypatch: pytest.MonkeyPatch, operation: str, kind: str
) -> None:
    monkeypatch.setattr(Peer, "behave", staticmethod(NONSENSE[kind]))
    refused(services, operation, "object_store_unavailable")


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_delete_that_nonsense_answers_is_not_called_done(
    services: Services, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Peer, "behave", staticmethod(NONSENSE[kind]))
    asked = services.delete()
    assert services.send(asked).reason == "object_store_unavailable"
    monkeypatch.setattr(Peer, "behave", staticmethod(lambda peer: peer.answer(204)))
    assert services.send(asked).reason == "ok"


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (lambda peer: peer.answer(200), "invalid_envelope"),
        (cut_off, "object_store_unavailable"),
        (lambda peer: peer.answer(200, Content_Length=str(1 << 40), **OBJECT), "invalid_envelope"),
        (lambda peer: peer.answer(404, b"token"), "object_not_found"),
    ],
)
def test_a_read_of_nonsense_is_a_named_refusal(
    services: Services, monkeypatch: pytest.MonkeyPatch, behave: Callable[[Peer], None], reason: str
) -> None:
    """The third has no end: what is longer than any envelope is not read at all."""
    monkeypatch.setattr(Peer, "behave", staticmethod(behave))
    refused(services, "fetch", reason)
