"""One request at one endpoint: its price, its body within the limits, its handler in a thread, its answer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event
from agentkeys_runtime.web.addresses import AddressLimits, Senders
from agentkeys_runtime.web.allowance import Allowance
from agentkeys_runtime.web.endpoints import Call, Endpoint, Events, Page, named_once
from agentkeys_runtime.web.gate import Gate
from agentkeys_runtime.web.headers import of_page
from agentkeys_runtime.web.reading import Readers
from agentkeys_runtime.web.same_origin import check_same_origin
from agentkeys_runtime.web.second_look import BODY_S, MAX_BODY, SecondLook

BODY_TIMEOUT_S: Final = 30.0
#: Where a request's trace stands in its scope.
TRACE: Final = "agentkeys.trace"
_LOG: Final = logging.getLogger("agentkeys.web")
_SEE_OTHER: Final = 303
_JSON: Final = "application/json"
_EVENT_STREAM: Final = "text/event-stream"
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(slots=True, kw_only=True)
class Trace:
    """What the log line of one request will say."""

    id: str
    route: str = "-"  # an unknown path is not quoted: it may hold anything
    reason: str | None = None
    level: int = logging.INFO


class Door:
    """Who asks, and what an address may ask for. Used on the event loop's thread only."""

    def __init__(self, addresses: AddressLimits | None) -> None:
        """Without `addresses` nobody is counted."""
        self.senders = Senders(addresses or AddressLimits())
        self.allowance = Allowance(addresses)
        self.second_look = SecondLook()


class Served:
    """One endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, gate: Gate, door: Door) -> None:
        self._endpoint = endpoint
        self._gate = gate
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises its refusal, unless a person looks at the answer."""
        request = Request(scope, receive)
        endpoint, trace = self._endpoint, trace_of(request)
        trace.route = endpoint.path
        if endpoint.quiet:
            trace.level = logging.DEBUG
        try:
            response = await self._answer(request, trace)
        except KeyServiceError as error:
            if endpoint.refusal is None:
                raise
            trace.reason = str(error.reason)
            response = _page(endpoint.refusal(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request, trace: Trace) -> Response:
        """Answer for the endpoint's price, which is put down before anything is read or done."""
        endpoint, allowance, headers = self._endpoint, self._door.allowance, _headers(request)
        sender = self._door.senders.of(request.client.host if request.client else "", headers)
        try:
            allowance.put_down(sender, endpoint.price)
        except KeyServiceError as refused:
            call = await self._known(request, headers, sender, refused)
            return (await self._handled(call, trace))[1]
        try:
            call = await self._call(request, headers, sender)
            found, response = await self._handled(call, trace)
        except KeyServiceError as error:
            if error.vouched:
                allowance.give_back(sender, endpoint.price)
            raise
        if endpoint.given_back(found):
            allowance.give_back(sender, endpoint.price)
        return response

    async def _known(self, request: Request, headers: Mapping[str, str], sender: str, refused: KeyServiceError) -> Call:
        """The request of somebody known, who pays for themselves; raises `refused` for everybody else."""
        endpoint, second_look = self._endpoint, self._door.second_look
        if endpoint.known is None:
            raise refused
        limit = min(endpoint.body_limit, MAX_BODY)
        try:
            body = await _read_body(request, limit, _JSON, second_look.readers, BODY_S) if limit else b""
        except KeyServiceError as error:
            raise refused from error
        call = self._call_of(request, headers, sender, body)
        if not await second_look.lets_in(endpoint, call):
            raise refused
        return call

    async def _call(self, request: Request, headers: Mapping[str, str], sender: str) -> Call:
        endpoint = self._endpoint
        media = _JSON if endpoint.refusal is None else _FORM
        if endpoint.refusal is not None and endpoint.method == "POST":
            check_same_origin(headers)
        limit = endpoint.body_limit
        body = await _read_body(request, limit, media, self._gate.readers, BODY_TIMEOUT_S) if limit else b""
        return self._call_of(request, headers, sender, body)

    def _call_of(self, request: Request, headers: Mapping[str, str], sender: str, body: bytes) -> Call:
        queried = self._endpoint.queried
        return Call(
            body=body,
            path=dict(request.path_params),
            method=request.method,
            target=_target(request),
            headers=headers,
            query=named_once(request.scope["query_string"].decode("latin-1")) if queried else {},
            client=sender,
        )

    async def _handled(self, call: Call, trace: Trace) -> tuple[object, Response]:
        """What the handler returned, and the same as a response."""
        try:
            # What is here in full: who sends slowly holds no place.
            found = await self._gate.run(self._endpoint, call)
            return found, _response(found)  # here, as an answer that is no JSON is an error like any other
        except KeyServiceError:
            raise
        except Exception as error:
            log_event(_LOG, "failed", level=logging.ERROR, id=trace.id, error=type(error).__name__)
            _LOG.error("where it failed", exc_info=error)
            raise KeyServiceError(Reason.INTERNAL) from error


class _EventResponse(StreamingResponse):
    """Sends events while somebody listens. It holds no place of the gate, and no thread but while it looks."""

    def __init__(self, events: Events) -> None:
        super().__init__(events, media_type=_EVENT_STREAM)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.close()


def _response(found: Mapping[str, object] | Page | Events) -> Response:
    if isinstance(found, Page):
        return _page(found)
    if isinstance(found, Events):
        return _EventResponse(found)
    return JSONResponse(found)


def _page(page: Page) -> Response:
    headers = of_page(script=page.script)
    if page.onward:
        return Response(status_code=_SEE_OTHER, headers={**headers, "Location": page.onward}, media_type=page.media)
    return Response(page.html, status_code=page.status, headers=headers, media_type=page.media)


async def _read_body(request: Request, limit: int, media: str, readers: Readers, within_s: float) -> bytes:
    """Return the body, of which no more than `limit` bytes are ever held.

    Raises:
        KeyServiceError: `too_large`; `invalid_body` for another media type, a coded body, or one that does not come;
            `overloaded` for one that comes too slowly.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media:
        raise KeyServiceError(Reason.INVALID_BODY, f"Content-Type must be {media}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise KeyServiceError(Reason.INVALID_BODY, "a body must not be compressed")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 12 or int(declared) > limit):  # noqa: PLR2004
        raise KeyServiceError(Reason.TOO_LARGE, f"at most {limit} bytes")
    body = bytearray()
    async with readers.one(within_s):
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise KeyServiceError(Reason.TOO_LARGE, f"at most {limit} bytes")
            body += chunk
    return bytes(body)


def _target(request: Request) -> str:
    """Path and query as they were sent, before anything was decoded."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return (raw + b"?" + query if query else raw).decode("latin-1")


def _headers(request: Request) -> dict[str, str]:
    """By lower-case name; one that was sent several times is joined (RFC 9110, 5.3), so that none is hidden."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def trace_of(request: Request) -> Trace:
    """The trace that the application began for this request."""
    trace: Trace = request.scope[TRACE]
    return trace
