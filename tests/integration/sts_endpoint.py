"""An STS peer on loopback that can be anything: one that verifies for real, one that is gone, one that answers nonsense.

What verifies is `tests.fakes.sts_endpoint`; here is the wire, so that a test can break that as well.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qs

from tests.fakes.sts_endpoint import StsEndpoint

#: Takes the connection after the request was read; returns or raises once it is done with it.
Behaviour = Callable[[socket.socket], None]
#: Nothing here goes on for longer, so that a client without patience of its own fails a test instead of hanging it.
_LIMIT_S = 20.0


class Peer:
    """Plain HTTP on one port of loopback. `forms` are the requests that came, honest or not."""

    def __init__(self, endpoint: StsEndpoint) -> None:
        self.endpoint = endpoint
        self.behaviour: Behaviour | None = None
        self.forms: list[dict[str, str]] = []
        self._port = 0
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more: who connects is refused."""
        if self._listener is None or self._thread is None:
            return
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread out of accept
        self._listener.close()
        self._thread.join()
        self._listener = self._thread = None

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A thread each: a client that is kept busy by one answer must not spoil the next.
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(_LIMIT_S)
            form = _read_form(connection)
            self.forms.append(form)
            if self.behaviour is not None:
                self.behaviour(connection)
                return
            status, answer = self.endpoint.exchange(form)
            connection.sendall(http_answer(answer, status=status))


def _read_form(connection: socket.socket) -> dict[str, str]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = [
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    ]
    while len(body) < length:
        body += connection.recv(65_536)
    return {name: values[0] for name, values in parse_qs(body.decode()).items()}


def http_answer(body: bytes, *, status: int = 200, headers: bytes = b"") -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %d Answer\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), headers) + body


def sends(data: bytes) -> Behaviour:
    """Send exactly this, then close."""
    return lambda connection: connection.sendall(data)


def sends_for_ever(head: bytes, chunk: bytes, *, pause_s: float = 0.0) -> Behaviour:
    """Send `head`, then `chunk` again and again, as fast as it is taken or with pauses."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(head)
        until = time.monotonic() + _LIMIT_S
        while time.monotonic() < until:
            connection.sendall(chunk)
            time.sleep(pause_s)

    return behave


def says_nothing(seconds: float) -> Behaviour:
    """Keep the connection open, and silent."""
    return lambda _: time.sleep(seconds)
