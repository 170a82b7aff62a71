"""What a master may change once it is enrolled, and what it may not."""

import logging

import pytest

from agentkeys_core.audit import OpKind
from agentkeys_core.changes import AddAgent
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import Role, Tier
from agentkeys_core.signed_change import SignedPair
from tests.fakes.registry_kit import DOMAIN, NOW, UNAUTHORISED, Opened, Person, kind_of, with_signatures
from tests.unit.core.refusal import refused

# --- AddAgent


def test_adds_an_agent_with_its_scope(here: Opened, person: Person) -> None:
    agent = DeviceKey.generate()
    row = here.registry.apply(person.add_agent(agent, 1, services=("cred:openrouter", "memory:notes")))
    state = here.state(person)
    device = state.devices[agent.key_hash]
    assert (device.tier, device.roles, device.label, device.generation) == (Tier.AGENT, Role.CAP_MINT, "agent", 0)
    assert device.actor_omni == person.actor()
    assert device.k11 is None
    assert state.scopes == {person.actor(): {"cred:openrouter", "memory:notes"}}
    assert state.nonce == 2
    assert kind_of(row) == OpKind.DEVICE_ADD


def test_another_device_of_the_same_agent_adds_to_its_scope(here: Opened, person: Person, agent: DeviceKey) -> None:
    again = DeviceKey.generate()
    here.registry.apply(person.add_agent(again, 2, services=("memory:notes",)))
    state = here.state(person)
    assert state.devices[again.key_hash].actor_omni == state.devices[agent.key_hash].actor_omni
    assert state.scopes[person.actor()] == {"cred:openrouter", "memory:notes"}


def bad_pairs(person: Person, agent: DeviceKey) -> dict[str, SignedPair]:
    other = Person()
    return {
        "another signer": person.pair(agent, signer=other.k10),
        "another operator": person.pair(agent, operator_omni=other.operator),
        "another device": person.pair(agent, device=other.k10.address),
        "a K11": person.pair(agent, k11_cred_id=bytes(31) + b"\1"),
        "expired": person.pair(agent, expires_at=NOW),
        "for ever": person.pair(agent, expires_at=NOW + 8 * 24 * 3600),
    }


@pytest.mark.parametrize(
    "case", ["another signer", "another operator", "another device", "a K11", "expired", "for ever"]
)
def test_refuses_an_agent_whose_pair_does_not_fit(here: Opened, person: Person, case: str) -> None:
    agent = DeviceKey.generate()
    with refused(UNAUTHORISED):
        here.registry.apply(person.add_agent(agent, 1, pair=bad_pairs(person, agent)[case]))
    assert here.registry.lookup_device(agent.key_hash) is None


def test_refuses_an_agent_without_a_pair(here: Opened, person: Person) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(with_signatures(person.add_agent(DeviceKey.generate(), 1), pair=None))


def test_never_registers_a_key_hash_again(here: Opened, person: Person, agent: DeviceKey) -> None:
    with refused("already_bound"):
        here.registry.apply(person.add_agent(agent, 2, generation=1))
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    with refused("already_bound"):
        here.registry.apply(person.add_agent(agent, 3))


def test_another_operator_cannot_take_a_device(here: Opened, agent: DeviceKey) -> None:
    other = Person()
    here.registry.apply(other.enrol())
    with refused("already_bound"):
        here.registry.apply(other.add_agent(agent, 1))


def test_an_actor_belongs_to_one_operator_for_ever(here: Opened, person: Person) -> None:
    """Actor omnis are hashes of their operator; this holds even if two were ever the same."""
    other = Person()
    here.registry.apply(other.enrol())
    here.committer.run(
        lambda tx: tx.conn.execute("INSERT INTO registry_actors VALUES (?, ?, 1)", (person.actor(), other.operator))
    )
    with refused("already_bound"):
        here.registry.apply(person.add_agent(DeviceKey.generate(), 1))


@pytest.mark.parametrize("service", ["cred:list", "memory:list", "audit:own", "audit:tree"])
def test_refuses_to_grant_what_no_grant_opens(here: Opened, person: Person, service: str) -> None:
    with refused("invalid_change"):
        here.registry.apply(person.add_agent(DeviceKey.generate(), 1, services=(service,)))


def test_refuses_too_many_services(here: Opened, person: Person) -> None:
    services = [f"cred:s{number}" for number in range(257)]
    with refused("invalid_change"):
        here.registry.apply(person.add_agent(DeviceKey.generate(), 1, services=services))


# --- SetScope


def test_sets_a_scope_and_names_what_it_did(here: Opened, person: Person, agent: DeviceKey) -> None:
    granted = here.registry.apply(person.approved(person.set_scope(2, grant=("cred:a",), revoke=("cred:openrouter",))))
    assert here.state(person).scopes == {person.actor(): {"cred:a"}}
    revoked = here.registry.apply(person.approved(person.set_scope(3, revoke=("cred:a",))))
    assert here.state(person).scopes == {}
    assert (kind_of(granted), kind_of(revoked)) == (OpKind.SCOPE_GRANT, OpKind.SCOPE_REVOKE)


