import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.authorisation import authorise
from agentkeys_core.captoken import CapRequest, UncosignedCap
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni, operator_omni
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op, Service
from agentkeys_core.proof import k10_digest
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, OperatorState, Role, Tier
from tests.unit.core.material import SoftwareK11
from tests.unit.core.refusal import refused

WALLET = bytes(range(20))
OPERATOR = operator_omni(WALLET)
AGENT = child_omni(OPERATOR, "agent-a", 0)
OTHER = operator_omni(bytes(20))
MASTER_KEY, SECOND_KEY, AGENT_KEY, STRANGER_KEY = (DeviceKey.from_bytes(bytes([n]) * 32) for n in (1, 2, 3, 4))
FIRST_K11, SECOND_K11, FOREIGN_K11 = SoftwareK11(b"first"), SoftwareK11(b"second"), SoftwareK11(b"foreign")


def record(key: Any, *, tier: Any = Tier.MASTER, actor: Any = OPERATOR, k11: Any = None, **changed: Any) -> Any:
    members: dict[str, Any] = {
        "device_key_hash": key.key_hash,
        "operator_omni": OPERATOR,
        "actor_omni": actor,
        "address": key.address,
        "tier": tier,
        "roles": ALL_ROLES if tier is Tier.MASTER else Role.CAP_MINT,
        "revoked": False,
        "registered_at": 1764000000,
        "k11": None if k11 is None else k11.public,
    }
    return DeviceRecord(**(members | changed))


def operator(*, master: Any = None, second: Any = None, agent: Any = None, **changed: Any) -> Any:
    devices = (
        record(MASTER_KEY, k11=FIRST_K11, **(master or {})),
        record(SECOND_KEY, k11=SECOND_K11, **(second or {})),
        record(AGENT_KEY, **({"tier": Tier.AGENT, "actor": AGENT} | (agent or {}))),
    )
    members: dict[str, Any] = {
        "operator_omni": OPERATOR,
        "wallet": WALLET,
        "wallet_epoch": 0,
        "frozen": False,
        "nonce": 1,
        "freeze_nonce": 0,
        "threshold": 1,
        "devices": {device.device_key_hash: device for device in devices},
        "scopes": {AGENT: frozenset({"cred:openrouter", "memory:travel", "siwe:app.example.com", "sign:permit"})},
        "incarnation": 1,
        "k3_epoch": 1,
    }
    return OperatorState(**(members | changed))


SERVICES = {
    Op.CRED_LIST: "cred:list",
    Op.MEMORY_LIST: "memory:list",
    Op.MEMORY_PUT: "memory:travel",
    Op.MEMORY_DELETE: "memory:travel",
    Op.MEMORY_GET: "memory:travel",
    Op.AUDIT_LIST: "audit:own",
    Op.SIWE_SIGN: "siwe:app.example.com",
    Op.TYPED_DATA_SIGN: "sign:permit",
}


def cap(op: Any = Op.CRED_FETCH, key: Any = AGENT_KEY, *, service: Any = None, k11: Any = None, **changed: Any) -> Any:
    members: dict[str, Any] = {
        "actor_omni": AGENT if key is AGENT_KEY else OPERATOR,
        "aud": "registry",
        "device": key.key_hash,
        "expires_at": 1764000300,
        "issued_at": 1764000000,
        "k3_epoch": 1,
        "nonce": bytes(16),
        "op": op,
        "operator_omni": OPERATOR,
        "reply_key": bytes([9]) + bytes(31),
        "request_hash": bytes(32),
        "service": Service.parse(service or SERVICES.get(op, "cred:openrouter")),
    }
    request = CapRequest.compose(**(members | changed))
    return UncosignedCap(
        request=request,
        device_public_key=key.public_key,
        device_signature=key.sign(k10_digest("cap", request.raw)),
        k11=None if k11 is None else k11.answer(cap_challenge(request.digest)),
    )


def decide(reason: Any, what: Any, state: Any, *, replacing: Any = False) -> Any:
    verify_device_signature(what)
    with refused(reason):
        return authorise(what, state, replacing=replacing)


def test_an_agent_fetches_what_its_scope_grants_from_the_operators_vault() -> None:
    granted = authorise(cap(), operator(), replacing=False)
    assert granted.owner == OPERATOR
    assert granted.device.device_key_hash == AGENT_KEY.key_hash
    assert not granted.k11_verified


