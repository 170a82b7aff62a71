"""The OpenAPI 3.1 document of a service, made from the very endpoints that are routed."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from agentkeys_core.errors import Reason
from agentkeys_core.proof import PROOF_HEADER, SESSION_PURPOSES
from agentkeys_runtime.web.endpoints import ANY_METHOD, Endpoint
from agentkeys_runtime.web.problems import MEDIA_TYPE, status_of
from agentkeys_runtime.web.schemas import HEX32

VERSION: Final = "3.1.0"
API_VERSION: Final = "1"
_EVERY: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_VARIABLE: Final = re.compile(r"\{([a-z_]+)\}")
_EVENT: Final[Mapping[str, object]] = {
    "type": "object",
    "description": "One event; `data` is JSON. A block with an id alone is no event.",
    "properties": {name: {"type": "string"} for name in ("data", "event", "id")},
}
_EVENTS: Final = {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}}
_SESSION: Final = "session"
_SCHEMES: Final[Mapping[str, object]] = {
    **{
        f"proof-{purpose}": {
            "type": "apiKey",
            "in": "header",
            "name": PROOF_HEADER,
            "description": f"The device's signature over this very request, for the purpose {purpose}; good once.",
        }
        for purpose in SESSION_PURPOSES
    },
    _SESSION: {"type": "http", "scheme": "bearer", "description": "Of the device that signs the proof."},
}
_PROBLEM_REF: Final = {"$ref": "#/components/schemas/Problem"}

PROBLEM: Final[Mapping[str, object]] = {
    "type": "object",
    "description": "RFC 9457. Match on `reason`, never on text.",
    "required": ["type", "title", "status", "reason", "server_time"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "reason": {"type": "string", "enum": sorted(str(reason) for reason in Reason)},
        "detail": {"type": "string"},
        "server_time": {"type": "integer", "description": "Unix seconds"},
        "current_epoch": {"type": "integer"},
        "row": {"type": "object", "description": "The signed audit row that belongs to this refusal."},
        "instead": {"type": "string"},
        "see": {"type": "string"},
    },
}


def document(service: str, endpoints: Sequence[Endpoint]) -> dict[str, object]:
    """Return the description of these endpoints and of the document itself."""
    paths: dict[str, dict[str, object]] = {
        "/openapi.json": {
            "get": {
                "operationId": "get_openapi_json",
                "summary": "This description.",
                "responses": {"200": _json("OK", {"type": "object"}), **_refusals()},
            }
        }
    }
    for endpoint in endpoints:
        found = paths.setdefault(endpoint.path, {})
        methods = _EVERY if endpoint.method == ANY_METHOD else (endpoint.method.lower(),)
        for method in methods:
            found[method] = _operation(endpoint, method)
    return {
        "openapi": VERSION,
        "info": {
            "title": service,
            "version": API_VERSION,
            "description": "There are no cookies: the device's own signature authenticates each request.",
        },
        "paths": paths,
        "components": {"schemas": {"Problem": PROBLEM}, "securitySchemes": _SCHEMES},
    }


def _operation(endpoint: Endpoint, method: str) -> dict[str, object]:
    words = re.findall(r"[a-z0-9]+", endpoint.path)
    operation: dict[str, object] = {"operationId": "_".join([method, *words]), "summary": endpoint.summary}
    if endpoint.proof is not None:
        with_it: dict[str, object] = {_SESSION: []} if endpoint.session else {}
        operation["security"] = [{f"proof-{endpoint.proof}": [], **with_it}]
    variables = _VARIABLE.findall(endpoint.path)
    if variables:
        schema = endpoint.variable or HEX32
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": schema} for name in variables
        ]
    if endpoint.request is not None:
        media = "application/json" if endpoint.refusal is None else "application/x-www-form-urlencoded"
        operation["requestBody"] = {"required": True, "content": {media: {"schema": endpoint.request}}}
    if endpoint.refusal is not None:
        operation["responses"] = {
            "2XX": _page(endpoint.media),
            **dict.fromkeys(("3XX", "4XX", "5XX"), _page("text/html")),
        }
    elif endpoint.events:
        operation["responses"] = {"200": _EVENTS, **_refusals()}
    elif endpoint.response is None:
        operation["responses"] = {str(status_of(Reason.GONE)): _problem("Gone")}
    else:
        operation["responses"] = {"200": _json("OK", endpoint.response), **_refusals()}
    return operation


def _json(description: str, schema: Mapping[str, object]) -> dict[str, object]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _page(media: str) -> dict[str, object]:
    return {"description": "A page for people", "content": {media: {"schema": {"type": "string"}}}}


def _problem(description: str) -> dict[str, object]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF}}}


def _refusals() -> dict[str, object]:
    return {"4XX": _problem("Refused"), "5XX": _problem("Not available now; nothing was released")}
