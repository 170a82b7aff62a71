"""HTTPS to one origin of the profile: checked peer, no redirects, no proxies, bounded in size and time."""

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Self

import httpx

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from device.errors import DeviceError, Trouble

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 30.0
#: A peer that sends a byte now and then is still cut off.
TOTAL_TIMEOUT_S: Final = 60.0
#: A fetched value of 64 KiB is sealed and coded twice; a page of audit rows is the longest answer.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_DIGITS: Final = 5  # of a Retry-After: a day
_HEADERS: Final = {
    "Accept-Encoding": "identity",
    "Accept": "application/json, application/problem+json",
    "User-Agent": "agentkeys",
}


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
    except httpx.HTTPError as exc:
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise DeviceError(Trouble.PEER_NOT_TRUSTED, f"{origin}: {cause.verify_message}") from exc
            cause = cause.__cause__ or cause.__context__
        raise DeviceError(Trouble.UNREACHABLE, f"{origin}: {type(exc).__name__}") from exc
    except httpx.InvalidURL as exc:
        raise DeviceError(Trouble.USAGE, f"{origin}: no such address") from exc


class Stream:
    """An answer that goes on for as long as both sides like. Nothing in it has been verified."""

    __slots__ = ("_response", "status")

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """What comes, as it comes."""
        return self._response.iter_raw()

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


def _timeout(read_s: float) -> httpx.Timeout:
    return httpx.Timeout(read_s, connect=CONNECT_TIMEOUT_S)


def _check_coding(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the answer is compressed, which was not asked for")


class Channel:
    """Requests to one origin over connections whose peer was checked by `context` (see `device.tls`)."""

    __slots__ = ("_client", "origin")

    def __init__(self, origin: str, context: ssl.SSLContext) -> None:
        self.origin = origin
        self._client = httpx.Client(
            base_url=origin,
            verify=context,
            trust_env=False,
            follow_redirects=False,
            headers=_HEADERS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(
        self, path: str, *, timeout_s: float = READ_TIMEOUT_S, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        """Read `path`. Raises as `post`."""
        return self._send(self._client.build_request("GET", path, headers=headers, timeout=_timeout(timeout_s)))

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
        sent = {**headers, "Content-Type": "application/json"}
        return self._send(
            self._client.build_request("POST", path, content=body, headers=sent, timeout=_timeout(timeout_s))
        )

    @contextmanager
    def stream(self, path: str, *, silence_s: float, headers: Mapping[str, str]) -> Iterator[Stream | Answer]:
        """GET a path whose answer goes on: what comes, or the whole answer where the status is not 200.

        Raises:
            DeviceError: as `post`, also while it is read; `unreachable` after `silence_s` without a byte.
        """
        request = self._client.build_request("GET", path, headers=headers, timeout=_timeout(silence_s))
        with _named_errors(self.origin):
            response = self._client.send(request, stream=True)
            try:
                if response.status_code != HTTPStatus.OK:
                    body = self._body(response, time.monotonic() + TOTAL_TIMEOUT_S)
                    yield Answer(response.status_code, body)
                    return
                _check_coding(response)
                yield Stream(response)
            finally:
                response.close()

    def _send(self, request: httpx.Request) -> Answer:
        started = time.monotonic()
        with _named_errors(self.origin):
            response = self._client.send(request, stream=True)
            try:
                body = self._body(response, started + TOTAL_TIMEOUT_S)
                return Answer(response.status_code, body, _seconds(response.headers.get("retry-after", "")))
            finally:
                response.close()

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        _check_coding(response)
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise DeviceError(Trouble.UNREACHABLE, f"{self.origin}: no whole answer in {TOTAL_TIMEOUT_S:.0f} s")
        return bytes(body)
