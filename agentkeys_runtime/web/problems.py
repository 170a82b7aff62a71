"""Refusals as RFC 9457 problems: the one place where a reason becomes an HTTP status."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import Code, KeyServiceError, Reason

MEDIA_TYPE: Final = "application/problem+json"
DETAIL_LIMIT: Final = 300  # characters
RETRY_AFTER_S: Final = 1
_ROW_LIMIT: Final = 65_536  # bytes

_STATUS_OF_CODE: Final[Mapping[Code, int]] = MappingProxyType(
    {
        Code.INVALID_ARGUMENT: 400,
        Code.OUT_OF_RANGE: 400,
        Code.UNAUTHENTICATED: 401,
        Code.PERMISSION_DENIED: 403,
        Code.NOT_FOUND: 404,
        Code.FAILED_PRECONDITION: 409,
        Code.ALREADY_EXISTS: 409,
        Code.RESOURCE_EXHAUSTED: 429,
        Code.INTERNAL: 500,
        Code.UNIMPLEMENTED: 501,
        Code.UNAVAILABLE: 503,
    }
)
#: Reasons of the HTTP edge itself, whose status says more than that of their code.
_STATUS_OF_REASON: Final[Mapping[Reason, int]] = MappingProxyType({Reason.METHOD_NOT_ALLOWED: 405, Reason.GONE: 410})
_NUMBERS: Final = ("current_epoch", "server_time")
_TEXTS: Final = ("instead", "see")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One refusal as it is sent."""

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str]


def status_of(reason: Reason) -> int:
    """Return the HTTP status of a reason; every reason has one."""
    return _STATUS_OF_REASON.get(reason) or _STATUS_OF_CODE[reason.code]


def problem_of(error: KeyServiceError, *, now: float) -> Problem:
    """Return the problem that tells this refusal.

    It holds `type`, `title`, `status`, `reason`, `detail` where there is one, `server_time`, and where they help
    `current_epoch`, the signed `row`, `instead` and `see`.

    Args:
        error: the refusal; its detail is written for people and free of secrets.
        now: Unix seconds, told as `server_time` unless the refusal brought one.
    """
    reason = error.reason
    status = status_of(reason)
    body: dict[str, object] = {
        "type": f"urn:agentkeys:problem:{reason}",
        "title": str(reason).replace("_", " ").capitalize(),
        "status": status,
        "reason": str(reason),
        "server_time": int(now),
    }
    if error.detail and reason is not Reason.INTERNAL:
        body["detail"] = error.detail[:DETAIL_LIMIT]
    for name in _NUMBERS:
        value = error.metadata.get(name, "")
        if value.isascii() and value.isdigit() and len(value) < 17:  # noqa: PLR2004 - 2^53 has 16 digits
            body[name] = int(value)
    body |= {name: error.metadata[name] for name in _TEXTS if name in error.metadata}
    row = _row(error.row)
    if row is not None:
        body["row"] = row
    return Problem(status=status, body=body, headers=_headers(error))


def _headers(error: KeyServiceError) -> dict[str, str]:
    if error.reason.code in {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}:
        asked = error.metadata.get("retry_after", "")
        return {"Retry-After": asked if asked.isdigit() else str(RETRY_AFTER_S)}
    return {}


def _row(data: bytes | None) -> object | None:
    """The signed row as JSON; None where there is none, or where it is no object (a bad signer's)."""
    if data is None:
        return None
    try:
        row = strict_json(data, limit=_ROW_LIMIT, reason=Reason.INTERNAL)
    except KeyServiceError:
        return None
    return row if isinstance(row, dict) else None
