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

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As the library does.

        Raises:
            h11.RemoteProtocolError: also for a head with a bare LF, or with two lengths of its body.
        """
        if self.their_state is h11.IDLE:
            _check_lines(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check_length(event)
        return event


def _check_lines(received: bytes) -> None:
    """Pass a head, or the part of one that is here; what follows its end is no longer head."""
    if _BARE_LF.search(received.partition(_END_OF_HEAD)[0]):
        raise h11.RemoteProtocolError("a line ends in a bare LF")


def _check_length(request: h11.Request) -> None:
    """RFC 9112, 6.1: both at once, or a transfer coding in HTTP/1.0, mark a request that was tampered with."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version != _HTTP_1_1):
        raise h11.RemoteProtocolError("two lengths of one body")
