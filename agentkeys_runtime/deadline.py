"""An exchange over a socket that ends in time, whatever the other side does.

A timeout bounds each step alone: a server that goes on taking small steps would hold a thread for ever.
"""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

#: How soon a socket is cut that was not there yet, or was replaced, when its time was over.
_AGAIN_S: Final = 0.05


@contextmanager
def connected(connection: http.client.HTTPConnection, limit_s: float) -> Iterator[None]:
    """Connect, and close at the end; from `limit_s` after the connection stands on, as `ends_within`."""
    try:
        connection.connect()
        held = connection.sock  # the library forgets it before the body of an answer is read
        with ends_within(limit_s, lambda: held):
            yield
    finally:
        connection.close()


@contextmanager
def ends_within(limit_s: float, of: Callable[[], socket.socket | None]) -> Iterator[None]:
    """From `limit_s` on, every step that waits for the socket fails with an OSError, or as at the connection's end.

    Args:
        limit_s: seconds from now.
        of: tells the socket of the exchange as it is then, None where there is none. Called on another thread.

    Raises:
        TimeoutError: the exchange looks complete, and was cut: what was read may lack its end.
    """
    over, late = threading.Event(), threading.Event()
    watch = threading.Thread(target=_cut, args=(time.monotonic() + limit_s, of, over, late), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
    if late.is_set():
        raise TimeoutError(f"no end within {limit_s} s")


def _cut(deadline: float, of: Callable[[], socket.socket | None], over: threading.Event, late: threading.Event) -> None:
    """End whatever waits. Below TLS: a TLS object must not change while another thread reads it."""
    while not over.wait(max(deadline - time.monotonic(), _AGAIN_S)):
        late.set()
        found = of()
        if found is not None:
            with suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)
