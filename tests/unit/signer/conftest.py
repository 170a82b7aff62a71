"""A registry with its first people, for every test of what may change in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkeys_core.keys import DeviceKey
from tests.fakes.registry_kit import Opened, Person, opened


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Opened]:
    """A signer whose registry is empty."""
    with opened(tmp_path) as signer:
        yield signer


@pytest.fixture
def first(here: Opened) -> Person:
    """A user with one master; the next nonce is 1."""
    person = Person()
    here.registry.apply(person.enrol())
    return person


@pytest.fixture
def person(first: Person) -> Person:
    """The same, where nobody else comes; the next nonce is 1."""
    return first


@pytest.fixture
def agent(here: Opened, person: Person) -> DeviceKey:
    """An agent with `cred:openrouter`; the next nonce is 2."""
    agent = DeviceKey.generate()
    here.registry.apply(person.add_agent(agent, 1))
    return agent


@pytest.fixture
def second(here: Opened, first: Person) -> Person:
    """Their second master; the next nonce is 2."""
    other = first.second()
    here.registry.apply(first.add_master(other, 1))
    return other
