"""ID tokens as evidence for a first bind: whose, for whom, how old, bound to which keys, signed by which key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.evidence import OidcEvidence
from signer.attesting import Attesting
from tests.fakes.evidence_kit import BLIND, CLIENT, ISSUER, Issuer, Member, attesting, policy
from tests.fakes.registry_kit import NOW, Opened
from tests.unit.core.refusal import refused
from tests.unit.signer.test_attesting import BAD, attest, journalled


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "issuer.json")


@pytest.fixture
def desk(here: Opened, issuer: Issuer) -> Attesting:
    return attesting(here, policy(issuer))


@pytest.mark.parametrize(
    "bent",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"iss": ISSUER + "/"},
        {"aud": "another-client"},
        {"aud": None},
        {"aud": [CLIENT, "another-client"]},
        {"aud": []},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": 7},
        {"nonce": None},
        {"nonce": "A" * 43},
        {"nonce": "é"},
        {"iat": NOW - 601},
        {"iat": NOW + 61},
        {"iat": None},
        {"iat": str(NOW)},
        {"iat": True},
        {"exp": NOW - 60},
        {"exp": None},
        {"nbf": NOW + 61},
        {"jti": 5},
    ],
    ids=str,
)
def test_refuses_a_token_that_says_something_else(
    here: Opened, desk: Attesting, issuer: Issuer, bent: dict[str, Any]
) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    with refused(BAD):
        attest(desk, enrol, alice.oidc(issuer, enrol, **bent))
    assert journalled(here) == []


@pytest.mark.parametrize(
    "bent", [{"aud": [CLIENT]}, {"iat": NOW - 600}, {"iat": NOW + 60}, {"nbf": NOW}, {"exp": NOW + 1}]
)
def test_takes_a_token_at_its_bounds(here: Opened, desk: Attesting, issuer: Issuer, bent: dict[str, Any]) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    attest(desk, enrol, alice.oidc(issuer, enrol, **bent))


def test_a_token_binds_this_k10_and_this_k11(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    alice, mallory = Member().settle_in(here), Member().settle_in(here)
    mine, theirs = alice.bind(), mallory.bind()
    token = alice.oidc(issuer, mine)
    mixed = alice.bind(k11_cred_id=theirs.k11_cred_id, k11_x=theirs.k11_x, k11_y=theirs.k11_y)
    other_device = alice.bind(device=theirs.device)
    for enrol in (theirs, mixed, other_device):
        with refused(BAD):
            attest(desk, enrol, token)


def test_another_blind_opens_no_nonce(here: Opened, desk: Attesting, issuer: Issuer) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    token = issuer.token(alice.claims(enrol))
    with refused(BAD):
        attest(desk, enrol, OidcEvidence(id_token=token, blind=bytes(32)).encode())
    attest(desk, enrol, OidcEvidence(id_token=token, blind=BLIND).encode())


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_keys_rotate_with_the_hosts_file(
    here: Opened, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    monkeypatch.setattr("agentkeys_runtime.files.Watched.get", lambda watched: (watched._look(), watched._value)[1])
    desk = attesting(here, policy(issuer))
    alice = Member().settle_in(here)
    enrol = alice.bind()
    issuer.rotate("k2", algorithm)
    with refused(BAD):
        attest(desk, enrol, alice.oidc(issuer, enrol, kid="k2"))
    old = alice.oidc(issuer, enrol)
    issuer.keys.pop("k1")
    issuer.publish()
    attest(desk, enrol, alice.oidc(issuer, enrol, kid="k2"))
    with refused(BAD):
        attest(desk, enrol, old)


def test_a_file_that_broke_leaves_the_last_keys_in_force(
    here: Opened, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkeys_runtime.files.Watched.get", lambda watched: (watched._look(), watched._value)[1])
    desk = attesting(here, policy(issuer))
    issuer.path.write_text("{")
    alice = Member().settle_in(here)
    enrol = alice.bind()
    attest(desk, enrol, alice.oidc(issuer, enrol))


def _signed_by_another(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    return alice.oidc(Issuer(tmp / "mallory.json"), enrol)


def _without_kid(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    return alice.oidc(issuer, enrol, header={"kid": ""})


def _unsigned(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    token = jwt.encode(alice.claims(enrol), "", algorithm="none", headers={"kid": "k1"})
    return OidcEvidence(id_token=token, blind=BLIND).encode()


def _symmetric(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    token = jwt.encode(alice.claims(enrol), bytes(32), algorithm="HS256", headers={"kid": "k1"})
    return OidcEvidence(id_token=token, blind=BLIND).encode()


def _cut(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    token = issuer.token(alice.claims(enrol)).rpartition(".")[0]
    return OidcEvidence(id_token=token, blind=BLIND).encode()


def _payload_exchanged(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    good = issuer.token(alice.claims(enrol)).split(".")
    other = issuer.token(alice.claims(enrol, sub="bob")).split(".")
    return OidcEvidence(id_token=f"{good[0]}.{other[1]}.{good[2]}", blind=BLIND).encode()


def _nested(alice: Member, issuer: Issuer, enrol: Any, tmp: Path) -> bytes:
    """Of a header that nests without end no parser of the library may hear: it would fail by no name."""
    good = issuer.token(alice.claims(enrol)).split(".")
    return OidcEvidence(id_token=f"{b64u_encode(b'[' * 20_000)}.{good[1]}.{good[2]}", blind=BLIND).encode()


@pytest.mark.parametrize(
    "bent", [_signed_by_another, _without_kid, _unsigned, _symmetric, _cut, _payload_exchanged, _nested]
)
def test_refuses_a_token_that_its_issuer_did_not_sign(
    here: Opened, desk: Attesting, issuer: Issuer, tmp_path: Path, bent: Callable[..., bytes]
) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    with refused(BAD):
        attest(desk, enrol, bent(alice, issuer, enrol, tmp_path))
