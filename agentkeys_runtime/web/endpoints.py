"""What a service offers over HTTP, as values: one `Endpoint` a route, from which both routing and OpenAPI are made."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable
from urllib.parse import parse_qsl

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason

JsonSchema = Mapping[str, object]
ANY_METHOD: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: the body as sent (within the endpoint's limit) and the variable parts of its path.

    `method` and `target` (path, and query where there is one) are as sent; `headers` have lower-case names, `query`
    holds each name once; `client` is the sender's IPv4 address or IPv6 network (`addresses.Senders`).
    """

    body: bytes = field(default=b"", repr=False)
    path: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    target: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: str = ""

    def json(self) -> object:
        """Return the parsed body; `invalid_body` for anything but JSON with one meaning."""
        return strict_json(self.body, limit=len(self.body), reason=Reason.INVALID_BODY)

    def form(self) -> dict[str, str]:
        """Return the members of a form; `invalid_body` for anything but a form that names each once."""
        return named_once(self.body.decode("latin-1"))


def named_once(text: str) -> dict[str, str]:
    """Return the members of a form or a query. Raises `invalid_body` where one is named twice, or it is no form."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=32)
    except ValueError as error:  # UnicodeDecodeError is one
        raise KeyServiceError(Reason.INVALID_BODY, "not a form") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise KeyServiceError(Reason.INVALID_BODY, "a member is named twice")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a person is shown: text of `media`, HTML unless it says otherwise. `script` lets it run scripts of ours.

    With `onward`, a path of ours, the browser goes there instead (303), and forgets the address that it asked for.
    """

    html: str = field(default="", repr=False)
    status: int = 200
    media: str = "text/html"
    script: bool = False
    onward: str = field(default="", repr=False)


@runtime_checkable
class Events(Protocol):
    """Server-sent events, as their text, for as long as somebody listens."""

    def __aiter__(self) -> AsyncIterator[str]:
        """Each event when it is there."""

    def close(self) -> None:
        """Called once when the answer is over, however it ended."""


#: Runs in a thread of the pool; returns what is sent as JSON with status 200, a page or events, or raises
#: KeyServiceError.
Handler = Callable[[Call], Mapping[str, object] | Page | Events]


def never(_: object) -> bool:
    """For routes whose price nobody gets back."""
    return False


def always(_: object) -> bool:
    """For routes that answer nobody but a registered device."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Whose request it is, as this process can tell by itself.

    `who` has the bucket that pays for it; "" where an answer costs no more than a refusal. `act` names what was signed:
    it is worth one passage and then none for a while, so that whoever copied it takes nothing from its signer.
    """

    who: str = ""
    act: str = ""


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
    variable: JsonSchema | None = None
    """Schema of the variable part of the path, by default 32 bytes in hex."""
    queried: bool = False
    """Whether a query is read; else it is ignored."""
    media: str = "text/html"
    """What a page of this endpoint is, where it refuses none."""
    events: bool = False
    """Whether it answers with server-sent events."""
    proof: str | None = None
    """The purpose of the device's proof that each request must carry; None where none is asked for."""
    price: float = 1.0
    """What a request costs its sender's address, in tokens; 0 for what costs us next to nothing."""
    given_back: Callable[[object], bool] = field(default=never, repr=False)
    """Whether an answer shows that a registered device asked: then the price is given back. Refusals: `vouching`."""
    known: Callable[[Call], Known | None] | None = field(default=None, repr=False)
    """Tells at once whose request it is, from what the process holds: no database, no other server, nothing used up. It
    is asked only where the sender's address has too few tokens; None, or a KeyServiceError, for a stranger's."""
    session: bool = False
    """Whether a session's token goes with that proof."""
    waits: bool = False
    """Whether its handler may wait for servers that are not ours: it gets one of a few threads kept for that, or is
    refused with `overloaded`, so that nothing else ever waits behind it."""
    refusal: Callable[[KeyServiceError], Page] | None = field(default=None, repr=False)
    """Set where a person looks: makes the page of a refusal. A body is then a form, not JSON."""


def refusing(error: KeyServiceError) -> Handler:
    """Return a handler that refuses every call in the same way."""

    def handler(call: Call) -> Page:  # noqa: ARG001 - whatever is asked
        # A new one each time: an exception that is raised twice collects tracebacks.
        raise KeyServiceError(error.reason, error.detail, metadata=error.metadata)

    return handler
