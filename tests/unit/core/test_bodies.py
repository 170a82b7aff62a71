import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.bodies import (
    EMPTY_BODY,
    MAX_BODY_BYTES,
    AuditAnswer,
    AuditListBody,
    DeleteAnswer,
    FetchAnswer,
    ListAnswer,
    ListBody,
    ListedName,
    StoreAnswer,
    StoreBody,
    check_empty_body,
    request_hash,
)
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from tests.unit.core.material import AuditKey
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases, document

STORE = StoreBody(blind=bytes(32), expect=bytes(32), value=b"sk-or-v1")
BODIES = {
    "store, new name": StoreBody,
    "store over an older one": StoreBody,
    "list, first page": ListBody,
    "list, next page": ListBody,
    "audit-list": AuditListBody,
}


def bodies_of_vectors() -> Any:
    found = document()["groups"]["request_body"]["cases"]
    return [
        pytest.param(BODIES[case["name"]], case["expect"], id=case["name"]) for case in found if case["name"] in BODIES
    ]


@pytest.mark.parametrize(("body", "expect"), bodies_of_vectors())
def test_bodies_of_the_vectors(body: Any, expect: Any) -> None:
    data = expect["canonical"].encode()
    assert body.parse(data).encode() == data
    assert b64u_encode(request_hash(data)) == expect["request_hash"]


def test_the_empty_body() -> None:
    check_empty_body(EMPTY_BODY)
    for data in (b"", b"{ }", b"[]", b"null", b'{"a":1}', b"\xff"):
        with refused("invalid_body"):
            check_empty_body(data)
    with refused("too_large"):
        check_empty_body(b" " * (MAX_BODY_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"zz": 1},
        {"blind": "AA"},
        {"blind": None},
        {"expect": "AB" * 32},
        {"expect": 0},
        {"expect": "00" * 31},
        {"value": None},
        {"value": "A="},
    ],
)
def test_malformed_stores_are_refused(change: Any) -> None:
    with refused("invalid_body"):
        StoreBody.parse(canonical_json(json.loads(STORE.encode()) | change))


@pytest.mark.parametrize("limit", [0, 1001, True, "1", None, -1])
def test_limits_are_one_to_a_thousand(limit: Any) -> None:
    for body in (ListBody, AuditListBody):
        assert body.parse(b'{"after":null,"limit":1000}').limit == 1000
        with refused("invalid_body"):
            body.parse(canonical_json({"after": None, "limit": limit}))


def test_after_is_text_in_lists_and_a_number_in_audits() -> None:
    assert ListBody.parse('{"after":"é","limit":1}'.encode()).after == "é"
    for body, after in (
        (ListBody, 1),
        (AuditListBody, "a"),
        (AuditListBody, -1),
        (AuditListBody, True),
        (ListBody, []),
    ):
        with refused("invalid_body"):
            body.parse(canonical_json({"after": after, "limit": 1}))


def test_bodies_are_canonical_and_at_most_a_mebibyte() -> None:
    with refused("invalid_body"):
        ListBody.parse(b'{"limit":1,"after":null}')
    with refused("too_large"):
        StoreBody.parse(b"\xff" * (MAX_BODY_BYTES + 1))
    with refused("too_large"):
        StoreBody(blind=bytes(32), expect=None, value=bytes(800_000)).encode()
    with refused("too_large"):
        ListBody(after="a" * MAX_BODY_BYTES, limit=1).encode()
    largest = StoreBody(blind=bytes(32), expect=None, value=bytes(786_000))
    assert StoreBody.parse(largest.encode()) == largest


def test_a_store_never_prints_its_value() -> None:
    assert "sk-or" not in repr(STORE)
    assert repr(STORE.blind) not in f"{STORE}"


def answers() -> Any:
    rows = AuditKey().chain(2)
    return {
        StoreAnswer: StoreAnswer(row_hash=rows[0].row_hash),
        DeleteAnswer: DeleteAnswer(row_hash=rows[0].row_hash),
        FetchAnswer: FetchAnswer(body=STORE.encode(), row=rows[0]),
        ListAnswer: ListAnswer(names=(ListedName(name="openrouter", store=bytes(32)),), next="openrouter"),
        AuditAnswer: AuditAnswer(rows=tuple(rows), next=1),
    }


ANSWERS = answers()


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_answers_go_both_ways(kind: Any) -> None:
    assert kind.parse(ANSWERS[kind].encode()) == ANSWERS[kind]


@pytest.mark.parametrize(("given_", "expect"), cases("sealed_answer"))
def test_answers_of_the_vectors_read_and_write_the_same_bytes(given_: Any, expect: Any) -> None:
    data = expect["plaintext"].encode()
    names = frozenset(json.loads(data))
    kinds: dict[frozenset[str], Any] = {
        frozenset({"row_hash", "stored"}): StoreAnswer,
        frozenset({"row_hash", "deleted"}): DeleteAnswer,
        frozenset({"body", "row"}): FetchAnswer,
        frozenset({"names", "next"}): ListAnswer,
        frozenset({"next", "rows"}): AuditAnswer,
    }
    if names in kinds:  # answers of wallet signatures have no form here yet
        assert kinds[names].parse(data).encode() == data


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (StoreAnswer, {"row_hash": "00" * 32, "stored": False}),
        (StoreAnswer, {"row_hash": "00" * 32, "stored": 1}),
        (StoreAnswer, {"row_hash": "00" * 31, "stored": True}),
        (DeleteAnswer, {"row_hash": "00" * 32}),
        (ListAnswer, {"names": {}, "next": None}),
        (ListAnswer, {"names": [], "next": 1}),
        (ListAnswer, {"names": [{"name": 1, "store": "00" * 32}], "next": None}),
        (ListAnswer, {"names": [{"name": "a"}], "next": None}),
        (AuditAnswer, {"rows": [{}], "next": None}),
        (AuditAnswer, {"rows": [], "next": "1"}),
    ],
)
def test_malformed_answers_are_refused(kind: Any, members: Any) -> None:
    with refused("invalid_encoding"):
        kind.parse(canonical_json(members))


@given(st.binary(max_size=80), st.sampled_from([StoreBody, ListBody, AuditListBody]))
def test_any_bytes_are_a_body_or_refused(data: Any, body: Any) -> None:
    with refused("invalid_body"):
        body.parse(data)


MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3)


@given(st.sampled_from([STORE, *ANSWERS.values()]), MUTATIONS)
def test_mutated_bodies_and_answers_are_refused_by_name_or_say_something_else(original: Any, mutations: Any) -> None:
    data = bytearray(original.encode())
    for position, byte in mutations:
        data[position % len(data)] = byte
    try:
        parsed = type(original).parse(bytes(data))
    except KeyServiceError as exc:
        assert isinstance(exc.reason, Reason)  # noqa: PT017
    else:
        assert parsed.encode() == bytes(data)
