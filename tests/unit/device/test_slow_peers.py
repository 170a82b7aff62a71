"""A peer that goes on taking small steps holds nobody: an exchange has its time in all, from the first step to the last."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkeys_core.ops import WorkerClass
from certs.ca import Authority
from certs.profiles import Role
from device.errors import DeviceError, Trouble
from device.tls import peer_context, worker_peer
from device.transport import Channel, Stream
from tests.unit.device.deployment import TRUST_DOMAIN
from tests.unit.device.test_tls import ca_of, leaf

LIMIT_S = 0.5
#: How long a peer takes its small steps. Then it answers as it should, so that whoever waited for it would be content.
SLOW_S = 2.0
STEP_S = 0.1
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Peer = Callable[[socket.socket, ssl.SSLContext], None]


def steps() -> Iterator[None]:
    end = time.monotonic() + SLOW_S
    while time.monotonic() < end:
        time.sleep(STEP_S)
        yield


def never_shakes_hands(raw: socket.socket, context: ssl.SSLContext) -> None:
    for _ in steps():
        pass
    answers(raw, context)


def answers(raw: socket.socket, context: ssl.SSLContext, before: bytes = b"", small: bytes = b"") -> None:
    with context.wrap_socket(raw, server_side=True) as secured:
        secured.recv(65536)
        secured.sendall(before)
        if small:
            for _ in steps():
                secured.sendall(small)
            secured.sendall(b"\r\n" if before else b"")
        secured.sendall(OK[17:] if before else OK)


def trickles_its_head(raw: socket.socket, context: ssl.SSLContext) -> None:
    answers(raw, context, before=b"HTTP/1.1 200 OK\r\nX: ", small=b"x")


def never_goes_on(raw: socket.socket, context: ssl.SSLContext) -> None:
    answers(raw, context, small=b"HTTP/1.1 100 Continue\r\n\r\n")


def trickles_its_body(raw: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(raw, server_side=True) as secured:
        secured.recv(65536)
        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(STEP_S)
            secured.sendall(b" ")


def reads_nothing(raw: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(raw, server_side=True) as secured:
        for _ in steps():
            pass
        left = LARGE
        while left > 0 and (found := secured.recv(65536)):
            left -= len(found)
        secured.sendall(OK)


LARGE = 16 * 1024 * 1024


@contextlib.contextmanager
def peer_that(acts: Peer, authority: Authority, folder: Path) -> Iterator[Channel]:
    context = leaf(authority, folder / "w", Role.WORKER, WorkerClass.CREDENTIALS)

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as raw:
            raw.settimeout(10)
            acts(raw, context)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        peer = peer_context(worker_peer(TRUST_DOMAIN, WorkerClass.CREDENTIALS), ca_pem=ca_of(authority))
        try:
            with Channel(f"https://127.0.0.1:{server.getsockname()[1]}", peer, limit_s=LIMIT_S) as channel:
                yield channel
        finally:
            thread.join(15)


@pytest.mark.parametrize("acts", [never_shakes_hands, trickles_its_head, never_goes_on, trickles_its_body])
def test_an_exchange_ends_in_time(acts: Peer, authority: Authority, tmp_path: Path) -> None:
    with peer_that(acts, authority, tmp_path) as channel, pytest.raises(DeviceError) as caught:
        channel.get("/")
    assert caught.value.reason is Trouble.UNREACHABLE


def test_sending_ends_in_time(authority: Authority, tmp_path: Path) -> None:
    with peer_that(reads_nothing, authority, tmp_path) as channel, pytest.raises(DeviceError) as caught:
        channel.post("/", bytes(LARGE))
    assert caught.value.reason is Trouble.UNREACHABLE


def refuses_slowly(raw: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(raw, server_side=True) as secured:
        secured.recv(65536)
        secured.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(STEP_S)
            secured.sendall(b" ")


def compressed(raw: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(raw, server_side=True) as secured:
        secured.recv(65536)
        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")


@pytest.mark.parametrize(
    ("acts", "reason"),
    [
        (trickles_its_head, Trouble.UNREACHABLE),
        (refuses_slowly, Trouble.UNREACHABLE),
        (compressed, Trouble.ANSWER_NOT_TRUSTED),
    ],
)
def test_a_stream_begins_in_time_and_as_it_should(
    acts: Peer, reason: Trouble, authority: Authority, tmp_path: Path
) -> None:
    with (
        peer_that(acts, authority, tmp_path) as channel,
        pytest.raises(DeviceError) as caught,
        channel.stream("/", silence_s=10, headers={}),
    ):
        pass
    assert caught.value.reason is reason


def test_a_stream_goes_on_for_as_long_as_both_like(authority: Authority, tmp_path: Path) -> None:
    with (
        peer_that(trickles_its_body, authority, tmp_path) as channel,
        channel.stream("/", silence_s=10, headers={}) as found,
    ):
        assert isinstance(found, Stream)
        assert b"".join(found.chunks()) == b" " * 20
