"""Pairing a machine through the broker: each side sees what it must, and nobody else anything."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from agentkeys_core.changes import Pair, SignedPair, pairing_hash
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.keys import DeviceKey
from agentkeys_core.pairing import NO_K11
from broker.ceremonies.pairing import BEGUN_PER_CLIENT, CLAIMS_PER_USER
from broker.ceremonies.steps import LIFETIME_S
from broker.rates import HOUR_S
from tests.fakes.services_kit import Services
from tests.unit.broker.test_store import at_once
from tests.unit.broker.visitor import Visit, reason

PROFILE_HASH = bytes(range(32))
DOMAIN = Domain.embedded("ab" * 32)


def visitor(services: Services, key: DeviceKey) -> Visit:
    return Visit(services.broker, services.world.clock, key)


@pytest.fixture
def master(services: Services) -> Visit:
    made = visitor(services, services.world.user.master)
    assert made.sign_in().status_code == 200
    return made


@pytest.fixture
def machine(services: Services) -> Visit:
    return visitor(services, DeviceKey.generate())


def begin(machine: Visit, **changed: Any) -> httpx.Response:
    body = {
        "label": "research",
        "profile_hash": b64u_encode(PROFILE_HASH),
        "services": ["cred:openrouter", "cred:openrouter", "memory:food"],
        **changed,
    }
    return machine.begin("/v1/pairings", json.dumps(body).encode())


def claim(master: Visit, code: str) -> httpx.Response:
    return master.ask("request", "POST", "/v1/pairings/claim", json.dumps({"code": code}).encode())


def seen(machine: Visit, pairing: str) -> httpx.Response:
    return machine.ask("request", "GET", f"/v1/pairings/{pairing}", b"")


def claimed(master: Visit, pairing: str) -> httpx.Response:
    return master.ask("request", "GET", f"/v1/pairings/claimed/{pairing}", b"")


def pair_of(machine: Visit, operator: bytes, **changed: Any) -> dict[str, object]:
    message = Pair(
        **{
            "operator_omni": operator,
            "device": machine.key.address,
            "k11_cred_id": NO_K11,
            "profile_hash": PROFILE_HASH,
            "expires_at": machine.now + 600,
            **changed,
        }
    )
    return SignedPair(message=message, signature=machine.key.sign_recoverable(message.digest(DOMAIN))).to_json()


def sign(machine: Visit, pairing: str, pair: Mapping[str, object]) -> httpx.Response:
    return machine.ask("request", "POST", f"/v1/pairings/{pairing}", json.dumps({"pair": pair}).encode())


def test_a_machine_is_claimed_by_its_code_and_agrees(services: Services, master: Visit, machine: Visit) -> None:
    begun = begin(machine).json()
    assert (begun["state"], begun["operator_omni"], begun["pair"]) == ("pending", None, None)
    assert begun["services"] == ["cred:openrouter", "memory:food"]
    taken = claim(master, begun["code"]).json()
    # What the master compares with the machine's own display is computed from the key that it was told.
    assert pairing_hash(
        device_public_key=b64u_decode(taken["public_key"]), profile_hash=b64u_decode(taken["profile_hash"])
    ) == pairing_hash(device_public_key=machine.key.public_key, profile_hash=PROFILE_HASH)
    operator = services.world.user.operator
    assert seen(machine, begun["id"]).json()["operator_omni"] == operator.hex()
    pair = pair_of(machine, operator)
    assert sign(machine, begun["id"], pair).json()["state"] == "confirmed"
    assert claimed(master, begun["id"]).json()["pair"] == pair


def test_a_code_is_read_as_people_write_it(services: Services, master: Visit, machine: Visit) -> None:
    code = begin(machine).json()["code"]
    assert code[4] == "-"
    written = code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert claim(master, written).status_code == 200


def test_a_code_is_good_once_and_not_for_long(services: Services, master: Visit, machine: Visit) -> None:
    code = begin(machine).json()["code"]
    assert claim(master, code).status_code == 200
    assert reason(claim(master, code)) == "ceremony_ended"
    code = begin(machine).json()["code"]
    services.world.clock.forward(LIFETIME_S)
    master.sign_in()
    assert reason(claim(master, code)) == "ceremony_ended"


def test_codes_cannot_be_guessed_for_long(master: Visit, machine: Visit) -> None:
    for number in range(CLAIMS_PER_USER):
        assert reason(claim(master, f"{number:08d}")) == "ceremony_ended"
    assert reason(claim(master, begin(machine).json()["code"])) == "rate_limited"


@pytest.mark.parametrize("code", ["", "ABC", "U" * 8, "ABCD-EFGH-J", "\u00e4" * 8])
def test_what_is_no_code_is_said_so(master: Visit, code: str) -> None:
    assert reason(claim(master, code)) == "invalid_body"


def test_only_a_masters_session_claims(services: Services, machine: Visit) -> None:
    code = begin(machine).json()["code"]
    agent = visitor(services, services.world.user.agent)
    assert reason(claim(agent, code)) == "session_invalid"
    agent.sign_in()
    assert reason(claim(agent, code)) == "device_role_missing"


def test_a_pairing_is_nobody_elses(services: Services, master: Visit, machine: Visit) -> None:
    begun = begin(machine).json()
    other = visitor(services, DeviceKey.generate())
    assert reason(seen(other, begun["id"])) == "not_found"
    assert reason(sign(other, begun["id"], pair_of(other, bytes(32)))) == "not_found"
    assert reason(claimed(master, begun["id"])) == "not_found"  # not before it was claimed
    assert reason(claimed(master, "00" * 16)) == "not_found"


def test_a_machine_agrees_to_nobody_but_who_claimed_it(services: Services, master: Visit, machine: Visit) -> None:
    begun = begin(machine).json()
    operator = services.world.user.operator
    assert reason(sign(machine, begun["id"], pair_of(machine, operator))) == "ceremony_ended"  # nobody claimed it yet
    claim(master, begun["code"])
    assert reason(sign(machine, begun["id"], pair_of(machine, bytes(32)))) == "invalid_body"
    assert reason(sign(machine, begun["id"], pair_of(machine, operator, device=bytes(20)))) == "invalid_body"
    assert reason(sign(machine, begun["id"], {"message": {}, "signature": ""})) == "invalid_body"
    assert sign(machine, begun["id"], pair_of(machine, operator)).status_code == 200
    assert reason(sign(machine, begun["id"], pair_of(machine, operator))) == "ceremony_ended"


@pytest.mark.parametrize(
    "changed",
    [
        {"label": "Not A Label"},
        {"label": 7},
        {"services": ["nonsense"]},
        {"services": "cred:x"},
        {"services": [f"cred:x{number}" for number in range(65)]},
        {"profile_hash": "short"},
        {"more": 1},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(machine: Visit, changed: Mapping[str, Any]) -> None:
    assert reason(begin(machine, **changed)) in {"invalid_body", "unknown_fields"}


def test_a_machine_may_propose_nothing(master: Visit, machine: Visit) -> None:
    begun = begin(machine, label=None, services=[]).json()
    taken = claim(master, begun["code"]).json()
    assert (taken["label"], taken["services"]) == (None, [])


def test_a_challenge_begins_one_pairing(machine: Visit) -> None:
    nonce = machine.nonce()
    body = json.dumps({"label": None, "profile_hash": b64u_encode(PROFILE_HASH), "services": []}).encode()
    assert machine.begin("/v1/pairings", body, {"nonce": nonce}).status_code == 200
    assert reason(machine.begin("/v1/pairings", body, {"nonce": nonce})) == "proof_invalid"


def test_a_client_begins_only_so_many_pairings(services: Services, machine: Visit) -> None:
    for _ in range(BEGUN_PER_CLIENT):
        assert begin(machine).status_code == 200
    assert reason(begin(machine)) == "rate_limited"
    services.world.clock.forward(HOUR_S)
    assert begin(machine).status_code == 200


def test_a_copied_proof_tells_nothing_of_a_pairing(machine: Visit) -> None:
    path = f"/v1/pairings/{begin(machine).json()['id']}"
    proof = machine.proof("request", "GET", path, b"")
    assert machine.ask("request", "GET", path, b"", proof=proof).status_code == 200
    assert reason(machine.ask("request", "GET", path, b"", proof=proof)) == "proof_invalid"


def test_masters_that_claim_at_once_are_one(master: Visit, machine: Visit) -> None:
    path, body = "/v1/pairings/claim", json.dumps({"code": begin(machine).json()["code"]}).encode()
    proofs = [master.proof("request", "POST", path, body) for _ in range(6)]

    def take() -> bool:
        return master.ask("request", "POST", path, body, proof=proofs.pop()).status_code == 200

    assert sorted(at_once(take, len(proofs))) == [False] * 5 + [True]
