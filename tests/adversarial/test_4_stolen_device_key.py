"""Promise 4: an agent's key opens that actor's scope until it is revoked; a master's key without K11 opens less."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from agentkeys_core.bodies import AuditListBody, ListAnswer, ListBody, StoreBody
from agentkeys_core.changes import AddAgent, Change, Freeze, K11OfDevice, RevokeDevice, SetScope, Unfreeze
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.ids import child_omni
from agentkeys_core.ops import Op
from agentkeys_core.sealing import open_sealed
from demo.attacker import cosign
from device.agents import revoke_device, set_scope, unfreeze
from device.credentials import get, put
from device.pairing import make_offer
from tests.adversarial.town import OPENROUTER, Member, Town, Version, reason, reason_of

REVOCATION_S = 1.0


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    made = town.master()
    put(made.device, "openrouter", b"granted")
    put(made.device, "mail", b"not granted")
    return made


@pytest.fixture(scope="module")
def thief(town: Town, master: Member) -> Member:
    """Whoever has this agent's key file."""
    return town.agent(master, OPENROUTER)


@pytest.fixture(scope="module")
def version(town: Town, master: Member) -> Version:
    return town.store(master, "cred:signer-only", b"x")


def through_the_front_door(town: Town, member: Member, op: Op, service: str, body: bytes = b"{}") -> str:
    """What a thief without K1 gets from the broker."""
    return reason_of(town.post("broker", "/v1/caps", member.asked(op, service, body).cap.encode()))


def test_an_agents_key_opens_what_its_scope_grants(town: Town, thief: Member) -> None:
    assert town.ask_worker(thief.asked(Op.CRED_FETCH, OPENROUTER)).status_code == 200


@pytest.mark.parametrize("service", ["cred:mail", "cred:nothing", "cred:openrouter2", "cred:openrouter.x"])
def test_an_agents_key_opens_nothing_that_its_scope_does_not_name(town: Town, thief: Member, service: str) -> None:
    assert through_the_front_door(town, thief, Op.CRED_FETCH, service) == "service_not_in_scope"
    asked = thief.asked(Op.CRED_FETCH, service)
    assert reason_of(town.ask_worker(asked)) == "service_not_in_scope"
    cap = cosign(town.stack, asked.cap).encode()
    call = partial(town.signer().derive_cred_kek, cap, epoch=1, salt=bytes(32))
    assert reason(call) == "service_not_in_scope"


def test_a_scope_of_memory_is_none_of_credentials(town: Town, master: Member) -> None:
    """A service is its whole name: what is granted below one prefix is not granted below another."""
    agent = town.agent(master, "memory:openrouter")
    cap = agent.cap(Op.CRED_FETCH, OPENROUTER).encode()
    assert reason(lambda: town.signer().derive_cred_kek(cap, epoch=1, salt=bytes(32))) == "service_not_in_scope"


@pytest.mark.parametrize("op", [Op.CRED_STORE, Op.CRED_DELETE])
def test_an_agent_stores_and_deletes_nothing(town: Town, thief: Member, op: Op) -> None:
    """Not even what its scope grants it to read."""
    body = StoreBody(blind=bytes(32), expect=None, value=b"planted").encode() if op is Op.CRED_STORE else b"{}"
    assert through_the_front_door(town, thief, op, OPENROUTER, body) == "device_role_missing"
    asked = thief.asked(op, OPENROUTER, body)
    assert reason_of(town.ask_worker(asked)) == "device_role_missing"
    cap = cosign(town.stack, asked.cap).encode()
    signer = town.signer()
    call = (
        partial(signer.derive_cred_kek, cap) if op is Op.CRED_STORE else partial(signer.sign_audit_row, cap, result=0)
    )
    assert reason(call) == "device_role_missing"


def test_an_agent_sees_its_own_rows_and_no_others(town: Town, thief: Member) -> None:
    body = AuditListBody(after=None, limit=10).encode()
    assert town.ask_worker(thief.asked(Op.AUDIT_LIST, "audit:own", body), worker="audit").status_code == 200
    asked = thief.asked(Op.AUDIT_LIST, "audit:tree", body)
    assert reason_of(town.ask_worker(asked, worker="audit")) == "device_role_missing"
    cap = cosign(town.stack, asked.cap).encode()
    call = partial(town.signer("audit").get_audit_rows, cap, after=None, limit=10)
    assert reason(call) == "device_role_missing"


def test_an_agents_list_shows_what_its_scope_grants(town: Town, thief: Member) -> None:
    asked = thief.asked(Op.CRED_LIST, "cred:list", ListBody(after=None, limit=100).encode())
    answer = town.ask_worker(asked).json()
    plain = open_sealed(asked.reply_key, asked.cap.request.digest, b64u_decode(answer["sealed"]))
    assert [entry.name for entry in ListAnswer.parse(plain).names] == ["openrouter"]


