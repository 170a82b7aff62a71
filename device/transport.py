"""HTTPS to one origin of the profile: checked peer, no redirects, no proxies, bounded in size and time."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Self

import httpcore

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from device.bounded_steps import BoundedBackend, ends_within
from device.errors import DeviceError, Trouble

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 30.0
#: For all of an exchange: a peer that takes a small step now and then is still cut off.
TOTAL_TIMEOUT_S: Final = 60.0
_CONNECTIONS: Final = 100
_IDLE_S: Final = 5.0
#: A fetched value of 64 KiB is sealed and coded twice; a page of audit rows is the longest answer.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_DIGITS: Final = 5  # of a Retry-After: a day
_HEADERS: Final = {
    "Accept-Encoding": "identity",
    "Accept": "application/json, application/problem+json",
    "User-Agent": "agentkeys",
}
_FAILURES: Final = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body bytes of one HTTP answer; nothing in it has been verified.

    `retry_after_s` is what the part asks to wait before the next try, None where it says nothing.
    """

    status: int
    body: bytes
    retry_after_s: int | None = None

    def json(self) -> object:
        """Return the parsed body. Raises `answer_not_trusted`."""
        try:
            return strict_json(self.body, limit=MAX_ANSWER_BYTES, reason=Reason.INVALID_ENCODING)
        except KeyServiceError as exc:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the answer is not JSON") from exc


@contextmanager
def _named_errors(origin: str) -> Iterator[None]:
    """Turn the library's errors into ours: what TLS refused is not trusted, everything else is unreachable."""
    try:
        yield
    except _FAILURES as exc:
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise DeviceError(Trouble.PEER_NOT_TRUSTED, f"{origin}: {cause.verify_message}") from exc
            cause = cause.__cause__ or cause.__context__
        raise DeviceError(Trouble.UNREACHABLE, f"{origin}: {type(exc).__name__}") from exc


class Stream:
    """An answer that goes on for as long as both sides like. Nothing in it has been verified."""

    __slots__ = ("_response", "status")

    def __init__(self, response: httpcore.Response) -> None:
        self.status = response.status
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """What comes, as it comes."""
        return self._response.iter_stream()

    def cut(self) -> None:
        """End it at once, from any thread: whoever waits for a chunk gets `unreachable`, or the end."""
        found = self._response.extensions.get("network_stream")
        connected = None if found is None else found.get_extra_info("socket")
        if isinstance(connected, socket.socket):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def _seconds(value: str) -> int | None:
    """A Retry-After in seconds; its other form, a date, is not used by our parts."""
    return int(value) if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS else None


def _header(response: httpcore.Response, name: bytes) -> str:
    """The header's value; empty where there is none, of several the first."""
    return next((value.decode("latin-1") for found, value in response.headers if found.lower() == name), "")


def _check_coding(response: httpcore.Response) -> None:
    if _header(response, b"content-encoding") not in ("", "identity"):
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the answer is compressed, which was not asked for")


class Channel:
    """Requests to one origin over connections whose peer was checked by `context` (see `device.tls`)."""

    __slots__ = ("_limit_s", "_pool", "_url", "origin")

    def __init__(self, origin: str, context: ssl.SSLContext, *, limit_s: float = TOTAL_TIMEOUT_S) -> None:
        """An exchange has `limit_s` in all. Raises `usage` where `origin` is no address."""
        self.origin = origin
        self._limit_s = limit_s
        try:
            self._url = httpcore.URL(origin)
        except (TypeError, ValueError) as exc:
            raise DeviceError(Trouble.USAGE, f"{origin}: no such address") from exc
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            network_backend=BoundedBackend(),
            max_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE_S,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def get(
        self, path: str, *, timeout_s: float = READ_TIMEOUT_S, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        """Read `path`. Raises as `post`."""
        return self._send("GET", path, b"", timeout_s, headers)

    def post(
        self,
        path: str,
        body: bytes,
        *,
        timeout_s: float = READ_TIMEOUT_S,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Send JSON bytes to `path`.

        Raises:
            DeviceError: `peer_not_trusted` before anything was sent; `unreachable`, when the request may or may not
                have arrived; `answer_not_trusted` for an answer that is too long or coded.
        """
        return self._send("POST", path, body, timeout_s, {**headers, "Content-Type": "application/json"})

    @contextmanager
    def stream(self, path: str, *, silence_s: float, headers: Mapping[str, str]) -> Iterator[Stream | Answer]:
        """GET a path whose answer goes on: what comes, or the whole answer where the status is not 200.

        Raises:
            DeviceError: as `post`, also while it is read; `unreachable` after `silence_s` without a byte.
        """
        with _named_errors(self.origin):
            with ends_within(self._limit_s):
                response = self._begin("GET", path, b"", silence_s, headers)
            try:
                if response.status != HTTPStatus.OK:
                    with ends_within(self._limit_s):
                        body = self._body(response)
                    yield Answer(response.status, body)
                    return
                _check_coding(response)
                yield Stream(response)
            finally:
                response.close()

    def _send(self, method: str, path: str, body: bytes, timeout_s: float, headers: Mapping[str, str]) -> Answer:
        with _named_errors(self.origin), ends_within(self._limit_s):
            response = self._begin(method, path, body, timeout_s, headers)
            try:
                found = self._body(response)
                return Answer(response.status, found, _seconds(_header(response, b"retry-after")))
            finally:
                response.close()

    def _begin(
        self, method: str, path: str, body: bytes, timeout_s: float, headers: Mapping[str, str]
    ) -> httpcore.Response:
        """Send it, and return once the head of its answer is here; whoever asks closes it."""
        url = httpcore.URL(scheme=self._url.scheme, host=self._url.host, port=self._url.port, target=path)
        sent = {"Host": self.origin.removeprefix("https://"), **_HEADERS, **headers}
        if method == "POST":
            sent["Content-Length"] = str(len(body))
        steps = dict.fromkeys(("read", "write"), timeout_s) | dict.fromkeys(("connect", "pool"), CONNECT_TIMEOUT_S)
        request = httpcore.Request(method, url, headers=list(sent.items()), content=body, extensions={"timeout": steps})
        return self._pool.handle_request(request)

    def _body(self, response: httpcore.Response) -> bytes:
        _check_coding(response)
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        return bytes(body)
