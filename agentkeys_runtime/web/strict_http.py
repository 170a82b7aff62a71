"""HTTP/1.1 as the library reads it, less what two readers could take for two different requests.

Whoever stands in front of us, a proxy of the host say, must see the end of each request where we see it: otherwise what
one sender wrote into a body is taken for the next one's request (RFC 9112, 11.2). The library takes lines that end in a
bare LF, and lets a `Transfer-Encoding` win over a `Content-Length`; both are refused here.
"""

import re
from typing import Final

import h11

_END_OF_HEAD: Final = b"\r\n\r\n"
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_HTTP_1_1: Final = b"1.1"


class StrictConnection(h11.Connection):
    """The server's side of one connection."""

    _is_chunked = False
    _last_read = b""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As the library does.

        Raises:
            h11.RemoteProtocolError: also for a head or trailers with a bare LF, or with two lengths of its body.
        """
        if self.their_state is h11.IDLE:
            # A head, or the part of one that is here; what follows its end is no longer head.
            _check_lines(self.trailing_data[0].partition(_END_OF_HEAD)[0])
        event = self._next_of_chunks() if self._is_chunked else super().next_event()
        if isinstance(event, h11.Request):
            self._is_chunked, self._last_read = _is_chunked(event), b""
        elif isinstance(event, h11.EndOfMessage):
            self._is_chunked = False
        return event

    def _next_of_chunks(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """What is read for the end of a message is its last chunk's head and its trailers: lines, no data."""
        before = self.trailing_data[0]
        event = super().next_event()
        read = before[: len(before) - len(self.trailing_data[0])]
        if isinstance(event, h11.EndOfMessage):
            _check_lines(self._last_read + read, start=len(self._last_read))
        self._last_read = read[-1:] or self._last_read
        return event


def _check_lines(lines: bytes, *, start: int = 0) -> None:
    if _BARE_LF.search(lines, start):
        raise h11.RemoteProtocolError("a line ends in a bare LF")


def _is_chunked(request: h11.Request) -> bool:
    """Whether a body comes in chunks.

    RFC 9112, 6.1: two lengths at once, or a transfer coding in HTTP/1.0, mark a request that was tampered with.
    """
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return False
    if b"content-length" in names or request.http_version != _HTTP_1_1:
        raise h11.RemoteProtocolError("two lengths of one body")
    return True
