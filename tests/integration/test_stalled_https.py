"""Slow, half-open and silent clients against an HTTPS server as broker and workers run it: ordinary requests go on."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from tests.fakes import stalled
from tests.integration.signer_process import eventually
from tests.unit.runtime.certificates import Files, Issuer, uri

SERVER = """
import sys
from pathlib import Path
from agentkeys_runtime.web import app, patience, serve
from agentkeys_runtime.web.endpoints import Endpoint
from agentkeys_runtime.web.settings import TlsSettings

folder = Path(sys.argv[1])
for setting in sys.argv[2:]:
    place, _, value = setting.partition("=")
    module, _, name = place.partition(".")
    setattr({"app": app, "patience": patience, "serve": serve}[module], name, float(value))
tls = TlsSettings(certificate=folder / "cert.pem", key=folder / "key.pem", ca=folder / "ca.pem")
endpoints = (
    Endpoint(method="POST", path="/echo", summary="s", request={}, response={}, body_limit=1_000_000,
             handler=lambda call: {"size": len(call.body)}),
    Endpoint(method="GET", path="/long", summary="s", response={}, handler=lambda _: {"long": "x" * 30_000_000}),
)
with serve.listen_on("127.0.0.1:0") as listener:
    serve.serve(app.create_app("test", endpoints), listener, tls)
"""
#: What a client gives one request. A server that waits for stalled clients answers nothing for far longer.
DEADLINE_S = 10.0
HALF_HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
HALF_BODY = HALF_HEAD + b"Content-Length: 1000\r\n\r\n{"


class Server:
    def __init__(self, folder: Path, origin: str) -> None:
        self.origin, self.target = origin, origin.removeprefix("https://")
        self.context = ssl.create_default_context(cafile=str(folder / "ca.pem"))

    def served(self, requests: int = 40) -> None:
        """Ordinary requests over new connections, each inside its deadline."""
        with httpx.Client(base_url=self.origin, verify=self.context, trust_env=False, timeout=DEADLINE_S) as client:

            def one(_: int) -> int:
                return client.post("/echo", content=b"{}", headers={"Content-Type": "application/json"}).status_code

            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(one, range(requests))) == {200}

    def idle(self, held: ExitStack, count: int, sends: bytes = b"") -> list[ssl.SSLSocket]:
        made = stalled.idle(held, self.target, count, self.context, "127.0.0.1")
        for connection in made:
            if sends:
                connection.sendall(sends)
        return made


@contextmanager
def running(folder: Path, *settings: str) -> Iterator[Server]:
    Files(folder).write(Issuer(), names=(uri("broker/main"), x509.IPAddress(ip_address("127.0.0.1"))))
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Server(folder, process.stdout.readline().removeprefix("ready ").strip())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("https")) as made:
        yield made


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it, after whatever it had still to say."""
    connection.settimeout(0.01)
    try:
        return connection.recv(65_536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_idle_half_open_and_half_sent_stop_nobody(server: Server) -> None:
    with ExitStack() as held:
        server.idle(held, 200)
        stalled.half_handshakes(held, server.target, 50)
        server.idle(held, 50, HALF_HEAD)
        server.served()


def test_bodies_that_do_not_come_stop_nobody(server: Server) -> None:
    """More of them than are read at once: the oldest gives way, and hears why."""
    with ExitStack() as held:
        slow = server.idle(held, 300, HALF_BODY)
        server.served()
        assert b"429" in slow[0].recv(4096)


def test_answers_that_nobody_reads_stop_nobody(server: Server) -> None:
    with ExitStack() as held:
        server.idle(held, 10, b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        server.served()


def test_where_connections_run_out_the_longest_silent_one_goes(tmp_path: Path) -> None:
    with running(tmp_path, "patience.MAX_CONNECTIONS=40") as server, ExitStack() as held:
        silent = server.idle(held, 60)
        server.served()
        assert is_closed(silent[0])
        assert not is_closed(silent[-1])


def test_each_step_has_its_time(tmp_path: Path) -> None:
    """Handshake, first head, the rest of a head, the next head, the reading of an answer."""
    times = ("patience.HEAD_S=0.5", "patience.READ_S=0.5", "serve.HANDSHAKE_S=0.5", "serve.KEEP_ALIVE_S=0.5")
    with running(tmp_path, *times) as server, ExitStack() as held:
        plain = held.enter_context(socket.create_connection(stalled.address_of(server.target), timeout=10))
        plain.sendall(b"\x16\x03\x01")
        (silent,) = server.idle(held, 1)
        (begun,) = server.idle(held, 1, b"GET /echo HTTP/1.1\r\nHo")
        (answered,) = server.idle(held, 1, b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"404" in answered.recv(4096)
        answered.sendall(b"GET /none HTTP/1.1\r\n")
        (unread,) = server.idle(held, 1, b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        for connection in (plain, silent, begun, answered):
            eventually(partial(is_closed, connection))
        eventually(lambda: is_cut_off(unread))
        server.served()


def is_cut_off(connection: ssl.SSLSocket) -> bool:
    """Whether an answer ends before its end, once somebody reads it after all."""
    time.sleep(1.5)  # unread means just that: there is nothing to watch meanwhile
    size = 0
    connection.settimeout(10)
    try:
        while chunk := connection.recv(1_000_000):
            size += len(chunk)
    except OSError:
        pass
    return size < 30_000_000


def test_requests_sent_ahead_are_all_answered(server: Server) -> None:
    with ExitStack() as held:
        (connection,) = server.idle(held, 1, b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        answers = b""
        while answers.count(b"HTTP/1.1 404") < 5:
            chunk = connection.recv(65_536)
            assert chunk
            answers += chunk