def test_an_agents_key_changes_no_registry(town: Town, master: Member, thief: Member) -> None:
    """K11 of the master is not there, and its own K10 is no master's."""
    scope = SetScope(
        operator_omni=master.who.operator,
        actor_omni=thief.who.actor,
        grant=("cred:mail",),
        revoke=(),
        **master.header(),
    )
    stop = Freeze(operator_omni=master.who.operator, incarnation=1, freeze_nonce=master.state().freeze_nonce)
    assert reason(lambda: town.apply(thief.signed_change(scope, k11=False))) == "change_not_authorised"
    assert reason(lambda: town.apply(thief.signed_change(stop, k11=False))) == "change_not_authorised"


def test_a_masters_key_alone_fetches_deletes_and_overwrites_nothing(
    town: Town, master: Member, version: Version
) -> None:
    signer = town.signer()
    current = version.cap.request.digest
    fetch = master.cap(Op.CRED_FETCH, "cred:signer-only").encode()
    delete = master.cap(Op.CRED_DELETE, "cred:signer-only").encode()
    body = StoreBody(blind=bytes(32), expect=current, value=b"planted").encode()
    store = master.cap(Op.CRED_STORE, "cred:signer-only", body).encode()
    calls: list[Callable[[], object]] = [
        partial(signer.derive_cred_kek, fetch, **version.salt),
        partial(signer.sign_audit_row, delete, result=0),
        partial(signer.derive_cred_kek, store, expect=current),
        partial(signer.derive_cred_kek, store),
    ]
    assert [reason(call) for call in calls] == ["k11_required"] * 4


def test_and_the_worker_says_so_first(town: Town, master: Member) -> None:
    for op in (Op.CRED_FETCH, Op.CRED_DELETE):
        assert reason_of(town.ask_worker(master.asked(op, OPENROUTER))) == "k11_required"
    current = get(master.device, "openrouter").store
    body = StoreBody(blind=bytes(32), expect=current, value=b"planted").encode()
    assert reason_of(town.ask_worker(master.asked(Op.CRED_STORE, OPENROUTER, body))) == "k11_required"
    assert get(master.device, "openrouter").value == b"granted"


def test_a_touch_for_one_request_is_none_for_another(town: Town, master: Member, version: Version) -> None:
    """An assertion's challenge is the cap digest: one that was given for another cap is refused."""
    given = master.asked(Op.CRED_FETCH, "cred:signer-only", k11=True).cap.k11
    stolen = replace(master.asked(Op.CRED_FETCH, "cred:signer-only").cap, k11=given)
    cap = cosign(town.stack, stolen).encode()
    assert reason(lambda: town.signer().derive_cred_kek(cap, **version.salt)) == "k11_invalid"


def test_a_touch_of_another_user_is_none(town: Town, master: Member, version: Version) -> None:
    stranger = town.master()
    asked = master.asked(Op.CRED_FETCH, "cred:signer-only", approve=stranger.approve)
    cap = cosign(town.stack, asked.cap).encode()
    assert reason(lambda: town.signer().derive_cred_kek(cap, **version.salt)) == "k11_invalid"


def test_a_touch_that_is_not_needed_is_checked_as_well(town: Town, master: Member, thief: Member) -> None:
    stranger = town.master()
    asked = thief.asked(Op.CRED_FETCH, OPENROUTER, approve=stranger.approve)
    assert reason_of(town.ask_worker(asked)) == "k11_invalid"


def changes(town: Town, master: Member, agent: Member) -> dict[str, tuple[Change, dict[str, object]]]:
    """Every change that a master makes with K11, ready but for the signatures."""
    operator, header = master.who.operator, master.header()
    offer = make_offer(town.device(), operator, label="new")
    add = AddAgent(
        operator_omni=operator,
        actor_omni=child_omni(operator, "new", 0),
        label="new",
        generation=0,
        device=offer.pair.message.device,
        services=(OPENROUTER,),
        **header,
    )
    scope: dict[str, Any] = {"operator_omni": operator, "actor_omni": agent.who.actor, **header}
    return {
        "add": (add, {"pair": offer.pair}),
        "grant": (SetScope(grant=("cred:mail",), revoke=(), **scope), {}),
        "narrow": (SetScope(grant=(), revoke=(OPENROUTER,), **scope), {}),
        "revoke": (RevokeDevice(operator_omni=operator, device_key_hash=agent.key.key_hash, **header), {}),
        "unfreeze": (Unfreeze(operator_omni=operator, **header), {}),
    }


