"""Teardown: the keys of an owner's classes are refused for ever, by signer, broker and workers alike."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from agentkeys_core.audit import OpKind
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import ObjectClass, Op
from agentkeys_runtime.registry_wire import operator_from_message, operator_to_message
from tests.fakes.registry_kit import UNAUTHORISED, Opened, Person, kind_of
from tests.fakes.services_kit import Services, services_in
from tests.unit.core.refusal import refused
from tests.unit.signer.world import World, world_in


@pytest.fixture
def person(here: Opened) -> Person:
    """A user with an agent; the next nonce is 2."""
    person = Person()
    here.registry.apply(person.enrol())
    here.registry.apply(person.add_agent(DeviceKey.generate(), 1))
    return person


def test_tears_down_classes_and_never_gives_them_back(here: Opened, person: Person) -> None:
    row = here.registry.apply(person.approved(person.teardown(2, 1)))
    assert kind_of(row) == OpKind.CRED_TEARDOWN
    row = here.registry.apply(person.approved(person.teardown(3, 2)))
    assert kind_of(row) == OpKind.MEMORY_TEARDOWN
    agent = person.actor()
    here.registry.apply(person.approved(person.teardown(4, 2, actor=agent)))
    state = here.state(person)
    assert state.torn_down == {person.operator: 3, agent: 2}
    assert state.is_torn_down(person.operator, ObjectClass.CREDENTIALS)
    assert not state.is_torn_down(agent, ObjectClass.CREDENTIALS)


def test_needs_k10_and_k11_of_a_master(here: Opened, person: Person) -> None:
    stranger, change = Person(), person.teardown(2, 1)
    here.registry.apply(stranger.enrol())
    for signed in (
        person.approved(change, k11=()),
        stranger.approved(change),
        person.approved(change, k10=stranger.k10),
    ):
        with refused(UNAUTHORISED):
            here.registry.apply(signed)


def test_refuses_what_is_not_the_operators_or_owns_nothing(here: Opened, person: Person) -> None:
    other = Person()
    here.registry.apply(other.enrol())
    for actor, classes in ((other.operator, 1), (bytes(32), 2), (person.actor(), 1), (person.actor(), 3)):
        with refused(UNAUTHORISED):
            here.registry.apply(person.approved(person.teardown(2, classes, actor=actor)))


def test_is_refused_while_frozen(here: Opened, person: Person) -> None:
    here.registry.apply(person.freeze())
    with refused("operator_frozen"):
        here.registry.apply(person.approved(person.teardown(2, 1)))


def test_travels_to_broker_and_workers(here: Opened, person: Person) -> None:
    here.registry.apply(person.approved(person.teardown(2, 3)))
    state = here.state(person)
    assert operator_from_message(operator_to_message(state)) == state
    assert type(state).from_json(state.to_json()) == state


# --- where it is enforced


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as made:
        yield made


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with services_in(tmp_path) as made:
        yield made


def tear_down(world: World, owner: bytes, classes: int) -> None:
    world.registry.bend_operator(world.user.operator, torn_down=MappingProxyType({owner: classes}))


def test_the_signer_releases_no_key_of_what_was_torn_down(world: World) -> None:
    stored, _ = world.store()
    memory, _ = world.store("memory:travel", key=world.user.agent)
    tear_down(world, world.user.operator, ObjectClass.CREDENTIALS)
    for ask in (
        lambda: world.fetch(stored),
        lambda: world.fetch(stored, key=world.user.agent),
        lambda: world.store("cred:other"),
        world.names,
        lambda: world.ack(world.cap(Op.CRED_DELETE, "cred:openrouter")),
    ):
        with refused("policy_refused"):
            ask()
    world.fetch(memory, "memory:travel", key=world.user.agent)
    tear_down(world, world.user.agent_actor, ObjectClass.MEMORY)
    world.fetch(stored)
    with refused("policy_refused"):
        world.fetch(memory, "memory:travel", key=world.user.agent)


def test_broker_and_worker_refuse_it_too(services: Services) -> None:
    services.send(services.store())
    tear_down(services.world, services.world.user.operator, ObjectClass.CREDENTIALS)
    asked = services.fetch(touch=True)
    assert services.send(asked).reason == "policy_refused"
    assert services.signer.calls.count("derive") == 1
    with refused("policy_refused"):
        services.cosigner.cosign(asked.uncosigned)