def test_refuses_a_scope_change_that_changes_nothing(here: Opened, person: Person, agent: DeviceKey) -> None:
    with refused("invalid_change"):
        here.registry.apply(person.approved(person.set_scope(2)))


def test_refuses_the_scope_of_an_actor_that_is_no_agent_of_this_operator(
    here: Opened, person: Person, agent: DeviceKey
) -> None:
    other = Person()
    here.registry.apply(other.enrol())
    here.registry.apply(other.add_agent(DeviceKey.generate(), 1))
    for actor in (other.actor(), person.operator, bytes(32)):
        with refused(UNAUTHORISED):
            here.registry.apply(person.approved(person.set_scope(2, grant=("cred:a",), actor=actor)))


# --- RevokeDevice


def test_revokes_an_agent(here: Opened, person: Person, agent: DeviceKey) -> None:
    row = here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    assert here.state(person).devices[agent.key_hash].revoked
    assert kind_of(row) == OpKind.DEVICE_REVOKE


def test_refuses_to_revoke_what_is_not_there_or_gone(here: Opened, person: Person, agent: DeviceKey) -> None:
    other = Person()
    here.registry.apply(other.enrol())
    for foreign in (other.device, bytes(32)):
        with refused("device_unknown"):
            here.registry.apply(person.approved(person.revoke(2, foreign)))
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    with refused("device_revoked"):
        here.registry.apply(person.approved(person.revoke(3, agent.key_hash)))


# --- Freeze, Unfreeze


def test_freezes_by_k10_alone_and_repeating_it_changes_nothing(here: Opened, person: Person, agent: DeviceKey) -> None:
    row = here.registry.apply(person.freeze())
    state = here.state(person)
    assert (state.frozen, state.nonce, state.freeze_nonce) == (True, 2, 0)
    assert here.registry.apply(person.freeze()) == row
    assert here.state(person) == state
    assert kind_of(row) == OpKind.FREEZE


def test_refuses_a_freeze_of_another_moment_or_by_nobody(here: Opened, person: Person, agent: DeviceKey) -> None:
    digest = person.freeze().digest(DOMAIN)
    other = Person()
    here.registry.apply(other.enrol())
    for freeze in (
        person.freeze(freeze_nonce=1),
        person.freeze(incarnation=2),
        person.freeze(k10=agent),
        person.freeze(k10=other.k10),
        person.freeze(k11=[other.touch(digest)]),
        person.freeze(k11=[person.touch(sha256(digest))]),
    ):
        with refused(UNAUTHORISED):
            here.registry.apply(freeze)
    assert not here.state(person).frozen


def test_a_frozen_operator_can_take_away_and_unfreeze_only(here: Opened, person: Person, agent: DeviceKey) -> None:
    here.registry.apply(person.freeze())
    with refused("operator_frozen"):
        here.registry.apply(person.add_agent(DeviceKey.generate(), 2, generation=1))
    with refused("operator_frozen"):
        here.registry.apply(person.approved(person.set_scope(2, grant=("cred:a",))))
    here.registry.apply(person.approved(person.set_scope(2, revoke=("cred:openrouter",))))
    here.registry.apply(person.approved(person.revoke(3, agent.key_hash)))
    row = here.registry.apply(person.approved(person.unfreeze(4)))
    state = here.state(person)
    assert (state.frozen, state.nonce, state.freeze_nonce) == (False, 5, 1)
    assert kind_of(row) == OpKind.UNFREEZE


def test_unfreezing_needs_k11(here: Opened, person: Person) -> None:
    here.registry.apply(person.freeze())
    with refused(UNAUTHORISED):
        here.registry.apply(person.approved(person.unfreeze(1), k11=()))
    assert here.state(person).frozen


def test_refuses_to_unfreeze_what_is_not_frozen(here: Opened, person: Person) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(person.approved(person.unfreeze(1)))


def test_an_old_freeze_does_not_freeze_again(here: Opened, person: Person) -> None:
    old = person.freeze()
    row = here.registry.apply(old)
    here.registry.apply(person.approved(person.unfreeze(1)))
    assert here.registry.apply(old) == row
    assert not here.state(person).frozen
    here.registry.apply(person.freeze(freeze_nonce=1))
    assert here.state(person).frozen


# --- the rest


def test_a_k11_counter_that_falls_warns_and_refuses_nothing(
    here: Opened, person: Person, agent: DeviceKey, caplog: pytest.LogCaptureFixture
) -> None:
    for nonce, counter in ((2, 9), (3, 4)):
        change = person.set_scope(nonce, grant=(f"cred:n{nonce}",))
        with caplog.at_level(logging.WARNING):
            here.registry.apply(person.approved(change, k11=[person.touch(change.digest(DOMAIN), count=counter)]))
        assert here.state(person).devices[person.device].sign_count == 9
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert person.device.hex() in caplog.text


def test_two_changes_with_one_nonce_do_not_both_apply(here: Opened, person: Person, agent: DeviceKey) -> None:
    here.registry.apply(person.approved(person.set_scope(2, grant=("cred:a",))))
    with refused(UNAUTHORISED):
        here.registry.apply(person.approved(person.set_scope(2, grant=("cred:b",))))
    assert isinstance(person.add_agent(agent, 3).change, AddAgent)