@pytest.mark.parametrize("name", ["add", "grant", "narrow", "revoke", "unfreeze"])
def test_a_masters_key_alone_changes_nothing(town: Town, master: Member, thief: Member, name: str) -> None:
    """Without K11, with one for another change, and with another user's: refused each time."""
    change, rest = changes(town, master, thief)[name]
    other, _ = changes(town, master, thief)["grant" if name != "grant" else "narrow"]
    stranger = town.master()
    domain = master.device.profile.domain

    def touch(by: Member, digest_of: Change) -> tuple[K11OfDevice, ...]:
        assertion = by.assertion(by.device.k10.sign_change(digest_of, domain))
        return (K11OfDevice(device=master.key.key_hash, assertion=assertion),)

    for k11 in ((), touch(master, other), touch(stranger, change)):
        body = master.signed_change(change, k11=k11, **rest)
        assert reason(partial(town.apply, body)) == "change_not_authorised"
    state = master.state()
    assert state.grants(thief.who.actor, OPENROUTER)
    assert not state.grants(thief.who.actor, "cred:mail")
    assert not state.devices[thief.key.key_hash].revoked


def test_a_masters_key_alone_may_stop_everything(town: Town) -> None:
    """Freeze is the one change without K11: a thief of the key can stop the user, and so can the user stop a thief."""
    master = town.master()
    agent = town.agent(master, OPENROUTER)
    put(master.device, "openrouter", b"x")
    stop = Freeze(operator_omni=master.who.operator, incarnation=1, freeze_nonce=0)
    town.apply(master.signed_change(stop, k11=False))
    for member, k11 in ((agent, False), (master, True)):
        assert reason_of(town.ask_worker(member.asked(Op.CRED_FETCH, OPENROUTER, k11=k11))) == "operator_frozen"
        cap = member.cap(Op.CRED_FETCH, OPENROUTER, k11=k11).encode()
        assert reason(partial(town.signer().derive_cred_kek, cap, epoch=1, salt=bytes(32))) == "operator_frozen"
    unfreeze(master.device)
    assert town.ask_worker(agent.asked(Op.CRED_FETCH, OPENROUTER)).status_code == 200


@pytest.mark.parametrize("how", ["revoke", "narrow"])
def test_a_revocation_takes_hold_within_a_second(town: Town, how: str) -> None:
    """In the signer and at the worker, with nothing restarted; a request signed before it is dead as well."""
    master = town.master()
    put(master.device, "openrouter", b"x")
    agent = town.agent(master, OPENROUTER)
    version = town.store(master, "cred:at-signer", b"x")
    set_scope(master.device, agent.who.actor, grant=("cred:at-signer",), revoke=())
    before = [agent.cap(Op.CRED_FETCH, "cred:at-signer").encode() for _ in range(2)]
    town.signer().derive_cred_kek(before[0], **version.salt)
    presigned = agent.asked(Op.CRED_FETCH, OPENROUTER)
    assert town.ask_worker(agent.asked(Op.CRED_FETCH, OPENROUTER)).status_code == 200
    if how == "revoke":
        revoke_device(master.device, agent.key.key_hash)
        expected = "device_revoked"
    else:
        set_scope(master.device, agent.who.actor, grant=(), revoke=(OPENROUTER, "cred:at-signer"))
        expected = "service_not_in_scope"
    done = time.monotonic()
    served = 0
    while time.monotonic() - done < REVOCATION_S:
        try:
            town.signer().derive_cred_kek(before[1], **version.salt)
        except Exception:
            break
        served += 1
        time.sleep(0.01)
    assert reason(partial(town.signer().derive_cred_kek, before[1], **version.salt)) == expected
    while time.monotonic() - done < REVOCATION_S and town.ask_worker(presigned).is_success:
        time.sleep(0.01)
    assert reason_of(town.ask_worker(presigned)) == expected
    assert served < 100


def test_a_revoked_key_never_comes_back(town: Town) -> None:
    master = town.master()
    agent = town.agent(master, OPENROUTER, label="back", generation=0)
    revoke_device(master.device, agent.key.key_hash)
    offer = make_offer(agent.device, master.who.operator, label="back")
    change = AddAgent(
        operator_omni=master.who.operator,
        actor_omni=agent.who.actor,
        label="back",
        generation=0,
        device=agent.key.address,
        services=(OPENROUTER,),
        **master.header(),
    )
    assert reason(lambda: town.apply(master.signed_change(change, k11=True, pair=offer.pair))) == "already_bound"


def test_naming_a_victim_does_not_use_up_its_allowance(town: Town, thief: Member) -> None:
    """Before its signature is verified only the caller's certificate is charged: junk in a device's name is no lock-out."""
    junk = thief.cap(Op.CRED_FETCH, OPENROUTER, signer=town.master().key).encode()
    signer = town.signer()
    for _ in range(700):  # more than a device may do at once
        assert reason(partial(signer.derive_cred_kek, junk, epoch=1, salt=bytes(32))) == "device_signature_invalid"
    assert town.ask_worker(thief.asked(Op.CRED_FETCH, OPENROUTER)).status_code == 200
