"""Refusals of broker and workers (RFC 9457 problems) as the one error type."""

from typing import Final

from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from device.errors import DeviceError, Trouble
from device.transport import Answer

_OK: Final = range(200, 300)
#: For a refusal whose reason this version does not know.
_OF_STATUS: Final = {
    400: Reason.INVALID_BODY,
    403: Reason.POLICY_REFUSED,
    404: Reason.NOT_FOUND,
    429: Reason.RATE_LIMITED,
}
_METADATA: Final = ("current_epoch", "server_time")
_MAX_INTEGER: Final = 2**53 - 1
#: In the metadata of a refusal: seconds until the part wants to be asked again.
RETRY_AFTER: Final = "retry_after"


def check_refusal(answer: Answer) -> Answer:
    """Return the answer if it is a success.

    Raises:
        KeyServiceError: the refusal, with its `current_epoch`, `server_time`, `retry_after` and row where it has them.
        DeviceError: `answer_not_trusted` for something that is neither.
    """
    if answer.status in _OK:
        return answer
    problem = answer.json()
    if not isinstance(problem, dict):
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"HTTP status {answer.status} without a problem")
    metadata = {name: str(problem[name]) for name in _METADATA if _is_number(problem.get(name))}
    if answer.retry_after_s is not None:
        metadata[RETRY_AFTER] = str(answer.retry_after_s)
    raise KeyServiceError(
        _reason(problem.get("reason"), answer.status),
        _detail(problem),
        metadata=metadata,
        row=_row(problem.get("row")),
    )


def _is_number(value: object) -> bool:
    """Whether it is an integer as wire.md has them: what a peer puts in its place ends up on no terminal."""
    return type(value) is int and 0 <= value <= _MAX_INTEGER


def _row(value: object) -> bytes | None:
    if not isinstance(value, dict):
        return None
    try:
        return canonical_json(value)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the refusal carries a malformed row") from exc


def _reason(value: object, status: int) -> Reason:
    try:
        return Reason(str(value))
    except ValueError:
        return _OF_STATUS.get(status, Reason.INTERNAL)


def _detail(problem: dict[str, object]) -> str:
    """The words of the problem, short and without control characters: they end up on a terminal."""
    words = problem.get("detail")
    return "".join(char for char in words[:300] if char.isprintable()) if isinstance(words, str) else ""


def metadata_integer(error: KeyServiceError, name: str) -> int | None:
    """Return a number of the refusal's metadata, None where there is none."""
    value = error.metadata.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 17 else None  # noqa: PLR2004 - 2^53 has 16 digits
