"""Random and mutated changes get a named refusal or are applied as signed; nothing else ever comes out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.signed_change import SignedChange
from tests.fakes.registry_kit import DOMAIN, NOW, Opened, Person, opened

PERSON, AGENT = Person(), DeviceKey.generate()
ALLOWED = {
    Reason.INVALID_CHANGE,
    Reason.INVALID_EVIDENCE,
    Reason.UNKNOWN_FIELDS,
    Reason.TOO_LARGE,
    Reason.CHANGE_NOT_AUTHORISED,
    Reason.NOT_IMPLEMENTED,
    Reason.ALREADY_BOUND,
    Reason.OPERATOR_FROZEN,
    Reason.DEVICE_UNKNOWN,
    Reason.DEVICE_REVOKED,
}
SEEDS = [
    PERSON.enrol(),
    Person().enrol(),
    PERSON.add_agent(AGENT, 1),
    PERSON.add_agent(DeviceKey.generate(), 2, generation=7),
    PERSON.approved(PERSON.set_scope(2, grant=("cred:a",), revoke=("memory:b",))),
    PERSON.approved(PERSON.revoke(2, AGENT.key_hash)),
    PERSON.freeze(),
    PERSON.approved(PERSON.unfreeze(2)),
]
_SLOW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder: Path = tmp_path_factory.mktemp("registry")
    with opened(folder) as signer:
        signer.registry.apply(PERSON.enrol())
        signer.registry.apply(PERSON.add_agent(AGENT, 1))
        yield signer


def offer(here: Opened, data: bytes) -> None:
    """Offer bytes; what is refused must name an allowed reason and change nothing."""
    before = here.registry.head()
    try:
        here.registry.apply(SignedChange.parse(data))
    except KeyServiceError as exc:
        refusal = exc.reason
    else:
        return
    assert refusal in ALLOWED
    assert here.registry.head() == before


def paths(value: object, prefix: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    yield prefix
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*prefix, key))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=40).map(lambda raw: "0x" + raw.hex()),
    st.lists(st.text(max_size=4), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.sampled_from(
        ["0x" + "00" * 32, "0x" + "ff" * 32, "0x" + "00" * 20, "AA", str(2**64 - 1), "cred:x", "", NOW, 0, 1]
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid change with one to three members replaced, removed or added."""
    obj = json.loads(draw(st.sampled_from(SEEDS)).encode())
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(obj))))
        if not path:
            continue
        parent = obj
        for key in path[:-1]:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace" or isinstance(parent, list):
            parent[path[-1]] = draw(LEAVES)
        elif action == "remove":
            del parent[path[-1]]
        else:
            parent[draw(st.text(max_size=5))] = draw(LEAVES)
    return json.dumps(obj).encode()


@_SLOW
@given(data=mutated())
def test_mutated_members(here: Opened, data: bytes) -> None:
    offer(here, data)


@_SLOW
@given(seed=st.sampled_from(SEEDS), at=st.integers(0, 4000), put=st.binary(min_size=1, max_size=4))
def test_mutated_bytes(here: Opened, seed: SignedChange, at: int, put: bytes) -> None:
    data = seed.encode()
    at %= len(data)
    offer(here, data[:at] + put + data[at + len(put) :])


@_SLOW
@given(data=st.binary(max_size=300))
def test_random_bytes(here: Opened, data: bytes) -> None:
    offer(here, data)


@_SLOW
@given(data=st.data())
def test_well_signed_changes_with_any_values(here: Opened, data: st.DataObject) -> None:
    """The signatures are right whatever the values are: what comes out then is the rules' own doing."""
    number = st.one_of(
        st.sampled_from([0, 1, 2, 3, NOW, NOW + 600, NOW + 3601, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)
    )
    header: dict[str, Any] = {name: data.draw(number, name) for name in ("incarnation", "nonce", "deadline")}
    name = st.sampled_from(["cred:a", "memory:b", "siwe:example.com", "sign:p", "cred:list", "audit:tree"])
    names = st.lists(name, max_size=3, unique=True)
    actor = data.draw(st.sampled_from([PERSON.actor(), PERSON.operator, bytes(32), PERSON.actor("other", 9)]))
    kind = data.draw(st.sampled_from(["scope", "revoke", "unfreeze", "enrol", "agent", "freeze"]))
    if kind == "scope":
        grant, revoke = data.draw(names), data.draw(names)
        signed = PERSON.approved(
            PERSON.set_scope(header.pop("nonce"), tuple(grant), tuple(revoke), actor=actor, **header)
        )
    elif kind == "revoke":
        device = data.draw(st.sampled_from([AGENT.key_hash, PERSON.device, bytes(32)]))
        signed = PERSON.approved(PERSON.revoke(header.pop("nonce"), device, **header))
    elif kind == "unfreeze":
        signed = PERSON.approved(PERSON.unfreeze(header.pop("nonce"), **header))
    elif kind == "enrol":
        signed = Person().enrol(roles=data.draw(st.integers(1, 7)), **header)
    elif kind == "freeze":
        signed = PERSON.freeze(header["nonce"], incarnation=header["incarnation"])
    else:
        agent = data.draw(st.sampled_from([AGENT, PERSON.k10, DeviceKey.generate()]))
        generation = data.draw(st.integers(0, 2**53 - 1))
        pair = PERSON.pair(agent, expires_at=data.draw(number))
        services = data.draw(names)
        signed = PERSON.add_agent(
            agent, header.pop("nonce"), generation=generation, services=services, pair=pair, **header
        )
    offer(here, signed.encode())
    assert signed.digest(DOMAIN)