def test_memory_is_the_actors_own() -> None:
    assert authorise(cap(Op.MEMORY_PUT), operator(), replacing=True).owner == AGENT


def test_refuses_unknown_devices() -> None:
    decide("device_unknown", cap(), None)
    decide("device_unknown", cap(key=STRANGER_KEY), operator())


def test_refuses_revoked_devices() -> None:
    decide("device_revoked", cap(), operator(agent={"revoked": True}))


@pytest.mark.parametrize("change", [{"operator_omni": OTHER}, {"actor_omni": OTHER}, {"actor_omni": OPERATOR}])
def test_refuses_a_device_that_names_another_operator_or_actor(change: Any) -> None:
    decide("actor_binding_mismatch", cap(**change), operator())


def test_refuses_a_master_that_names_its_agent() -> None:
    decide("actor_binding_mismatch", cap(key=MASTER_KEY, actor_omni=AGENT), operator())


def test_refuses_a_record_that_lies_in_another_operators_state() -> None:
    decide("actor_binding_mismatch", cap(), dataclasses.replace(operator(), operator_omni=OTHER))


def test_refuses_devices_without_cap_mint() -> None:
    decide("device_role_missing", cap(), operator(agent={"roles": Role(0)}))
    decide("device_role_missing", cap(Op.CRED_LIST, MASTER_KEY), operator(master={"roles": Role.SCOPE_MGMT}))


@pytest.mark.parametrize(
    ("op", "service"),
    [(Op.CRED_STORE, "cred:openrouter"), (Op.CRED_DELETE, "cred:openrouter"), (Op.AUDIT_LIST, "audit:tree")],
)
def test_refuses_agents_what_only_masters_do(op: Any, service: Any) -> None:
    granting = operator(scopes={AGENT: frozenset({service})})
    decide("device_role_missing", cap(op, service=service), granting)
    decide("device_role_missing", cap(op, service=service, k11=FIRST_K11), granting)


def test_masters_see_the_tree() -> None:
    assert authorise(cap(Op.AUDIT_LIST, MASTER_KEY, service="audit:tree"), operator(), replacing=False).owner


def test_refuses_everything_of_a_frozen_operator() -> None:
    decide("operator_frozen", cap(), operator(frozen=True))
    decide("operator_frozen", cap(Op.AUDIT_LIST, MASTER_KEY), operator(frozen=True))


@pytest.mark.parametrize(
    ("op", "service"),
    [
        (Op.CRED_FETCH, "cred:openrouter2"),
        (Op.MEMORY_GET, "memory:openrouter"),
        (Op.MEMORY_PUT, "memory:x"),
        (Op.SIWE_SIGN, "siwe:evil.example.com"),
        (Op.TYPED_DATA_SIGN, "sign:other"),
    ],
)
def test_refuses_agents_what_their_scope_does_not_name(op: Any, service: Any) -> None:
    decide("service_not_in_scope", cap(op, service=service), operator())
    decide("service_not_in_scope", cap(op, service=service, k11=FIRST_K11), operator())


@pytest.mark.parametrize("op", [Op.CRED_LIST, Op.MEMORY_LIST, Op.AUDIT_LIST])
def test_lists_and_own_audit_need_no_grant(op: Any) -> None:
    assert authorise(cap(op), operator(scopes={}), replacing=False).owner


def test_masters_need_no_grant() -> None:
    assert authorise(cap(Op.MEMORY_GET, MASTER_KEY), operator(scopes={}), replacing=False).owner


def test_a_master_tier_under_another_actor_still_needs_a_grant() -> None:
    odd = operator(scopes={}, agent={"tier": Tier.MASTER})
    decide("service_not_in_scope", cap(Op.MEMORY_GET), odd)


def test_an_agent_tier_under_the_operators_own_actor_still_needs_a_grant() -> None:
    odd = operator(scopes={}, master={"tier": Tier.AGENT})
    decide("service_not_in_scope", cap(Op.MEMORY_GET, MASTER_KEY), odd)
    decide("device_role_missing", cap(Op.CRED_STORE, MASTER_KEY), odd)


