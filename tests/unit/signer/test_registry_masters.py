"""Further masters: let in by a quorum and a Pair, given roles, revoked by the others; thresholds."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from agentkeys_core.audit import OpKind
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import ALL_ROLES, Role
from agentkeys_core.signed_change import SignedChange
from tests.fakes.registry_kit import DOMAIN, NOW, UNAUTHORISED, Opened, Person, kind_of, with_signatures
from tests.unit.core.material import SoftwareK11
from tests.unit.core.refusal import refused


@pytest.fixture
def third(here: Opened, first: Person, second: Person) -> Person:
    """Their third; the next nonce is 3."""
    other = first.second()
    here.registry.apply(first.add_master(other, 2))
    return other


@pytest.fixture
def guarded(here: Opened, first: Person, second: Person, third: Person) -> Person:
    """The same with a threshold of two; the next nonce is 4."""
    here.registry.apply(first.touched(first.set_threshold(3, 2), first))
    return first


# --- AddMaster


def test_lets_a_second_master_in(here: Opened, first: Person) -> None:
    new = first.second()
    row = here.registry.apply(first.add_master(new, 1, roles=5))
    state = here.state(first)
    record = state.devices[new.device]
    assert kind_of(row) == OpKind.DEVICE_ADD
    assert (record.is_master, record.roles, record.actor_omni) == (True, Role(5), first.operator)
    assert (record.k11, record.sign_count) == (new.k11.public, 1)
    assert (record.evidence, record.assurance) == (Evidence.MASTER, Assurance.HIGH)
    assert (state.nonce, state.threshold) == (2, 1)


def _without_pair(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), pair=None)


def _pair_by_another(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), pair=first.master_pair(new, signer=first.k10))


def _pair_of_an_agent(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), pair=first.pair(new.k10))


def _pair_with_another_k11(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), pair=first.master_pair(new, k11_cred_id=sha256(b"other")))


def _pair_for_another(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), pair=first.master_pair(new, operator_omni=sha256(b"other")))


def _pair_expired(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), pair=first.master_pair(new, expires_at=NOW))


def _no_word_of_the_new_k10(first: Person, new: Person) -> SignedChange:
    return with_signatures(first.add_master(new, 1), new_device=None)


def _new_k10_signed_by_another(first: Person, new: Person) -> SignedChange:
    signed = first.add_master(new, 1)
    return with_signatures(signed, new_device=first.k10.sign_recoverable(signed.digest(DOMAIN)))


def _no_touch_of_the_new_k11(first: Person, new: Person) -> SignedChange:
    signed = first.add_master(new, 1)
    return with_signatures(signed, k11=signed.signatures.k11[:1])


def _touch_of_the_new_k11_alone(first: Person, new: Person) -> SignedChange:
    return first.add_master(new, 1, touched_by=[])


def _new_k11_touched_something_else(first: Person, new: Person) -> SignedChange:
    signed = first.add_master(new, 1)
    return with_signatures(signed, k11=(signed.signatures.k11[0], new.touch(sha256(b"other"))))


def _k10_of_the_newcomer(first: Person, new: Person) -> SignedChange:
    signed = first.add_master(new, 1)
    return with_signatures(signed, k10=new.k10.sign_recoverable(signed.digest(DOMAIN)))


def _of_another_page(first: Person, new: Person) -> SignedChange:
    new.k11 = SoftwareK11(b"elsewhere", origin="http://localhost:9999")
    return first.add_master(new, 1)


def _in_software(first: Person, new: Person) -> SignedChange:
    new.k11 = SoftwareK11(b"software", origin="software://localhost")
    return first.add_master(new, 1)


def _touched_by_a_stranger(first: Person, new: Person) -> SignedChange:
    return first.add_master(new, 1, touched_by=[first, Person()])


@pytest.mark.parametrize(
    "bent",
    [
        _without_pair,
        _pair_by_another,
        _pair_of_an_agent,
        _pair_with_another_k11,
        _pair_for_another,
        _pair_expired,
        _no_word_of_the_new_k10,
        _new_k10_signed_by_another,
        _no_touch_of_the_new_k11,
        _touch_of_the_new_k11_alone,
        _new_k11_touched_something_else,
        _k10_of_the_newcomer,
        _of_another_page,
        _in_software,
        _touched_by_a_stranger,
    ],
)
def test_refuses_a_master_that_is_not_fully_proven(
    here: Opened, first: Person, bent: Callable[[Person, Person], SignedChange]
) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(bent(first, first.second()))
    assert len(here.state(first).devices) == 1


def test_a_key_that_was_registered_becomes_no_master(here: Opened, first: Person, second: Person) -> None:
    agent, revoked = first.second(), first.second()
    here.registry.apply(first.add_agent(agent.k10, 2))
    here.registry.apply(first.add_master(revoked, 3))
    here.registry.apply(first.approved(first.revoke(4, revoked.device)))
    for taken in (agent, revoked, second):
        fresh = replace(taken, k11=SoftwareK11(b"fresh" + taken.device))
        with refused("already_bound"):
            here.registry.apply(first.add_master(fresh, 5))


def test_one_k11_key_never_stands_for_two_masters(here: Opened, first: Person, second: Person) -> None:
    gone = first.second()
    here.registry.apply(first.add_master(gone, 2))
    here.registry.apply(first.approved(first.revoke(3, gone.device)))
    for twice in (first, second, gone):
        same_key = first.second()
        same_key.k11 = SoftwareK11(b"another name")
        same_key.k11.private, same_key.k11.public = (
            twice.k11.private,
            replace(same_key.k11.public, x=twice.k11.public.x, y=twice.k11.public.y),
        )
        same_name = first.second()
        same_name.k11 = SoftwareK11(twice.k11.credential_id)
        for new in (same_key, same_name):
            with refused("already_bound"):
                here.registry.apply(first.add_master(new, 4))


def test_no_master_is_let_in_while_frozen(here: Opened, first: Person) -> None:
    here.registry.apply(first.freeze())
    with refused("operator_frozen"):
        here.registry.apply(first.add_master(first.second(), 1))


def test_k10_of_one_master_and_k11_of_another_make_a_quorum(here: Opened, first: Person, second: Person) -> None:
    here.registry.apply(first.add_master(first.second(), 2, touched_by=[second]))


# --- thresholds


def test_sets_a_threshold_that_can_lose_one_master(here: Opened, first: Person, second: Person, third: Person) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(first.touched(first.set_threshold(3, 3), first))
    row = here.registry.apply(first.touched(first.set_threshold(3, 2), first))
    assert kind_of(row) == OpKind.ROLES_OR_THRESHOLD
    assert here.state(first).threshold == 2


def test_two_masters_carry_no_threshold_of_two(here: Opened, first: Person, second: Person) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(first.touched(first.set_threshold(2, 2), first, second))


def test_a_master_without_recovery_carries_no_threshold(here: Opened, first: Person, second: Person) -> None:
    here.registry.apply(first.add_master(first.second(), 2, roles=int(Role.CAP_MINT | Role.SCOPE_MGMT)))
    with refused(UNAUTHORISED):
        here.registry.apply(first.touched(first.set_threshold(3, 2), first, second))


def test_under_a_threshold_of_two_one_k11_is_not_enough(
    here: Opened, guarded: Person, second: Person, third: Person
) -> None:
    target = third.device
    changes = (guarded.set_threshold(4, 1), guarded.set_roles(4, target, 7), guarded.revoke(4, target))
    for change in changes:
        with refused(UNAUTHORISED):
            here.registry.apply(guarded.touched(change, guarded))
    with refused(UNAUTHORISED):
        here.registry.apply(guarded.add_master(guarded.second(), 4))
    here.registry.apply(guarded.add_master(guarded.second(), 4, touched_by=[second, third]))


def test_what_does_not_count_towards_a_threshold(here: Opened, guarded: Person, second: Person) -> None:
    limited, agent = guarded.second(), DeviceKey.generate()
    here.registry.apply(guarded.add_agent(agent, 4))
    here.registry.apply(guarded.add_master(limited, 5, roles=1, touched_by=[guarded, second]))
    change = guarded.set_threshold(6, 1)
    digest = change.digest(DOMAIN)
    bad = (
        guarded.touched(change, guarded, limited),  # no RECOVERY
        guarded.approved(change, k11=[guarded.touch(digest), guarded.touch(digest)]),  # the same device twice
        guarded.approved(change, k11=[guarded.touch(digest), second.touch(sha256(digest))]),  # another digest
        guarded.approved(change, k11=[guarded.touch(digest), guarded.touch(digest, device=second.device)]),
        limited.touched(change, guarded, second),  # K10 of a master without RECOVERY
        guarded.touched(change, guarded, second, k10=agent),
        guarded.touched(change, guarded, second, Person()),
    )
    for signed in bad:
        with refused(UNAUTHORISED):
            here.registry.apply(signed)
    here.registry.apply(guarded.touched(change, guarded, second))


def test_two_masters_with_one_k11_key_count_once(here: Opened, guarded: Person, second: Person) -> None:
    """No change brings this about; a registry that was written by something else might."""
    public = guarded.k11.public
    here.committer.run(
        lambda tx: tx.conn.execute(
            "UPDATE registry_devices SET k11_x = ?, k11_y = ? WHERE device_key_hash = ?",
            (public.x, public.y, second.device),
        )
    )
    here.registry._cache.clear()
    second.k11.private = guarded.k11.private
    with refused(UNAUTHORISED):
        here.registry.apply(guarded.touched(guarded.set_threshold(4, 1), guarded, second))


def test_a_newcomer_that_claims_to_be_a_master_does_not_count_as_one(
    here: Opened, guarded: Person, second: Person
) -> None:
    """Somebody has two masters' K10 and one K11, and brings a K11 of their own for the other."""
    forged = replace(second, k11=SoftwareK11(b"forged"))
    with refused(UNAUTHORISED):
        here.registry.apply(guarded.add_master(forged, 4))


