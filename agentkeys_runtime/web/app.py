"""The HTTP application of a service: bodies read within their limits, handlers in threads, every refusal a problem."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event, request_id
from agentkeys_runtime.web.endpoints import ANY_METHOD, Call, Endpoint, Events, Page, named_once
from agentkeys_runtime.web.gate import MAX_IN_FLIGHT, Gate
from agentkeys_runtime.web.openapi import document
from agentkeys_runtime.web.problems import MEDIA_TYPE, problem_of
from agentkeys_runtime.web.reading import Readers
from agentkeys_runtime.web.same_origin import check_same_origin

BODY_TIMEOUT_S: Final = 30.0
_LOG: Final = logging.getLogger("agentkeys.web")
_TRACE: Final = "agentkeys.trace"
_SEE_OTHER: Final = 303
_DISCONNECTED: Final = 400
_NOT_ALLOWED: Final = 405
_JSON: Final = "application/json"
_EVENT_STREAM: Final = "text/event-stream"
_FORM: Final = "application/x-www-form-urlencoded"
#: Pages load one style sheet of ours and send forms back to us; nothing runs in them but for those that ask for it.
_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SCRIPT_POLICY: Final = "; script-src 'self'"
#: No Strict-Transport-Security: on `localhost` it would also claim the page where K11 lives, which is plain HTTP.
_POLICY_HEADER: Final = "Content-Security-Policy"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    _POLICY_HEADER: "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(slots=True, kw_only=True)
class _Trace:
    """What the log line of one request will say."""

    id: str
    route: str = "-"  # an unknown path is not quoted: it may hold anything
    reason: str | None = None
    level: int = logging.INFO


def create_app(
    service: str,
    endpoints: Sequence[Endpoint],
    *,
    clock: Callable[[], float] = time.time,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> ASGIApp:
    """Return the application that serves `endpoints` and their description at `/openapi.json`.

    Every answer is JSON. A refusal is a problem of RFC 9457; an error that nobody foresaw is logged by type and place,
    and answered with `internal`.

    Args:
        service: named in the description, e.g. "AgentKeys broker".
        endpoints: the routes.
        clock: Unix seconds, told in refusals.
        max_in_flight: more requests than this at once are refused with `overloaded`.
    """
    described = document(service, endpoints)
    own = Endpoint(
        method="GET", path="/openapi.json", summary="This description.", handler=lambda _: described, quiet=True
    )
    gate = Gate(max_in_flight)
    app = Starlette(
        routes=_routes((*endpoints, own), gate),
        exception_handlers={
            KeyServiceError: lambda request, error: _problem(request, _as_refusal(error), clock()),
            HTTPException: lambda request, error: _http_problem(request, error, clock()),
        },
    )
    app.router.redirect_slashes = False
    return _Edge(app, clock)


def _routes(endpoints: Sequence[Endpoint], gate: Gate) -> list[Route]:
    """One route a path. Literal paths come first: a name that a variable would match as well belongs to them alone."""
    paths: dict[str, dict[str, _Served]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _Served(endpoint, gate)
    return [Route(path, endpoint=_Path(paths[path])) for path in sorted(paths, key=lambda path: "{" in path)]


class _Path:
    """Every method of one path; a class, as Starlette gives functions the method GET unasked."""

    def __init__(self, served: "Mapping[str, _Served]") -> None:
        self._served = {**served, "HEAD": served["GET"]} if "GET" in served else served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self._served.get(ANY_METHOD) or self._served.get(scope["method"])
        if served is None:
            allowed = ", ".join(sorted(self._served))
            raise HTTPException(_NOT_ALLOWED, headers={"Allow": allowed})
        await served(scope, receive, send)


class _Served:
    """One endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, gate: Gate) -> None:
        self._endpoint = endpoint
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        endpoint, trace = self._endpoint, _trace(request)
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

    async def _answer(self, request: Request, trace: _Trace) -> Response:
        endpoint = self._endpoint
        media, headers = _JSON if endpoint.refusal is None else _FORM, _headers(request)
        if endpoint.refusal is not None and endpoint.method == "POST":
            check_same_origin(headers)
        limit = endpoint.body_limit
        body = await _read_body(request, limit, media, self._gate.readers) if limit else b""
        call = Call(
            body=body,
            path=dict(request.path_params),
            method=request.method,
            target=_target(request),
            headers=headers,
            query=named_once(request.scope["query_string"].decode("latin-1")) if endpoint.queried else {},
            client=request.client.host if request.client else "",
        )
        try:
            found = await self._gate.run(endpoint, call)  # what is here in full: who sends slowly holds no place
            if isinstance(found, Page):
                return _page(found)
            if isinstance(found, Events):
                return _EventResponse(found)
            return JSONResponse(found)  # here, as an answer that is no JSON is an error like any other
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


def _page(page: Page) -> Response:
    policy = _PAGE_POLICY + _SCRIPT_POLICY if page.script else _PAGE_POLICY
    headers = {_POLICY_HEADER: policy}
    if page.onward:
        return Response(status_code=_SEE_OTHER, headers={**headers, "Location": page.onward}, media_type=page.media)
    return Response(page.html, status_code=page.status, headers=headers, media_type=page.media)


async def _read_body(request: Request, limit: int, media: str, readers: Readers) -> bytes:
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
    async with readers.one(BODY_TIMEOUT_S):
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


def _trace(request: Request) -> _Trace:
    trace: _Trace = request.scope[_TRACE]
    return trace


def _as_refusal(error: Exception) -> KeyServiceError:
    return error if isinstance(error, KeyServiceError) else KeyServiceError(Reason.INTERNAL)


def _problem(
    request: Request, error: KeyServiceError, now: float, headers: Mapping[str, str] | None = None
) -> Response:
    problem = problem_of(error, now=now)
    _trace(request).reason = str(error.reason)
    every = {**problem.headers, **(headers or {})}
    return JSONResponse(problem.body, status_code=problem.status, headers=every, media_type=MEDIA_TYPE)


def _http_problem(request: Request, error: Exception, now: float) -> Response:
    """What Starlette itself refuses: an unknown path, or a method that the path does not have."""
    allowed = (error.headers or {}) if isinstance(error, HTTPException) else {}
    if "Allow" in allowed:
        refusal = KeyServiceError(Reason.METHOD_NOT_ALLOWED, f"this path has {allowed['Allow']}")
        return _problem(request, refusal, now, {"Allow": allowed["Allow"]})
    return _problem(request, KeyServiceError(Reason.NOT_FOUND, "no such path"), now)


class _Edge:
    """Outermost: names each request, sets the headers of every answer, writes its log line, lets no error through."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no lifespan, no websockets
        trace = scope[_TRACE] = _Trace(id=request_id())
        started = time.monotonic()
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["AgentKeys-Request-Id"] = trace.id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            trace.reason = "client_disconnected"
        except Exception as error:  # noqa: BLE001 - the last place: a traceback must not reach a client
            _LOG.error("request failed", exc_info=error)
            if not status:
                request = Request(scope, receive)
                response = _problem(request, KeyServiceError(Reason.INTERNAL), self._clock())
                await response(scope, receive, send_named)
        finally:
            log_event(
                _LOG,
                "request",
                level=trace.level,
                id=trace.id,
                method=scope["method"] if len(scope["method"]) < 16 else "?",  # noqa: PLR2004
                route=trace.route,
                status=status or _DISCONNECTED,
                reason=trace.reason,
                ms=round((time.monotonic() - started) * 1000, 1),
            )
