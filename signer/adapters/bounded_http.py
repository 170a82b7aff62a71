"""One HTTP exchange that ends in time, whatever the other side does."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def connected(connection: http.client.HTTPConnection, limit_s: float) -> Iterator[None]:
    """Connect, and close at the end; `limit_s` after the connection stands, every step that still waits fails.

    A timeout bounds each step alone: an endpoint that goes on taking small steps would hold a thread for ever.
    """
    try:
        connection.connect()
        late = threading.Timer(limit_s, _cut, (connection.sock,))
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()
    finally:
        connection.close()


def _cut(connected_socket: socket.socket) -> None:
    """End whatever waits for this connection. Below TLS: a TLS object must not change while another thread reads it."""
    with suppress(OSError):
        socket.socket.shutdown(connected_socket, socket.SHUT_RDWR)
