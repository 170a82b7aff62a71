"""Connections each of whose steps ends at the latest when the whole exchange must: connecting, TLS, writing, reading.

A timeout of the library bounds each step alone, so that a peer which goes on taking small steps, as a header of one
byte at a time or interim answers without end, would hold a thread for ever.
"""

import math
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import httpcore

_UNTIL: Final[ContextVar[float]] = ContextVar("until", default=math.inf)


@contextmanager
def ends_within(limit_s: float) -> Iterator[None]:
    """For steps that this thread takes inside: from `limit_s` on each fails with an httpcore.TimeoutException."""
    before = _UNTIL.set(time.monotonic() + limit_s)
    try:
        yield
    finally:
        _UNTIL.reset(before)


def _left(timeout: float | None) -> float:
    """Seconds that a step may take which has `timeout` by itself."""
    left = _UNTIL.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the exchange has had its time")
    return left if timeout is None else min(left, timeout)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class BoundedBackend(httpcore.SyncBackend):
    """TCP for a pool of httpcore. Each address of a name has a step's time; resolving the name has the system's."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect. Raises httpcore.ConnectError or httpcore.TimeoutException."""
        return _Stream(super().connect_tcp(host, port, _left(timeout), local_address, socket_options))
