"""The HTTP application of a service: its routes, the headers of every answer, every refusal a problem."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event, request_id
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.answering import TRACE, Door, Served, Trace, trace_of
from agentkeys_runtime.web.endpoints import ANY_METHOD, Endpoint
from agentkeys_runtime.web.gate import MAX_IN_FLIGHT, Gate
from agentkeys_runtime.web.headers import HEADERS, of_host
from agentkeys_runtime.web.openapi import document
from agentkeys_runtime.web.problems import MEDIA_TYPE, problem_of

_LOG: Final = logging.getLogger("agentkeys.web")
_DISCONNECTED: Final = 400
_NOT_ALLOWED: Final = 405


def create_app(
    service: str,
    endpoints: Sequence[Endpoint],
    *,
    clock: Callable[[], float] = time.time,
    max_in_flight: int = MAX_IN_FLIGHT,
    addresses: AddressLimits | None = None,
) -> ASGIApp:
    """Return the application that serves `endpoints` and their description at `/openapi.json`.

    Every answer is JSON. A refusal is a problem of RFC 9457; an error that nobody foresaw is logged by type and place,
    and answered with `internal`.

    Args:
        service: named in the description, e.g. "AgentKeys broker".
        endpoints: the routes.
        clock: Unix seconds, told in refusals.
        max_in_flight: more requests than this at once are refused with `overloaded`.
        addresses: what strangers may ask for by address; without it nobody is counted.
    """
    described = document(service, endpoints)
    own = Endpoint(
        method="GET",
        path="/openapi.json",
        summary="This description.",
        handler=lambda _: described,
        quiet=True,
        price=0,
    )
    gate = Gate(max_in_flight)
    door = Door(addresses)
    app = Starlette(
        routes=_routes((*endpoints, own), gate, door),
        exception_handlers={
            KeyServiceError: lambda request, error: _problem(request, _as_refusal(error), clock()),
            HTTPException: lambda request, error: _http_problem(request, error, clock()),
            Exception: lambda request, _: _problem(request, KeyServiceError(Reason.INTERNAL), clock()),
        },
    )
    app.router.redirect_slashes = False
    return _Edge(app, clock)


def _routes(endpoints: Sequence[Endpoint], gate: Gate, door: Door) -> list[Route]:
    """One route a path. Literal paths come first: a name that a variable would match as well belongs to them alone."""
    paths: dict[str, dict[str, Served]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = Served(endpoint, gate, door)
    return [Route(path, endpoint=_Path(paths[path])) for path in sorted(paths, key=lambda path: "{" in path)]


class _Path:
    """Every method of one path; a class, as Starlette gives functions the method GET unasked."""

    def __init__(self, served: "Mapping[str, Served]") -> None:
        self._served = {**served, "HEAD": served["GET"]} if "GET" in served else served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self._served.get(ANY_METHOD) or self._served.get(scope["method"])
        if served is None:
            allowed = ", ".join(sorted(self._served))
            raise HTTPException(_NOT_ALLOWED, headers={"Allow": allowed})
        await served(scope, receive, send)


def _as_refusal(error: Exception) -> KeyServiceError:
    return error if isinstance(error, KeyServiceError) else KeyServiceError(Reason.INTERNAL)


def _problem(
    request: Request, error: KeyServiceError, now: float, headers: Mapping[str, str] | None = None
) -> Response:
    problem = problem_of(error, now=now)
    trace_of(request).reason = str(error.reason)
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
        trace = scope[TRACE] = Trace(id=request_id())
        every = {**HEADERS, **of_host(Headers(scope=scope).get("host", ""))}
        started = time.monotonic()
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in every.items():
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
