"""Whose signatures a change needs: K10 and K11 of one master, for this registry, this operator and this moment."""

import pytest

from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import Role
from agentkeys_core.signed_change import SignedChange
from tests.fakes.registry_kit import DOMAIN, NOW, UNAUTHORISED, Opened, Person, with_signatures
from tests.unit.core.refusal import refused


def second_master(here: Opened, person: Person, roles: Role) -> Person:
    """Another master of the same operator; the next nonce is 3."""
    other = person.second()
    here.registry.apply(person.add_master(other, 2, roles=int(roles)))
    return other


def wrongly_approved(case: str, person: Person, agent: DeviceKey, other: Person) -> SignedChange:  # noqa: PLR0911
    change = person.set_scope(2, grant=("cred:a",))
    digest = change.digest(DOMAIN)
    match case:
        case "nonce used":
            return person.approved(person.set_scope(1, grant=("cred:a",)))
        case "nonce ahead":
            return person.approved(person.set_scope(3, grant=("cred:a",)))
        case "incarnation":
            return person.approved(person.set_scope(2, grant=("cred:a",), incarnation=2))
        case "deadline past":
            return person.approved(person.set_scope(2, grant=("cred:a",), deadline=NOW - 1))
        case "deadline too far":
            return person.approved(person.set_scope(2, grant=("cred:a",), deadline=NOW + 3601))
        case "K10 of an agent":
            return person.approved(change, k10=agent)
        case "K10 of nobody":
            return person.approved(change, k10=DeviceKey.generate())
        case "K10 of another operator's master":
            return person.approved(change, k10=other.k10)
        case "K10 invalid":
            return with_signatures(person.approved(change), k10=b"\xff" * 65)
        case "no K11":
            return person.approved(change, k11=())
        case "K11 of another operator's master":
            return person.approved(change, k11=[other.touch(digest)])
        case "K11 of an agent":
            return person.approved(change, k11=[person.touch(digest, device=agent.key_hash)])
        case "K11 over another digest":
            return person.approved(change, k11=[person.touch(sha256(digest))])
        case "K11 without a person":
            return person.approved(change, k11=[person.touch(digest, flags=0)])
        case "K11 of an unknown device":
            return person.approved(change, k11=[person.touch(digest, device=bytes(32))])
        case "a second K11 that is not valid":
            return person.approved(change, k11=[person.touch(digest), other.touch(digest)])
        case "one K11 twice":
            return person.approved(change, k11=[person.touch(digest), person.touch(digest)])
        case "another registry":
            return person.approved(change, domain=type(DOMAIN).embedded("cd" * 32))
    raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    [
        "nonce used",
        "nonce ahead",
        "incarnation",
        "deadline past",
        "deadline too far",
        "K10 of an agent",
        "K10 of nobody",
        "K10 of another operator's master",
        "K10 invalid",
        "no K11",
        "K11 of another operator's master",
        "K11 of an agent",
        "K11 over another digest",
        "K11 without a person",
        "K11 of an unknown device",
        "a second K11 that is not valid",
        "one K11 twice",
        "another registry",
    ],
)
def test_refuses_a_change_that_no_master_approved(here: Opened, person: Person, agent: DeviceKey, case: str) -> None:
    other = Person()
    here.registry.apply(other.enrol())
    before = here.state(person)
    head = here.registry.head()
    with refused(UNAUTHORISED):
        here.registry.apply(wrongly_approved(case, person, agent, other))
    assert here.state(person) == before
    assert here.registry.head() == head


def test_refuses_changes_of_an_operator_that_is_not_registered(here: Opened) -> None:
    stranger = Person()
    for change in (stranger.approved(stranger.revoke(0, stranger.device), k11=()), stranger.freeze()):
        with refused(UNAUTHORISED):
            here.registry.apply(change)


def test_a_master_without_scope_management_may_freeze_but_not_grant(
    here: Opened, person: Person, agent: DeviceKey
) -> None:
    limited = second_master(here, person, Role.CAP_MINT | Role.RECOVERY)
    change = person.set_scope(3, grant=("cred:a",))
    with refused(UNAUTHORISED):
        here.registry.apply(limited.approved(change))
    here.registry.apply(limited.freeze())
    assert here.state(person).frozen


def test_k11_of_the_very_master_whose_k10_signed_is_needed(here: Opened, person: Person, agent: DeviceKey) -> None:
    second = second_master(here, person, Role.CAP_MINT | Role.SCOPE_MGMT)
    change = person.set_scope(3, grant=("cred:a",))
    digest = change.digest(DOMAIN)
    with refused(UNAUTHORISED):
        here.registry.apply(person.approved(change, k11=[second.touch(digest)]))
    here.registry.apply(person.approved(change, k11=[second.touch(digest), person.touch(digest)]))


def test_a_revoked_master_approves_nothing(here: Opened, person: Person, agent: DeviceKey) -> None:
    second = second_master(here, person, Role.CAP_MINT | Role.RECOVERY | Role.SCOPE_MGMT)
    here.registry.apply(person.approved(person.revoke(3, second.device)))
    change = person.set_scope(4, grant=("cred:a",))
    digest = change.digest(DOMAIN)
    for signed in (
        second.approved(change),
        person.approved(change, k11=[person.touch(digest), second.touch(digest)]),
        second.freeze(),
    ):
        with refused(UNAUTHORISED):
            here.registry.apply(signed)
    assert here.registry.k11_by_credential(second.k11.public.credential_id_hash) is None
