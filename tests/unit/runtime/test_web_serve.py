"""The HTTPS server as a real process: its ready line, TLS 1.3, replaced certificates, and its end."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.web.serve import listen_on, origin_of
from tests.unit.runtime.certificates import Files, Issuer, uri

NAMES = (uri("broker/main"), x509.IPAddress(ip_address("127.0.0.1")))
SERVER = """
import resource, sys, time
from pathlib import Path
from agentkeys_runtime.web import patience
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import Endpoint
from agentkeys_runtime.web.serve import listen_on, serve
from agentkeys_runtime.web.settings import TlsSettings

def slow(call):
    time.sleep(3)
    return {}

if len(sys.argv) > 2:
    patience.HEAD_S, patience.MAX_CONNECTIONS = float(sys.argv[2]), int(sys.argv[3])

folder = Path(sys.argv[1])
tls = TlsSettings(certificate=folder / "cert.pem", key=folder / "key.pem", ca=folder / "ca.pem")
endpoints = (
    Endpoint(method="GET", path="/core", summary="s", response={},
             handler=lambda _: {"core": resource.getrlimit(resource.RLIMIT_CORE)[0]}),
    Endpoint(method="GET", path="/slow", summary="s", response={}, handler=slow),
)
with listen_on("127.0.0.1:0") as listener:
    serve(create_app("test", endpoints), listener, tls)
"""


@dataclass
class Running:
    process: subprocess.Popen[str]
    origin: str
    files: Files
    issuer: Issuer

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.origin.removeprefix("https://").rpartition(":")
        return host, int(port)

    @contextmanager
    def connected(self) -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(self.address) as raw,
            self.context().wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            tls.settimeout(10)
            yield tls

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.files.ca))

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.origin, verify=self.context(), trust_env=False)

    def serial(self) -> int:
        with self.connected() as tls:
            found = tls.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found).serial_number

    def end(self) -> tuple[int, float]:
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20), time.monotonic() - started


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@contextmanager
def serving(folder: Path, issuer: Issuer, *limits: float) -> Iterator[Running]:
    files = Files(folder)
    files.write(issuer, names=NAMES)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), *map(str, limits)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready https://127.0.0.1:"), line
        yield Running(process, line.removeprefix("ready ").strip(), files, issuer)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def running(tmp_path: Path, issuer: Issuer) -> Iterator[Running]:
    with serving(tmp_path / "tls", issuer) as made:
        yield made


def test_it_serves_without_cores_and_names_no_software(running: Running) -> None:
    with running.client() as client:
        answer = client.get("/core")
        assert answer.json() == {"core": 0}
        assert "server" not in answer.headers


def test_tls_1_2_is_refused(running: Running) -> None:
    context = running.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(running.address) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_a_replaced_certificate_is_taken_up(running: Running) -> None:
    made = running.files.write(running.issuer, names=NAMES)
    deadline = time.monotonic() + 10
    while running.serial() != made.serial_number:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_ends_cleanly_with_idle_connections_open(running: Running) -> None:
    with (
        running.client() as client,
        socket.create_connection(running.address) as raw,
        running.context().wrap_socket(raw, server_hostname="127.0.0.1"),
        socket.create_connection(running.address),
    ):
        client.get("/core")
        status, took = running.end()
    assert status == 0
    assert took < 10


def test_it_ends_while_a_request_runs(running: Running) -> None:
    with running.connected() as tls:
        tls.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        status, _ = running.end()
    assert status == 0


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /core HTTP/9.9\r\n\r\n",
        b"GET /core HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000,
        b"POST /core HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /core HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_no_request_does_no_harm(running: Running, head: bytes) -> None:
    with running.connected() as tls:
        tls.sendall(head)
        assert b" 500 " not in tls.recv(4096)
    with running.client() as client:
        assert client.get("/core").status_code == 200


def closed(tls: ssl.SSLSocket) -> bool:
    """Whether the server hangs up."""
    try:
        return tls.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def test_silent_and_dribbling_connections_make_room_for_others(tmp_path: Path, issuer: Issuer) -> None:
    """Eight connections are all that this server has: the longest silent one gives way, the others end in time."""
    with serving(tmp_path / "tls", issuer, 0.5, 8) as running, ExitStack() as stack:
        held = [stack.enter_context(running.connected()) for _ in range(8)]
        for tls in held[4:]:
            tls.sendall(b"GET /core HTTP/1.1\r\nHost: a\r\nX: ")
        with running.client() as client:
            assert client.get("/core").status_code == 200
        assert all(closed(tls) for tls in held)


def test_where_all_connections_are_answered_one_more_is_refused_by_name(tmp_path: Path, issuer: Issuer) -> None:
    with serving(tmp_path / "tls", issuer, 5.0, 8) as running, ExitStack() as stack:
        for tls in [stack.enter_context(running.connected()) for _ in range(8)]:
            tls.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.5)  # until the last of them is being answered
        with running.client() as client:
            refused = client.get("/core")
            assert (refused.status_code, refused.json()["reason"]) == (429, "overloaded")


def test_an_answer_may_take_longer_than_a_head(tmp_path: Path, issuer: Issuer) -> None:
    with serving(tmp_path / "tls", issuer, 0.2, 8) as running, running.client() as client:
        assert [client.get(path).status_code for path in ("/core", "/slow", "/core")] == [200, 200, 200]


def test_requests_that_come_at_once_are_answered_in_order(tmp_path: Path, issuer: Issuer) -> None:
    with serving(tmp_path / "tls", issuer, 0.2, 8) as running, running.connected() as tls:
        tls.sendall(b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in (b"/core", b"/slow", b"/core")))
        said = b""
        while said.count(b" 200 ") < 3:
            chunk = tls.recv(65536)
            assert chunk
            said += chunk


def test_a_port_that_is_taken_is_named() -> None:
    with listen_on("127.0.0.1:0") as listener:
        port = origin_of(listener).rpartition(":")[2]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            listen_on(f"127.0.0.1:{port}")


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_ipv6_origins_have_brackets() -> None:
    with listen_on("[::1]:0") as listener:
        assert origin_of(listener).startswith("https://[::1]:")
