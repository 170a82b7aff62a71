"""Requests whose end a proxy could see elsewhere than we do: refused, however they arrive."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_runtime.web.strict_http import StrictConnection

GOOD = b"POST /v1/caps HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\na\nb\n"
CHUNKED = b"POST /v1/caps HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\n\n\r\n0\r\n\r\n"
BAD = {
    "a bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "a bare LF after a header": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "a head that ends in bare LFs": b"GET / HTTP/1.1\r\nHost: a\n\n",
    "a head whose last line is a bare LF": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare LFs alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "an empty line before it": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bare LF that ends the trailers": CHUNKED.removesuffix(b"\r\n") + b"\n",
    "a bare LF after a trailer": CHUNKED.removesuffix(b"\r\n") + b"X: y\n\r\n",
    "length, then coding": CHUNKED.replace(b"Transfer", b"Content-Length: 4\r\nTransfer"),
    "coding, then length": CHUNKED.replace(b"chunked", b"chunked\r\nContent-Length: 4"),
    "a coding in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


def events(*parts: bytes) -> list[str]:
    """What a connection makes of these bytes; several requests are answered in turn."""
    connection, found = StrictConnection(h11.SERVER), []
    for part in parts:
        connection.receive_data(part)
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            found.append(type(event).__name__)
            if isinstance(event, h11.EndOfMessage):
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
    return found


@pytest.mark.parametrize("request_bytes", [GOOD, CHUNKED])
def test_what_a_body_holds_is_its_own_affair(request_bytes: bytes) -> None:
    assert events(request_bytes)[0] == "Request"
    assert events(request_bytes, request_bytes).count("EndOfMessage") == 2
    assert events(request_bytes + request_bytes).count("EndOfMessage") == 2


@pytest.mark.parametrize("what", BAD)
def test_what_two_readers_could_take_for_two_requests_is_refused(what: str) -> None:
    for parts in ([BAD[what]], [GOOD, BAD[what]], [GOOD + BAD[what]], [bytes([byte]) for byte in BAD[what]]):
        with pytest.raises(h11.RemoteProtocolError):
            events(*parts)


TRAILED = CHUNKED.removesuffix(b"\r\n") + b"X: y\r\n\r\n"


@given(data=st.data(), request_bytes=st.sampled_from([GOOD, CHUNKED, TRAILED]))
def test_it_does_not_matter_where_a_packet_ends(data: st.DataObject, request_bytes: bytes) -> None:
    cuts = data.draw(st.sets(st.integers(1, len(request_bytes) - 1)).map(sorted))
    parts = [request_bytes[start:end] for start, end in pairwise([0, *cuts, len(request_bytes)])]
    assert events(*parts).count("EndOfMessage") == 1
