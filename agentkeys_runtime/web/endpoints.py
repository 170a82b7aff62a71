"""What a service offers over HTTP, as values: one `Endpoint` a route, from which both routing and OpenAPI are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason

JsonSchema = Mapping[str, object]
ANY_METHOD: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: the body as sent (within the endpoint's limit) and the variable parts of its path.

    `method` and `target` (path, and query where there is one) are as sent; `headers` have lower-case names.
    """

    body: bytes = field(default=b"", repr=False)
    path: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    target: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def json(self) -> object:
        """Return the parsed body; `invalid_body` for anything but JSON with one meaning."""
        return strict_json(self.body, limit=len(self.body), reason=Reason.INVALID_BODY)


#: Runs in a thread of the pool; returns what is sent as JSON with status 200, or raises KeyServiceError.
Handler = Callable[[Call], Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One route. `method` is GET or POST, or ANY_METHOD; `body_limit` in bytes, 0 where a body is not read.

    `request` and `response` are JSON schemas (2020-12); without `response` the endpoint only ever refuses.
    """

    method: str
    path: str
    summary: str
    handler: Handler = field(repr=False)
    body_limit: int = 0
    request: JsonSchema | None = None
    response: JsonSchema | None = None
    quiet: bool = False
    """Not worth a log line at the usual level."""


def refusing(error: KeyServiceError) -> Handler:
    """Return a handler that refuses every call in the same way."""

    def handler(call: Call) -> Mapping[str, object]:  # noqa: ARG001 - whatever is asked
        # A new one each time: an exception that is raised twice collects tracebacks.
        raise KeyServiceError(error.reason, error.detail, metadata=error.metadata)

    return handler