# --- SetRoles


def test_sets_roles_of_a_master(here: Opened, first: Person, second: Person) -> None:
    row = here.registry.apply(first.touched(first.set_roles(2, second.device, 1), first))
    assert kind_of(row) == OpKind.ROLES_OR_THRESHOLD
    assert here.state(first).devices[second.device].roles == Role.CAP_MINT
    with refused(UNAUTHORISED):
        here.registry.apply(second.touched(second.set_roles(3, second.device, 7), second))


def test_one_master_with_every_role_remains(here: Opened, first: Person, second: Person) -> None:
    here.registry.apply(first.touched(first.set_roles(2, second.device, 3), first))
    with refused(UNAUTHORISED):
        here.registry.apply(second.touched(second.set_roles(3, first.device, 3), second))
    with refused(UNAUTHORISED):
        here.registry.apply(second.touched(second.revoke(3, first.device), second))
    assert here.state(first).devices[first.device].roles == ALL_ROLES


def test_no_role_goes_that_the_threshold_needs(here: Opened, guarded: Person, second: Person, third: Person) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(guarded.touched(guarded.set_roles(4, third.device, 1), guarded, second))


def test_refuses_roles_of_what_is_no_master_or_gone(here: Opened, first: Person, second: Person) -> None:
    agent = DeviceKey.generate()
    here.registry.apply(first.add_agent(agent, 2))
    here.registry.apply(first.touched(first.revoke(3, second.device), first))
    for device, reason in (
        (agent.key_hash, UNAUTHORISED),
        (bytes(32), "device_unknown"),
        (second.device, "device_revoked"),
    ):
        with refused(reason):
            here.registry.apply(first.touched(first.set_roles(4, device, 7), first))


