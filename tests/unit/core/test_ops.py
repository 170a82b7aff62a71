from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import OPS, Effect, ObjectClass, Op, Service, WorkerClass, k11_required, object_path, owner_of
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases


def test_every_op_has_a_row_that_says_so() -> None:
    assert set(OPS) == set(Op)
    assert all(rule.op is op for op, rule in OPS.items())
    assert all(rule.window_s == 300 for rule in OPS.values())


def test_writes_deletes_and_signatures_are_burned_and_nothing_else() -> None:
    once = {rule.op for rule in OPS.values() if rule.once}
    assert once == {rule.op for rule in OPS.values() if rule.effect in (Effect.WRITE, Effect.DELETE, Effect.SIGN)}


def test_agents_never_change_credentials() -> None:
    assert {rule.op for rule in OPS.values() if rule.master_only} == {Op.CRED_STORE, Op.CRED_DELETE}


def test_each_op_is_served_by_its_class() -> None:
    assert OPS[Op.CRED_LIST].worker_class is WorkerClass.CREDENTIALS
    assert OPS[Op.MEMORY_GET].worker_class is WorkerClass.MEMORY
    assert OPS[Op.AUDIT_LIST].worker_class is WorkerClass.AUDIT
    assert {rule.op for rule in OPS.values() if rule.worker_class is None} == {Op.SIWE_SIGN, Op.TYPED_DATA_SIGN}


@pytest.mark.parametrize(
    ("op", "tier", "replacing", "required"),
    [
        (Op.CRED_STORE, 1, False, False),
        (Op.CRED_STORE, 1, True, True),
        (Op.CRED_DELETE, 1, False, True),
        (Op.CRED_FETCH, 1, True, True),
        (Op.CRED_FETCH, 2, True, False),
        (Op.CRED_LIST, 1, True, False),
        (Op.MEMORY_PUT, 1, True, False),
        (Op.MEMORY_DELETE, 1, True, False),
        (Op.MEMORY_GET, 1, True, False),
        (Op.AUDIT_LIST, 1, True, False),
        (Op.SIWE_SIGN, 1, True, False),
        (Op.TYPED_DATA_SIGN, 1, False, True),
        (Op.TYPED_DATA_SIGN, 2, False, True),
    ],
)
def test_k11_is_asked_where_policy_says(op: Any, tier: Any, replacing: Any, required: Any) -> None:
    assert k11_required(OPS[op], tier=tier, replacing=replacing) is required


@pytest.mark.parametrize(("given", "expect"), cases("service"))
def test_services_of_the_vectors(given: Any, expect: Any) -> None:
    service = Service.parse(given["service"])
    assert service.service_hash.hex() == expect["service_hash"]
    assert service.sha256.hex() == expect["sha256"]
    if expect["object_path"] is not None:
        object_class = ObjectClass.CREDENTIALS if service.prefix == "cred" else ObjectClass.MEMORY
        assert object_path(bytes.fromhex(given["owner"]), service, object_class) == expect["object_path"]


@pytest.mark.parametrize(
    "text",
    ["", "cred", "cred:", "cred:A", "cred:a\n", "cred:a/b", "cred:..", "cred:" + "a" * 65, "x:a", "audit:all", None, 3],
)
def test_malformed_services_are_refused(text: Any) -> None:
    with refused("invalid_cap"):
        Service.parse(text)


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("memory:a", Op.CRED_FETCH),
        ("cred:list", Op.CRED_STORE),
        ("cred:list", Op.CRED_FETCH),
        ("memory:list", Op.MEMORY_PUT),
        ("cred:a", Op.CRED_LIST),
        ("memory:a", Op.MEMORY_LIST),
        ("audit:own", Op.SIWE_SIGN),
    ],
)
def test_services_that_do_not_fit_the_op_are_refused(text: Any, op: Any) -> None:
    assert Service.parse(text).text == text
    with refused("invalid_cap"):
        Service.parse(text, op)


@given(st.text(max_size=80), st.none() | st.sampled_from(Op))
def test_any_text_is_a_service_or_refused(text: Any, op: Any) -> None:
    try:
        service = Service.parse(text, op)
    except KeyServiceError as exc:
        assert exc.reason == "invalid_cap"  # noqa: PT017
    else:
        assert f"{service.prefix}:{service.name}" == text


def test_credentials_belong_to_the_operator_and_memory_to_the_actor() -> None:
    operator, actor = bytes(32), bytes([1]) * 32
    assert owner_of(OPS[Op.CRED_FETCH], operator, actor) == operator
    assert owner_of(OPS[Op.MEMORY_GET], operator, actor) == actor
    assert owner_of(OPS[Op.AUDIT_LIST], operator, actor) == actor
