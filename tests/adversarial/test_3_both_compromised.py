"""Promise 3: K1, the broker's and the workers' certificates in one hand give no more than a worker alone."""

import secrets
from dataclasses import replace
from functools import partial

import pytest

from agentkeys_core.bodies import ListBody, StoreBody
from agentkeys_core.changes import AddAgent, Freeze, SetScope
from agentkeys_core.ids import child_omni
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from demo.attacker import Asked, compose, cosign
from device.pairing import make_offer
from tests.adversarial.town import OPENROUTER, Member, Town, Version, reason


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture(scope="module")
def version(town: Town, master: Member) -> Version:
    return town.store(master, OPENROUTER, b"nobody asked for it")


def forged(town: Town, master: Member, op: Op, service: str, body: bytes = b"{}") -> list[tuple[Asked, str]]:
    """What such a thief can make: a victim's request without its signature, and requests of a key of its own."""
    own = DeviceKey.generate()
    return [
        (master.asked(op, service, body, signer=own), "device_signature_invalid"),
        (compose(town.stack, own, master.who, op, service, body), "device_unknown"),
    ]


def test_without_a_devices_signature_no_key_is_released(town: Town, master: Member, version: Version) -> None:
    for asked, expected in forged(town, master, Op.CRED_FETCH, OPENROUTER):
        cap = cosign(town.stack, asked.cap).encode()
        assert reason(partial(town.signer().derive_cred_kek, cap, **version.salt)) == expected
    body = StoreBody(blind=bytes(32), expect=version.cap.request.digest, value=b"planted").encode()
    for asked, expected in forged(town, master, Op.CRED_STORE, OPENROUTER, body):
        cap = cosign(town.stack, asked.cap).encode()
        assert reason(partial(town.signer().derive_cred_kek, cap)) == expected


def test_nor_a_row_a_list_an_audit_trail_or_a_delete(town: Town, master: Member, version: Version) -> None:
    page = ListBody(after=None, limit=10).encode()
    for asked, expected in forged(town, master, Op.CRED_DELETE, OPENROUTER):
        cap = cosign(town.stack, asked.cap).encode()
        assert reason(partial(town.signer().sign_audit_row, cap, result=0)) == expected
    for asked, expected in forged(town, master, Op.CRED_LIST, "cred:list", page):
        cap = cosign(town.stack, asked.cap).encode()
        assert reason(partial(town.signer().list_objects, cap, after=None, limit=10)) == expected
    for asked, expected in forged(town, master, Op.AUDIT_LIST, "audit:own", page):
        cap = cosign(town.stack, asked.cap).encode()
        signer = town.signer("audit")
        assert reason(partial(signer.get_audit_rows, cap, after=None, limit=10)) == expected
    fetch = master.cap(Op.CRED_FETCH, OPENROUTER, k11=True).encode()
    assert town.signer().derive_cred_kek(fetch, **version.salt).key == version.released.key  # it is still there


def test_a_scope_is_not_widened_by_policy(town: Town, master: Member, version: Version) -> None:
    """The co-signature carries policy and quota; no promise rests on it."""
    agent = town.agent(master, "cred:granted")
    cap = agent.cap(Op.CRED_FETCH, OPENROUTER).encode()
    assert reason(lambda: town.signer().derive_cred_kek(cap, **version.salt)) == "service_not_in_scope"


def test_the_registry_takes_nothing_from_them(town: Town, master: Member) -> None:
    """Both may relay changes; neither can make one."""
    thief = town.master()
    scope = SetScope(
        operator_omni=master.who.operator,
        actor_omni=master.who.operator,
        grant=(OPENROUTER,),
        revoke=(),
        **master.header(),
    )
    stop = Freeze(operator_omni=master.who.operator, incarnation=1, freeze_nonce=0)
    assert reason(lambda: town.apply(thief.signed_change(scope, k11=True))) == "change_not_authorised"
    assert reason(lambda: town.apply(thief.signed_change(stop, k11=True))) == "change_not_authorised"
    assert not master.state().frozen


def test_a_pair_offered_to_one_operator_is_no_device_of_another(town: Town, master: Member) -> None:
    """An offer that they caught names its operator: it cannot be registered under a user of theirs."""
    thief = town.master()
    offer = make_offer(town.device(), master.who.operator, label="caught")
    change = AddAgent(
        operator_omni=thief.who.operator,
        actor_omni=child_omni(thief.who.operator, "caught", 0),
        label="caught",
        generation=0,
        device=offer.pair.message.device,
        services=(OPENROUTER,),
        **thief.header(),
    )
    refused = reason(lambda: town.apply(thief.signed_change(change, k11=True, pair=offer.pair)))
    assert refused == "change_not_authorised"


def test_a_request_that_they_kept_dies_with_its_window(town: Town, master: Member, version: Version) -> None:
    kept = master.cap(Op.CRED_FETCH, OPENROUTER, age_s=362, k11=True).encode()
    assert reason(lambda: town.signer().derive_cred_kek(kept, **version.salt)) == "cap_expired"


def test_a_request_for_another_registry_is_none_here(town: Town, master: Member, version: Version) -> None:
    """What a device signed for another deployment, with the same keys, releases nothing in this one."""
    elsewhere = replace(town.stack, registry_id=secrets.token_bytes(32).hex())
    asked = compose(elsewhere, master.key, master.who, Op.CRED_FETCH, OPENROUTER, approve=master.approve)
    cap = cosign(town.stack, asked.cap).encode()
    assert reason(lambda: town.signer().derive_cred_kek(cap, **version.salt)) == "wrong_audience"
