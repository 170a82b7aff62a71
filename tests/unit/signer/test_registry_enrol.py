"""The first bind: K10 and K11 of the new device, and the user's own wallet, over one digest."""

from pathlib import Path

import pytest

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind
from agentkeys_core.hashes import sha256
from agentkeys_core.k11 import SOFTWARE_ORIGIN, origin_hash
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import ALL_ROLES, Tier
from agentkeys_core.signed_change import SignedChange
from tests.fakes.registry_kit import DOMAIN, NOW, Opened, Person, opened, with_signatures
from tests.unit.core.material import SoftwareK11
from tests.unit.core.refusal import refused


def test_enrols_a_first_master_with_every_role(here: Opened) -> None:
    person = Person()
    row = AuditRow.parse(here.registry.apply(person.enrol()))
    state = here.state(person)
    device = state.devices[person.device]
    assert (state.nonce, state.freeze_nonce, state.frozen, state.threshold) == (1, 0, False, 1)
    assert (state.wallet, state.wallet_epoch) == (person.wallet.address, 0)
    assert (device.tier, device.roles, device.revoked, device.registered_at) == (Tier.MASTER, ALL_ROLES, False, NOW)
    assert device.actor_omni == person.operator
    assert device.k11 == person.k11.public
    assert here.registry.lookup_device(person.device) == state
    envelope = AuditEnvelope.parse(row.envelope)
    assert (row.actor, envelope.operator_omni, envelope.op_kind) == (
        person.operator,
        person.operator,
        OpKind.DEVICE_ADD,
    )
    assert envelope.op_body == OpBody(change=person.enrol().digest(DOMAIN))
    row.verify({here.keyring.audit_kid(1): here.keyring.public_key("audit", 1)})


def test_returns_the_same_row_for_the_same_change_for_ever(here: Opened) -> None:
    person = Person()
    first = here.registry.apply(person.enrol())
    here.registry.apply(person.add_agent(DeviceKey.generate(), 1))
    here.clock.at += 100_000
    assert here.registry.apply(person.enrol()) == first
    assert here.state(person).nonce == 2


def bent_enrol(case: str) -> tuple[Person, SignedChange]:  # noqa: PLR0911
    person, other = Person(), Person()
    enrol = person.enrol()
    digest = enrol.change.digest(DOMAIN)
    match case:
        case "wrong nonce":
            return person, person.enrol(nonce=1)
        case "wrong incarnation":
            return person, person.enrol(incarnation=2)
        case "deadline past":
            return person, person.enrol(deadline=NOW - 1)
        case "deadline too far":
            return person, person.enrol(deadline=NOW + 3601)
        case "fewer roles":
            return person, person.enrol(roles=5)
        case "origin":
            return person, person.enrol(k11_origin_hash=origin_hash("https://broker.example"))
        case "wallet of another":
            return person, person.enrol(wallet=other.wallet)
        case "no wallet signature":
            return person, with_signatures(enrol, wallet=None)
        case "high s or garbage wallet signature":
            return person, with_signatures(enrol, wallet=b"\xff" * 65)
        case "K10 of another":
            return person, with_signatures(enrol, k10=other.k10.sign_recoverable(digest))
        case "K10 over another registry":
            domain = type(DOMAIN).embedded("cd" * 32)
            return person, with_signatures(enrol, k10=person.k10.sign_recoverable(enrol.change.digest(domain)))
        case "no K11":
            return person, with_signatures(enrol, k11=())
        case "K11 of another key":
            return person, with_signatures(enrol, k11=(other.touch(digest, device=person.device),))
        case "K11 of another challenge":
            return person, with_signatures(enrol, k11=(person.touch(sha256(digest)),))
        case "K11 without user verification":
            return person, with_signatures(enrol, k11=(person.touch(digest, flags=1),))
        case "K11 under another device":
            return person, with_signatures(enrol, k11=(person.touch(digest, device=other.device),))
        case "K11 twice":
            return person, with_signatures(enrol, k11=(person.touch(digest), person.touch(digest)))
    raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    [
        "wrong nonce",
        "wrong incarnation",
        "deadline past",
        "deadline too far",
        "fewer roles",
        "origin",
        "wallet of another",
        "no wallet signature",
        "high s or garbage wallet signature",
        "K10 of another",
        "K10 over another registry",
        "no K11",
        "K11 of another key",
        "K11 of another challenge",
        "K11 without user verification",
        "K11 under another device",
        "K11 twice",
    ],
)
def test_refuses_a_first_bind_that_is_not_fully_signed(here: Opened, case: str) -> None:
    person, enrol = bent_enrol(case)
    with refused("change_not_authorised"):
        here.registry.apply(enrol)
    assert here.registry.operator(person.operator) is None
    assert here.registry.head().sequence == 0


