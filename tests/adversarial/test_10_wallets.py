"""Promises 1 and 4 for wallets: a signature needs its device, says what the host allows, and is read by none else."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.encoding import address_decode, address_encode, b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import DeviceKey, eip191_digest, recover_address
from agentkeys_core.ops import Op
from agentkeys_core.sealing import open_sealed
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataBody
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.typed_data import TypedData
from agentkeys_runtime.signer_client import SealedSignature
from demo.attacker import Asked, compose, cosign
from device.agents import revoke_device
from device.errors import DeviceError
from device.signing import compose_siwe, sign_siwe, sign_typed_data
from device.wallet import wallet_of
from tests.adversarial.town import OPENROUTER, Member, Town, reason, reason_of

HOST, POLICY = "app.example.com", "demo-permit"
SIWE, SIGN = f"siwe:{HOST}", f"sign:{POLICY}"
TOKEN, SPENDER = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "0x" + "22" * 20
BOUND = 1_000_000
PERMIT = ("address owner", "address spender", "uint256 value", "uint256 nonce", "uint256 deadline")
DOMAIN = ("string name", "string version", "uint256 chainId", "address verifyingContract")


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture(scope="module")
def agent(town: Town, master: Member) -> Member:
    return town.agent(master, SIWE, SIGN, "siwe:other.example.com", label="signer")


def wallet(member: Member) -> bytes:
    return wallet_of(member.device).address


def message(member: Member, *, domain: str = HOST, extra: str = "", **changed: Any) -> str:
    now = int(time.time())
    members: dict[str, Any] = {
        "domain": domain,
        "address": changed.pop("address", None) or wallet(member),
        "uri": f"https://{domain}/login",
        "chain_id": 1,
        "nonce": "32891756aB",
        "issued_at": moment(now),
        "expiration_time": moment(now + 300),
    }
    return SiweMessage.compose(**(members | changed)).encode() + extra


def moment(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def permit(member: Member, *, domain: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    def members(*declared: str) -> list[dict[str, str]]:
        return [{"name": item.split()[1], "type": item.split()[0]} for item in declared]

    values = {"owner": address_encode(wallet(member)), "spender": SPENDER, "value": BOUND, "nonce": 0}
    named = {"name": "USD Coin", "version": "2", "chainId": 8453, "verifyingContract": TOKEN}
    return {
        "types": {"EIP712Domain": members(*DOMAIN), "Permit": members(*PERMIT)},
        "primaryType": "Permit",
        "domain": named | (domain or {}),
        "message": values | {"deadline": int(time.time()) + 600} | changed,
    }


def asked_siwe(member: Member, text: str, service: str = SIWE, **rest: Any) -> Asked:
    return member.asked(Op.SIWE_SIGN, service, SiweBody(message=text).encode(), **rest)


def asked_typed(member: Member, obj: Any, **rest: Any) -> Asked:
    return member.asked(Op.TYPED_DATA_SIGN, SIGN, TypedDataBody(typed_data=obj).encode(), **rest)


def to_signer(town: Town, asked: Asked, *, text: str | None = None, body: bytes | None = None) -> SealedSignature:
    """As a stolen broker does it: co-signed with its K1, straight to the signer with its certificate."""
    cap = cosign(town.stack, asked.cap).encode()
    if asked.cap.request.op is Op.SIWE_SIGN:
        text = SiweBody.parse(asked.body).message if text is None else text
        return town.signer("broker").sign_siwe(cap, message=text)
    return town.signer("broker").sign_typed_data(cap, body=body or asked.body)


def refused(town: Town, asked: Asked, **rest: Any) -> str:
    return reason(lambda: to_signer(town, asked, **rest))


def test_a_device_gets_its_signatures_through_the_broker(town: Town, agent: Member) -> None:
    device = agent.device
    text = compose_siwe(
        device, domain=HOST, uri=f"https://{HOST}", statement="Hi.", chain_id=1, nonce=None, lifetime_s=60
    )
    signed = sign_siwe(device, text)
    assert signed.address == wallet(agent)
    assert recover_address(eip191_digest(text.encode().encode()), signed.signature) == wallet(agent)
    assert wallet_of(device).proven
    body = TypedDataBody(typed_data=permit(agent))
    typed = sign_typed_data(device, body, POLICY, k11=False)
    assert recover_address(TypedData.parse(body.typed_data).digest, typed.signature) == wallet(agent)
    assert typed.intent is not None


# --- the broker, stolen


def test_without_the_device_there_is_no_signature(town: Town, agent: Member) -> None:
    thief = DeviceKey.generate()
    for asked in (
        asked_siwe(agent, message(agent), signer=thief),
        asked_typed(agent, permit(agent), signer=thief),
    ):
        assert refused(town, asked) == "device_signature_invalid"
    body = SiweBody(message=message(agent)).encode()
    own = compose(town.stack, thief, agent.who, Op.SIWE_SIGN, SIWE, body)
    assert refused(town, own) == "device_unknown"


def test_another_message_than_the_device_signed(town: Town, agent: Member) -> None:
    asked = asked_siwe(agent, message(agent))
    assert refused(town, asked, text=message(agent, statement="And all my money.")) == "invalid_body"
    asked = asked_typed(agent, permit(agent))
    assert refused(town, asked, body=TypedDataBody(typed_data=permit(agent, value=1)).encode()) == "invalid_body"


def test_it_cannot_read_the_signature_that_passes_through_it(town: Town, agent: Member) -> None:
    asked = asked_siwe(agent, message(agent))
    sealed = to_signer(town, asked).sealed
    with pytest.raises(KeyServiceError):
        open_sealed(X25519PrivateKey.generate(), asked.cap.digest, sealed)
    answer = SiweAnswer.parse(open_sealed(asked.reply_key, asked.cap.digest, sealed))
    assert answer.signature not in sealed


def test_it_gets_a_signature_once(town: Town, agent: Member) -> None:
    for asked in (asked_siwe(agent, message(agent)), asked_typed(agent, permit(agent))):
        assert to_signer(town, asked).row
        assert refused(town, asked) == "cap_replayed"


def test_a_signature_of_another_wallet_is_not_believed(town: Town, agent: Member) -> None:
    """The one thing left to it: sealing what it made itself. Nothing of that verifies."""
    asked, own = asked_siwe(agent, message(agent)), DeviceKey.generate()
    genuine = to_signer(town, asked)
    answer = SiweAnswer.parse(open_sealed(asked.reply_key, asked.cap.digest, genuine.sealed))
    digest = eip191_digest(SiweBody.parse(asked.body).message.encode())
    assert recover_address(digest, own.sign_recoverable(digest)) != answer.address == wallet(agent)


def test_other_parts_ask_for_no_signature(town: Town, agent: Member) -> None:
    cap = cosign(town.stack, asked_siwe(agent, message(agent)).cap).encode()
    for part in ("credentials", "audit", "daemon"):
        assert reason(lambda part=part: town.signer(part).sign_siwe(cap, message="x")) == "role_not_allowed"  # type: ignore[misc]


# --- the agent's key, stolen


@pytest.mark.parametrize(
    ("bend", "expected"),
    [
        (lambda agent: message(agent, domain="evil.example.com"), "policy_refused"),
        (lambda agent: message(agent, uri="agentkeys:cred:openrouter"), "policy_refused"),
        (lambda agent: message(agent, extra="\nResources:\n- agentkeys:cred:openrouter"), "policy_refused"),
        (lambda agent: message(agent, address=bytes(20)), "policy_refused"),
        (lambda agent: message(agent, chain_id=2), "policy_refused"),
        (lambda agent: message(agent, expiration_time="2025-01-01T00:00:00Z"), "policy_refused"),
        (lambda agent: message(agent, expiration_time="2125-01-01T00:00:00Z"), "policy_refused"),
        (lambda agent: message(agent).partition("\nExpiration")[0], "policy_refused"),
        (lambda agent: message(agent) + "\n", "invalid_siwe"),
        (lambda _: "I owe you everything", "invalid_siwe"),
    ],
)
def test_signs_in_nowhere_else_and_to_nothing_else(
    town: Town, agent: Member, bend: Callable[[Member], str], expected: str
) -> None:
    assert refused(town, asked_siwe(agent, bend(agent))) == expected


def test_a_scope_does_not_open_what_the_host_does_not_allow(town: Town, agent: Member) -> None:
    text = message(agent, domain="other.example.com")
    assert refused(town, asked_siwe(agent, text, "siwe:other.example.com")) == "policy_refused"


def test_outside_its_scope_it_signs_nothing(town: Town, master: Member) -> None:
    other = town.agent(master, OPENROUTER, label="reader")
    assert refused(town, asked_siwe(other, message(other))) == "service_not_in_scope"
    assert refused(town, asked_typed(other, permit(other))) == "service_not_in_scope"
    assert reason_of(town.post("broker", "/v1/sign/siwe", http(asked_siwe(other, message(other))))) == (
        "service_not_in_scope"
    )


def http(asked: Asked) -> bytes:
    return canonical_json({"body": b64u_encode(asked.body), "cap": asked.cap.to_json()})


def test_another_actors_wallet(town: Town, master: Member, agent: Member) -> None:
    other = town.agent(master, SIWE, label="other")
    assert wallet(other) != wallet(agent)
    assert refused(town, asked_siwe(agent, message(agent, address=wallet(other)))) == "policy_refused"


def test_an_own_wallet_signs_by_itself_alone(town: Town, master: Member) -> None:
    text = message(master, address=wallet(master))
    assert refused(town, asked_siwe(master, text)) == "policy_refused"
    assert reason(lambda: town.signer("broker").wallet_address(master.who.operator)) == "policy_refused"


def test_typed_data_that_the_policy_does_not_name(town: Town, agent: Member) -> None:
    for obj in (
        permit(agent, spender="0x" + "44" * 20),
        permit(agent, deadline=int(time.time()) + 4000),
        permit(agent, domain={"chainId": 1}),
        permit(agent, domain={"verifyingContract": SPENDER}),
    ):
        assert refused(town, asked_typed(agent, obj)) == "policy_refused"
    assert refused(town, asked_typed(agent, permit(agent, domain={"name": "AgentKeys Registry"}))) == (
        "invalid_typed_data"
    )


def test_above_the_bound_a_masters_k11_is_needed(town: Town, master: Member, agent: Member) -> None:
    obj = permit(agent, value=BOUND + 1)
    assert refused(town, asked_typed(agent, obj)) == "k11_required"
    assert refused(town, asked_typed(agent, obj, approve=town.master().approve)) == "k11_invalid"
    assert to_signer(town, asked_typed(agent, obj, approve=master.approve)).row


def test_a_request_out_of_its_window(town: Town, agent: Member) -> None:
    assert refused(town, asked_siwe(agent, message(agent), age_s=400)) == "cap_expired"


def test_a_revoked_agent_signs_nothing(town: Town, master: Member) -> None:
    gone = town.agent(master, SIWE, label="gone")
    asked = asked_siwe(gone, message(gone))
    revoke_device(master.device, gone.key.key_hash)
    assert refused(town, asked) == "device_revoked"
    with pytest.raises((DeviceError, KeyServiceError)):
        sign_siwe(gone.device, SiweMessage.parse(message(gone)))


def test_every_signature_has_its_row_and_refused_ones_none(town: Town, agent: Member) -> None:
    before = len(town.rows())
    asked = asked_siwe(agent, message(agent))
    to_signer(town, asked)
    assert refused(town, asked_siwe(agent, message(agent, domain="evil.example.com"))) == "policy_refused"
    rows = town.rows()
    assert len(rows) == before + 1
    said = rows[-1].content()
    assert said.op_body.cap == asked.cap.digest
    assert said.intent_text is not None
    assert HOST in said.intent_text
    assert any(line["cap"] == asked.cap.digest.hex() and line["method"] == "SignSiwe" for line in town.journal())


def test_the_address_that_is_told_is_the_one_that_signs(town: Town, agent: Member) -> None:
    answer = town.post(
        "broker", "/v1/derive-address", b'{"omni":"%b","wallet":true}' % agent.who.actor.hex().encode()
    ).json()
    assert address_decode(answer["address"]) == wallet(agent)