@pytest.mark.parametrize("what", ["roles", "threshold"])
def test_neither_roles_nor_threshold_change_while_frozen(
    here: Opened, first: Person, second: Person, what: str
) -> None:
    here.registry.apply(first.freeze())
    change = first.set_roles(2, second.device, 1) if what == "roles" else first.set_threshold(2, 1)
    with refused("operator_frozen"):
        here.registry.apply(first.touched(change, first))


# --- RevokeDevice of a master


def test_another_master_revokes_a_master(here: Opened, first: Person, second: Person) -> None:
    row = here.registry.apply(second.touched(second.revoke(2, first.device), second))
    assert kind_of(row) == OpKind.DEVICE_REVOKE
    assert here.state(first).devices[first.device].revoked
    with refused(UNAUTHORISED):
        here.registry.apply(first.freeze())


def test_a_master_does_not_approve_its_own_end(here: Opened, first: Person, second: Person) -> None:
    change = first.revoke(2, first.device)
    digest = change.digest(DOMAIN)
    for signed in (
        first.touched(change, first),
        first.touched(change, second),
        second.touched(change, first),
        second.approved(change, k11=[second.touch(digest, device=first.device)]),
    ):
        with refused(UNAUTHORISED):
            here.registry.apply(signed)


def test_the_last_master_cannot_be_revoked(here: Opened, first: Person) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(first.approved(first.revoke(1, first.device)))
    assert not here.state(first).devices[first.device].revoked


def test_the_targets_own_k11_does_not_count(here: Opened, guarded: Person, second: Person, third: Person) -> None:
    change = guarded.revoke(4, third.device)
    with refused(UNAUTHORISED):
        here.registry.apply(guarded.touched(change, guarded, third))
    here.registry.apply(guarded.touched(change, guarded, second))


def test_the_threshold_falls_with_the_masters_that_carried_it(
    here: Opened, guarded: Person, second: Person, third: Person
) -> None:
    here.registry.apply(guarded.touched(guarded.revoke(4, third.device), guarded, second))
    assert here.state(guarded).threshold == 1
    with refused("device_revoked"):
        here.registry.apply(guarded.touched(guarded.revoke(5, third.device), guarded))


def test_a_master_is_revoked_while_frozen(here: Opened, first: Person, second: Person) -> None:
    here.registry.apply(first.freeze())
    here.registry.apply(first.touched(first.revoke(2, second.device), first))
    state = here.state(first)
    assert state.frozen
    assert state.devices[second.device].revoked


def test_revoking_a_master_takes_recovery_and_an_agent_scope_management(
    here: Opened, first: Person, second: Person
) -> None:
    here.registry.apply(first.touched(first.set_roles(2, second.device, int(Role.SCOPE_MGMT)), first))
    agent, third = DeviceKey.generate(), first.second()
    here.registry.apply(first.add_agent(agent, 3))
    here.registry.apply(first.add_master(third, 4))
    with refused(UNAUTHORISED):
        here.registry.apply(second.touched(second.revoke(5, third.device), second))
    here.registry.apply(second.approved(second.revoke(5, agent.key_hash)))
