"""AttestEnrol: evidence of each kind, what it must bind, and that none of it works twice, for two, or for another."""

from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.evidence import Assurance, EmailEvidence, Evidence
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import DeviceKey, recover_address
from signer.attesting import Attesting
from signer.journal import verify_journal
from tests.fakes.evidence_kit import (
    GOOGLE,
    ISSUER,
    Issuer,
    Member,
    attesting,
    change_json,
    email_member,
    passkey_member,
    policy,
)
from tests.fakes.registry_kit import DOMAIN, NOW, Opened, Person
from tests.unit.core.material import SoftwareK11
from tests.unit.core.refusal import refused

BAD = "invalid_evidence"
CALLER = "bb" * 32


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "issuer.json")


@pytest.fixture
def desk(here: Opened, issuer: Issuer) -> Attesting:
    return attesting(here, policy(issuer))


def attest(desk: Attesting, enrol: Any, evidence: bytes) -> bytes:
    return desk.attest(change_json(enrol), evidence, caller=CALLER)


def journalled(here: Opened) -> list[bytes]:
    return [line for (line,) in here.database.reader().execute("SELECT line FROM journal") if b"AttestEnrol" in line]


# --- each kind of evidence, from the proof to the registered device


def test_an_id_token_binds_its_subject(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    signature = attest(desk, enrol, alice.oidc(issuer, enrol))
    assert recover_address(enrol.digest(DOMAIN), signature) == alice.address
    assert len(journalled(here)) == 1
    here.registry.apply(alice.bound(enrol, signature))
    device = here.state(alice).devices[alice.device]
    assert (device.evidence, device.assurance) == (Evidence.OIDC, Assurance.HIGH)
    assert verify_journal(here.database.reader(), here.keyring).rows == 1


def test_google_subjects_are_named_by_themselves(here: Opened, issuer: Issuer, tmp_path: Path) -> None:
    google = Issuer(tmp_path / "google.json", GOOGLE)
    desk = attesting(here, policy(issuer, google=google))
    alice = Member(kind=IdentityType.OAUTH2_GOOGLE, value="110169484474386276334").settle_in(here)
    enrol = alice.bind()
    attest(desk, enrol, alice.oidc(google, enrol, iss=GOOGLE))
    with refused(BAD):  # the same subject at another issuer is somebody else
        attest(desk, enrol, alice.oidc(issuer, enrol))


def test_a_passkey_binds_its_public_key(here: Opened, desk: Attesting) -> None:
    alice = passkey_member(here)
    enrol = alice.bind()
    here.registry.apply(alice.bound(enrol, attest(desk, enrol, alice.by_passkey(enrol))))
    device = here.state(alice).devices[alice.device]
    assert (device.evidence, device.assurance) == (Evidence.PASSKEY, Assurance.HIGH)


def test_an_email_bind_is_marked_low_and_so_is_whoever_it_lets_in(here: Opened, desk: Attesting) -> None:
    alice = email_member(here)
    enrol = alice.bind()
    here.registry.apply(alice.bound(enrol, attest(desk, enrol, alice.by_email())))
    second, agent, new = alice.second(), DeviceKey.generate(), DeviceKey.generate()
    here.registry.apply(alice.add_master(second, 1))
    here.registry.apply(alice.add_agent(agent, 2))
    here.registry.apply(alice.rotate(3, new))
    devices = here.state(alice).devices
    assert devices[alice.device].evidence is Evidence.EMAIL
    assert {devices[key].assurance for key in (alice.device, second.device, agent.key_hash, new.key_hash)} == {
        Assurance.LOW
    }
    assert (devices[second.device].evidence, devices[new.key_hash].evidence) == (Evidence.MASTER, Evidence.EMAIL)


def test_an_address_means_the_same_in_capitals(here: Opened, desk: Attesting) -> None:
    alice = email_member(here, "alice@example.com")
    attest(desk, alice.bind(), EmailEvidence(address="Alice@Example.COM").encode())


def test_an_own_wallet_needs_no_evidence_and_gets_no_signature(here: Opened, desk: Attesting) -> None:
    person = Person()
    with refused(BAD):
        attest(desk, person.enrol_change(), EmailEvidence(address="alice@example.com").encode())
    here.registry.apply(person.enrol())
    device = here.state(person).devices[person.device]
    assert (device.evidence, device.assurance) == (Evidence.WALLET, Assurance.HIGH)


# --- nothing binds without it


def test_the_registry_takes_no_bind_that_nobody_attested(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    alice = Member().settle_in(here)
    enrol, other = alice.bind(), alice.bind(deadline=NOW + 601)
    attest(desk, enrol, alice.oidc(issuer, enrol))
    signature = here.keyring.wallet_sign(alice.identity, 1, other.digest(DOMAIN))
    with refused(BAD):
        here.registry.apply(alice.bound(other, signature))


def test_attested_is_not_signed(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    signature = attest(desk, enrol, alice.oidc(issuer, enrol))
    mallory = DeviceKey.generate()
    for signed in (
        alice.approved(enrol),
        alice.bound(enrol, mallory.sign_recoverable(enrol.digest(DOMAIN))),
        alice.approved(enrol, k10=mallory, wallet=signature),
        alice.approved(enrol, k11=(), wallet=signature),
    ):
        with refused("change_not_authorised"):
            here.registry.apply(signed)


# --- passkeys


@pytest.mark.parametrize(
    "bent",
    [{"flags": 0x01}, {"flags": 0x04}, {"rp_id_hash": bytes(32)}, {"client_data": b"{}"}],
    ids=["not verified", "not present", "another relying party", "no client data"],
)
def test_refuses_an_assertion_that_is_not_right(here: Opened, desk: Attesting, bent: dict[str, Any]) -> None:
    alice = passkey_member(here)
    enrol = alice.bind()
    with refused(BAD):
        attest(desk, enrol, alice.by_passkey(enrol, **bent))


def test_a_passkeys_assertion_is_over_this_very_enrol(here: Opened, desk: Attesting) -> None:
    alice = passkey_member(here)
    enrol, later = alice.bind(), alice.bind(deadline=NOW + 601)
    with refused(BAD):
        attest(desk, later, alice.by_passkey(enrol))


def test_a_passkey_of_another_page_binds_nothing(here: Opened, desk: Attesting) -> None:
    alice = passkey_member(here)
    alice.passkey.origin = "https://evil.example.org"
    enrol = alice.bind()
    with refused(BAD):
        attest(desk, enrol, alice.by_passkey(enrol))


def test_another_passkey_binds_another_identity(here: Opened, desk: Attesting) -> None:
    alice = passkey_member(here)
    alice.passkey = SoftwareK11(b"passkey", origin=alice.passkey.origin)
    enrol = alice.bind()
    with refused(BAD):
        attest(desk, enrol, alice.by_passkey(enrol))


# --- evidence of the wrong type, or of a type that the host does not take


def test_evidence_of_one_kind_proves_no_identity_of_another(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    oidc, passkey, email = Member().settle_in(here), passkey_member(here), email_member(here)
    for member, other in (
        (oidc, passkey),
        (oidc, email),
        (passkey, oidc),
        (passkey, email),
        (email, oidc),
        (email, passkey),
    ):
        enrol = member.bind()
        if other is oidc:
            evidence = oidc.oidc(issuer, enrol)
        else:
            evidence = passkey.by_passkey(enrol) if other is passkey else email.by_email()
        with refused(BAD):
            attest(desk, enrol, evidence)


def test_what_the_host_did_not_configure_is_refused(here: Opened, issuer: Issuer) -> None:
    desk = attesting(here, policy(issuer, email=False, passkey=False))
    email, passkey = email_member(here), passkey_member(here)
    with refused(BAD):
        attest(desk, email.bind(), email.by_email())
    enrol = passkey.bind()
    with refused(BAD):
        attest(desk, enrol, passkey.by_passkey(enrol))


# --- the Enrol itself


@pytest.mark.parametrize(
    ("bent", "reason"),
    [
        ({"incarnation": 2}, "change_not_authorised"),
        ({"nonce": 1}, "change_not_authorised"),
        ({"deadline": NOW - 1}, "change_not_authorised"),
        ({"deadline": NOW + 3601}, "change_not_authorised"),
        ({"roles": 3}, "change_not_authorised"),
        ({"k11_origin_hash": bytes(32)}, "change_not_authorised"),
        ({"wallet_epoch": 2}, "future_epoch"),
        ({"wallet": bytes(20)}, "invalid_change"),
        ({"operator_omni": bytes(32)}, "invalid_change"),
        ({"k11_x": 1}, "invalid_change"),
    ],
    ids=str,
)
def test_attests_only_what_the_registry_would_take(
    here: Opened, desk: Attesting, bent: dict[str, Any], reason: str
) -> None:
    alice = email_member(here)
    with refused(reason):
        attest(desk, alice.bind(**bent), alice.by_email())
    assert journalled(here) == []


def test_the_wallet_must_be_that_of_the_identity(here: Opened, desk: Attesting) -> None:
    alice, bob = email_member(here), email_member(here, "bob@example.com")
    enrol = alice.bind(wallet=bob.address, operator_omni=bob.operator)
    with refused("invalid_change"):
        attest(desk, enrol, alice.by_email())


@pytest.mark.parametrize(
    "change", [b"", b"[]", b'{"message":{},"type":"Enrol"}', b'{"message":{},"type":"Freeze"}', b"\xff"]
)
def test_refuses_what_is_no_enrol(here: Opened, desk: Attesting, change: bytes) -> None:
    with refused("invalid_change"):
        desk.attest(change, email_member(here).by_email(), caller=CALLER)


def test_only_an_enrol_is_attested(here: Opened, desk: Attesting) -> None:
    person = Person()
    with refused("invalid_change"):
        desk.attest(change_json(person.set_threshold(0, 1)), email_member(here).by_email(), caller=CALLER)


# --- squatting, replay, a second bind


def test_an_identity_binds_once(here: Opened, desk: Attesting) -> None:
    alice, squatter = email_member(here), email_member(here)
    mine, theirs = alice.bind(), squatter.bind()
    early = attest(desk, theirs, squatter.by_email())  # attested before, applied after
    here.registry.apply(alice.bound(mine, attest(desk, mine, alice.by_email())))
    with refused("already_bound"):
        here.registry.apply(squatter.bound(theirs, early))
    again = squatter.bind(deadline=NOW + 601)
    with refused("already_bound"):
        attest(desk, again, squatter.by_email())


def test_a_device_that_is_registered_is_attested_for_nobody(here: Opened, desk: Attesting) -> None:
    person = Person()
    here.registry.apply(person.enrol())
    alice = email_member(here)
    with refused("already_bound"):
        attest(desk, alice.bind(device=person.k10.address), alice.by_email())


@pytest.mark.parametrize("by", ["nonce", "jti"])
def test_an_id_token_works_for_one_enrol_only(here: Opened, desk: Attesting, issuer: Issuer, by: str) -> None:
    alice = Member().settle_in(here)
    enrol, later = alice.bind(), alice.bind(deadline=NOW + 601)
    first = alice.oidc(issuer, enrol, jti="token-1")
    attest(desk, enrol, first)
    if by == "jti":  # another device, so another nonce, but the same token id
        alice = Member().settle_in(here)
        later = alice.bind()
        first = alice.oidc(issuer, later, jti="token-1")
    with refused(BAD):
        attest(desk, later, first)


def test_whoever_lost_the_answer_asks_again_with_the_same(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    evidence = alice.oidc(issuer, enrol)
    assert attest(desk, enrol, evidence) == attest(desk, enrol, evidence)
    assert len(journalled(here)) == 2


def test_used_evidence_is_remembered_for_as_long_as_it_could_be_believed(
    here: Opened, desk: Attesting, issuer: Issuer
) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    attest(desk, enrol, alice.oidc(issuer, enrol))
    here.clock.at = NOW + 601
    bob = Member(value=f"{ISSUER}|bob", now=NOW + 601).settle_in(here)
    enrol = bob.bind()
    attest(desk, enrol, bob.oidc(issuer, enrol))
    marks = here.database.reader().execute("SELECT count(*) FROM registry_evidence_used").fetchone()
    assert marks == (2,)
    here.clock.at = NOW + 1300
    carol = Member(value=f"{ISSUER}|carol", now=NOW + 1300).settle_in(here)
    enrol = carol.bind()
    attest(desk, enrol, carol.oidc(issuer, enrol))
    conn = here.database.reader()
    assert conn.execute("SELECT count(*) FROM registry_evidence_used").fetchone() == (1,)
    assert conn.execute("SELECT count(*) FROM registry_attestations").fetchone() == (1,)


def test_nothing_leaves_that_is_not_recorded(here: Opened, desk: Attesting) -> None:
    alice = email_member(here)
    here.committer.close()
    with refused("journal_unavailable"):
        attest(desk, alice.bind(), alice.by_email())
