"""One HTTPS exchange with a provider, bounded in time and in bytes, whatever the provider does."""

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.deadline import connected

#: Seconds for each step, and for an exchange as a whole.
TIMEOUT_S: Final = 5.0
EXCHANGE_S: Final = 10.0
MAX_ANSWER: Final = 256 * 1024  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of a provider at `address`; a POST where there is a body."""

    address: str
    headers: Mapping[str, str] = field(repr=False)
    body: str | None = field(default=None, repr=False)


def exchange(ask: Ask, tls: ssl.SSLContext) -> bytes:
    """The provider's answer. No redirect is followed, no proxy of the environment used, nothing unpacked.

    An answer of status 400 is one of OAuth's own, and worth reading.

    Raises:
        KeyServiceError: `provider_unreachable`, whatever went wrong: no end within 10 s and more than 256 KiB as well.
    """
    try:
        parts = urlsplit(ask.address)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=tls)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        with connected(connection, EXCHANGE_S):
            connection.request("GET" if ask.body is None else "POST", target, ask.body, dict(ask.headers))
            with connection.getresponse() as answer:
                body = answer.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ssl.SSLError and timeouts are OSErrors
        raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, type(error).__name__) from error
    if len(body) > MAX_ANSWER:
        raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "its answer is too large")
    if answer.status not in {http.client.OK, http.client.BAD_REQUEST}:
        raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, f"HTTP status {answer.status}")
    return body
