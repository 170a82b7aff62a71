"""Refusals as problems: every reason has a status, and nothing secret or malformed goes out with it."""

import pytest

from agentkeys_core.errors import Code, KeyServiceError, Reason
from agentkeys_runtime.web.problems import problem_of, status_of

NOW = 1_764_000_000.7
#: wire.md, HTTP; below it what the edges add (docs/spec/http.md).
STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.FAILED_PRECONDITION: 409,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAVAILABLE: 503,
    Code.NOT_FOUND: 404,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
}
EDGE = {Reason.METHOD_NOT_ALLOWED: 405, Reason.GONE: 410}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_status_and_a_whole_problem(reason: Reason) -> None:
    problem = problem_of(KeyServiceError(reason, "words"), now=NOW)
    assert problem.status == status_of(reason) == EDGE.get(reason, STATUS[reason.code])
    assert problem.body["status"] == problem.status
    assert problem.body["reason"] == str(reason)
    assert problem.body["type"] == f"urn:agentkeys:problem:{reason}"
    assert problem.body["title"]
    assert problem.body["server_time"] == 1_764_000_000


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)


def test_numbers_of_the_refusal_are_told_as_numbers() -> None:
    error = KeyServiceError(Reason.STALE_EPOCH, metadata={"current_epoch": "7", "server_time": "12"})
    body = problem_of(error, now=NOW).body
    assert (body["current_epoch"], body["server_time"]) == (7, 12)
    assert "detail" not in body


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "\u0663", "9" * 17])
def test_what_is_no_number_is_left_out(value: str) -> None:
    body = problem_of(KeyServiceError(Reason.STALE_EPOCH, metadata={"current_epoch": value}), now=NOW).body
    assert "current_epoch" not in body


def test_other_metadata_stays_inside() -> None:
    body = problem_of(KeyServiceError(Reason.INVALID_CAP, metadata={"secret": "x"}), now=NOW).body
    assert "secret" not in body


def test_an_internal_error_tells_nothing() -> None:
    assert "detail" not in problem_of(KeyServiceError(Reason.INTERNAL, "stack, path, value"), now=NOW).body


def test_a_detail_is_short() -> None:
    detail = problem_of(KeyServiceError(Reason.INVALID_CAP, "x" * 5000), now=NOW).body["detail"]
    assert isinstance(detail, str)
    assert len(detail) == 300


def test_a_row_travels_as_json_and_a_malformed_one_not_at_all() -> None:
    told = problem_of(KeyServiceError(Reason.CAP_REPLAYED, row=b'{"seq":1}'), now=NOW).body
    assert told["row"] == {"seq": 1}
    for row in (b"", b"[]", b"\xff", b'{"a":1,"a":2}', b"{" * 40, b'{"a":"' + b"x" * 70_000 + b'"}'):
        assert "row" not in problem_of(KeyServiceError(Reason.CAP_REPLAYED, row=row), now=NOW).body


@pytest.mark.parametrize(
    ("reason", "metadata", "expected"),
    [
        (Reason.RATE_LIMITED, {"retry_after": "17"}, "17"),
        (Reason.RATE_LIMITED, {}, "1"),
        (Reason.RATE_LIMITED, {"retry_after": "1\r\nSet-Cookie: a"}, "1"),
        (Reason.REGISTRY_STALE, {}, "1"),
        (Reason.INVALID_CAP, {"retry_after": "17"}, None),
    ],
)
def test_retry_after_goes_with_what_passes(reason: Reason, metadata: dict[str, str], expected: str | None) -> None:
    assert problem_of(KeyServiceError(reason, metadata=metadata), now=NOW).headers.get("Retry-After") == expected