NEEDING = [(Op.CRED_FETCH, False), (Op.CRED_DELETE, False), (Op.CRED_STORE, True), (Op.TYPED_DATA_SIGN, False)]


@pytest.mark.parametrize(("op", "replacing"), NEEDING)
def test_refuses_a_masters_key_alone_where_k11_is_needed(op: Any, replacing: Any) -> None:
    decide("k11_required", cap(op, MASTER_KEY), operator(), replacing=replacing)
    granted = authorise(cap(op, MASTER_KEY, k11=FIRST_K11), operator(), replacing=replacing)
    assert granted.k11_verified


def test_a_new_name_is_stored_without_k11() -> None:
    assert not authorise(cap(Op.CRED_STORE, MASTER_KEY), operator(), replacing=False).k11_verified


def test_typed_data_by_an_agent_needs_a_masters_k11() -> None:
    decide("k11_required", cap(Op.TYPED_DATA_SIGN), operator())
    assert authorise(cap(Op.TYPED_DATA_SIGN, k11=SECOND_K11), operator(), replacing=False).k11_verified


def test_k11_may_be_any_unrevoked_masters_of_that_operator() -> None:
    what = cap(Op.CRED_DELETE, MASTER_KEY, k11=SECOND_K11)
    assert authorise(what, operator(), replacing=False).k11_verified
    decide("k11_invalid", what, operator(second={"revoked": True}))
    decide("k11_invalid", cap(Op.CRED_DELETE, MASTER_KEY, k11=FOREIGN_K11), operator())


def test_an_agents_k11_counts_for_nothing() -> None:
    odd = operator(second={"tier": Tier.AGENT})
    decide("k11_invalid", cap(Op.CRED_DELETE, MASTER_KEY, k11=SECOND_K11), odd)


def test_a_k11_that_is_not_needed_is_checked_too() -> None:
    good = cap(Op.CRED_FETCH, k11=FIRST_K11)
    assert authorise(good, operator(), replacing=False).k11_verified
    stale = cap(Op.CRED_FETCH, k11=FIRST_K11, nonce=bytes([1]) * 16).k11
    decide("k11_invalid", dataclasses.replace(good, k11=stale), operator())


def test_k11_of_another_request_is_refused() -> None:
    one = cap(Op.CRED_DELETE, MASTER_KEY, k11=FIRST_K11)
    other = cap(Op.CRED_DELETE, MASTER_KEY, nonce=bytes([1]) * 16)
    decide("k11_invalid", dataclasses.replace(other, k11=one.k11), operator())


FAULTS = ["revoked", "binding", "role", "frozen", "scope", "k11"]
REASONS = {
    "revoked": "device_revoked",
    "binding": "actor_binding_mismatch",
    "role": "device_role_missing",
    "frozen": "operator_frozen",
    "scope": "service_not_in_scope",
    "k11": "k11_required",
}


@given(st.sets(st.sampled_from(FAULTS)))
def test_the_first_fault_in_the_order_of_the_design_decides(faults: Any) -> None:
    state = operator(
        agent={"revoked": "revoked" in faults, "roles": Role(0) if "role" in faults else Role.CAP_MINT},
        frozen="frozen" in faults,
        scopes={} if "scope" in faults else {AGENT: frozenset({"sign:permit"})},
    )
    what = cap(
        Op.TYPED_DATA_SIGN,
        k11=None if "k11" in faults else FIRST_K11,
        operator_omni=OTHER if "binding" in faults else OPERATOR,
    )
    first = next((REASONS[fault] for fault in FAULTS if fault in faults), "ok")
    with refused(first):
        authorise(what, state, replacing=False)


@given(st.sampled_from(Op), st.sampled_from([MASTER_KEY, AGENT_KEY]), st.booleans(), st.booleans(), st.booleans())
def test_whatever_is_asked_gets_an_owner_or_a_reason(
    op: Any, key: Any, replacing: Any, frozen: Any, with_k11: Any
) -> None:
    what = cap(op, key, k11=FIRST_K11 if with_k11 else None)
    try:
        granted = authorise(what, operator(frozen=frozen), replacing=replacing)
    except KeyServiceError as exc:
        assert exc.reason.code == "PERMISSION_DENIED"  # noqa: PT017
    else:
        assert not frozen
        assert granted.owner in (OPERATOR, AGENT)
        assert granted.k11_verified is with_k11