def test_deadline_bounds_are_inclusive(here: Opened) -> None:
    here.registry.apply(Person().enrol(deadline=NOW))
    here.registry.apply(Person().enrol(deadline=NOW + 3600))


def test_refuses_an_identity_that_is_no_wallet(here: Opened) -> None:
    with refused("invalid_evidence"):
        here.registry.apply(Person().enrol(identity_omni=bytes(32), wallet_epoch=1))


def test_refuses_signatures_that_the_change_does_not_take(here: Opened) -> None:
    person = Person()
    enrol = person.enrol()
    agent = DeviceKey.generate()
    for unwanted in ({"pair": person.pair(agent)}, {"new_device": enrol.signatures.k10}):
        with refused("invalid_change"):
            here.registry.apply(with_signatures(enrol, **unwanted))


def test_refuses_too_many_assertions(here: Opened) -> None:
    person = Person()
    enrol = person.enrol()
    with refused("invalid_change"):
        here.registry.apply(with_signatures(enrol, k11=enrol.signatures.k11 * 17))


def test_binds_identity_operator_and_device_once(here: Opened) -> None:
    person = Person()
    here.registry.apply(person.enrol())
    with refused("already_bound"):  # the same wallet with a new device
        here.registry.apply(Person(wallet=person.wallet).enrol())
    with refused("already_bound"):  # the same device with a new wallet
        here.registry.apply(Person(k10=person.k10).enrol())


def test_an_agents_key_never_becomes_a_master_even_when_revoked(here: Opened) -> None:
    person, agent = Person(), DeviceKey.generate()
    here.registry.apply(person.enrol())
    here.registry.apply(person.add_agent(agent, 1))
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    with refused("already_bound"):
        here.registry.apply(Person(k10=agent).enrol())


def software_person() -> Person:
    return Person(k11=SoftwareK11(b"software", SOFTWARE_ORIGIN))


def test_refuses_a_software_authenticator_unless_the_host_allows_it(tmp_path: Path) -> None:
    person = software_person()
    with opened(tmp_path) as strict, refused("change_not_authorised"):
        strict.registry.apply(person.enrol())
    with opened(tmp_path, software=True) as lenient:
        lenient.registry.apply(person.enrol())
        assert here_k11(lenient, person) is not None
        assert lenient.registry.k11_by_credential(person.k11.public.credential_id_hash) is not None


def here_k11(signer: Opened, person: Person) -> object:
    return signer.state(person).devices[person.device].k11


def test_a_software_key_counts_for_nothing_once_the_switch_is_gone(tmp_path: Path) -> None:
    person, agent = software_person(), DeviceKey.generate()
    with opened(tmp_path, software=True) as lenient:
        lenient.registry.apply(person.enrol())
    with opened(tmp_path) as strict:
        assert here_k11(strict, person) is None
        assert strict.registry.k11_by_credential(person.k11.public.credential_id_hash) is None
        with refused("change_not_authorised"):
            strict.registry.apply(person.add_agent(agent, 1))
