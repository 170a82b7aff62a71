"""POST /v1/enrolments/attest relays what proves itself, to the signer that judges it, and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import Reason
from agentkeys_core.keys import recover_address
from agentkeys_runtime.web.app import create_app
from broker.web.enrolment_routes import enrolment_endpoints
from tests.fakes.app_client import AppClient
from tests.fakes.evidence_kit import Issuer, Member, attesting, email_member, passkey_member, policy
from tests.fakes.registry_kit import DOMAIN, Opened, opened

PATH = "/v1/enrolments/attest"


class RealSigner:
    """The signer's own use case, without the port between."""

    def __init__(self, here: Opened, issuer: Issuer) -> None:
        self._desk = attesting(here, policy(issuer))
        self.asked = 0

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        self.asked += 1
        return self._desk.attest(change, evidence, caller="bb" * 32)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Opened]:
    with opened(tmp_path) as signer:
        yield signer


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "issuer.json")


@pytest.fixture
def signer(here: Opened, issuer: Issuer) -> RealSigner:
    return RealSigner(here, issuer)


@pytest.fixture
def broker(signer: RealSigner) -> Iterator[AppClient]:
    client = AppClient(create_app("test", enrolment_endpoints(signer)))
    yield client
    client.close()


def body(enrol: Any, proof: bytes, **changed: Any) -> dict[str, Any]:
    change = {"message": enrol.to_message(), "type": enrol.type}
    return {"change": change, "evidence": json.loads(proof), **changed}


def test_relays_an_id_token(here: Opened, issuer: Issuer, broker: AppClient) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    answer = broker.post(PATH, json=body(enrol, alice.oidc(issuer, enrol)))
    assert answer.status_code == 200
    signature = b64u_decode(answer.json()["signature"], length=65)
    assert recover_address(enrol.digest(DOMAIN), signature) == alice.address
    here.registry.apply(alice.bound(enrol, signature))


def test_relays_a_passkeys_assertion(here: Opened, broker: AppClient) -> None:
    alice = passkey_member(here)
    enrol = alice.bind()
    assert broker.post(PATH, json=body(enrol, alice.by_passkey(enrol))).status_code == 200


def test_attests_no_address_because_somebody_claims_it(here: Opened, signer: RealSigner, broker: AppClient) -> None:
    alice = email_member(here)
    answer = broker.post(PATH, json=body(alice.bind(), alice.by_email()))
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_evidence")
    assert signer.asked == 0


def test_passes_the_signers_refusal_on(here: Opened, issuer: Issuer, broker: AppClient) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    answer = broker.post(PATH, json=body(enrol, alice.oidc(issuer, enrol, sub="bob")))
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_evidence")


@pytest.mark.parametrize(
    ("bent", "reason"),
    [
        ({"evidence": None}, Reason.INVALID_EVIDENCE),
        ({"evidence": {"type": "telepathy"}}, Reason.INVALID_EVIDENCE),
        ({"evidence": {"type": ["oidc"]}}, Reason.INVALID_EVIDENCE),
        ({"change": None}, Reason.INVALID_CHANGE),
        ({"change": {"type": "Enrol", "message": {}}}, Reason.INVALID_CHANGE),
        ({"extra": 1}, Reason.UNKNOWN_FIELDS),
    ],
    ids=str,
)
def test_what_is_malformed_does_not_travel_on(
    here: Opened, issuer: Issuer, signer: RealSigner, broker: AppClient, bent: dict[str, Any], reason: Reason
) -> None:
    alice = Member().settle_in(here)
    enrol = alice.bind()
    answer = broker.post(PATH, json=body(enrol, alice.oidc(issuer, enrol), **bent))
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
    assert signer.asked == 0
