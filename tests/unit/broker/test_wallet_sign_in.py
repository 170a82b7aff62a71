"""Signing in with the user's own wallet: what its message must say, and what must not pass."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_ORIGIN
from agentkeys_core.siwe import DEVICE_PAGE, Instant, SiweMessage, device_resource
from broker.wallet_sign_in import SignedMessage
from tests.fakes.services_kit import BROKER_ORIGIN, Services
from tests.unit.broker.visitor import Visit, reason

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
ISSUED = Instant.parse("2020-01-01T00:00:00Z")
FUTURE = Instant.parse("2999-01-01T00:00:00Z")


class Wallet:
    """A user's own wallet, in a library that nobody here wrote."""

    def __init__(self) -> None:
        self.account = Account.create()

    @property
    def address(self) -> bytes:
        return bytes.fromhex(self.account.address[2:])

    def sign(self, text: str) -> bytes:
        return bytes(self.account.sign_message(encode_defunct(text=text)).signature)


@pytest.fixture
def wallet(services: Services) -> Wallet:
    made = Wallet()
    services.world.registry.bend_operator(services.world.user.operator, wallet=made.address)
    return made


@pytest.fixture
def visit(services: Services, wallet: Wallet) -> Visit:
    return Visit(services.broker, services.world.clock, services.world.user.master)


def message(visit: Visit, wallet: Wallet, challenge: str, **changed: Any) -> SiweMessage:
    made = SiweMessage(
        domain="service.test",
        address=wallet.address,
        uri=BROKER_ORIGIN,
        chain_id=1,
        nonce=challenge,
        issued_at=ISSUED,
        statement="Sign this device in.",
        resources=(device_resource(visit.key.key_hash),),
    )
    return replace(made, **changed)


def body(text: str, signature: bytes) -> bytes:
    return json.dumps({"siwe": {"message": text, "signature": b64u_encode(signature)}}).encode()


def sign_in(visit: Visit, wallet: Wallet, signer: Wallet | None = None, **changed: Any) -> httpx.Response:
    nonce = visit.nonce()
    text = message(visit, wallet, nonce, **changed).encode()
    return send(visit, nonce, body(text, (signer or wallet).sign(text)))


def send(visit: Visit, nonce: str, content: bytes) -> httpx.Response:
    return visit.ask("sign-in", "POST", "/v1/session", content, spoil={"nonce": nonce})


def test_the_users_own_wallet_signs_its_device_in(services: Services, visit: Visit, wallet: Wallet) -> None:
    answer = sign_in(visit, wallet)
    assert answer.status_code == 200, answer.text
    assert answer.json()["session"]["method"] == "wallet"
    visit.token = answer.json()["token"]
    assert [found["method"] for found in visit.sessions().json()["sessions"]] == ["wallet"]


def test_without_a_wallets_word_a_session_says_so(visit: Visit) -> None:
    assert visit.sign_in().json()["session"]["method"] == "device"


@pytest.mark.parametrize(
    "changed",
    [
        {"domain": "elsewhere.test"},
        {"domain": "service.test:444"},
        {"scheme": "http"},
        {"domain": DEVICE_PAGE, "scheme": "https"},
        {"domain": "localhost"},
        {"domain": "localhost:8723"},
        {"domain": "127.0.0.1:8722"},
        {"domain": DEVICE_PAGE, "uri": K11_ORIGIN},
        {"uri": "https://elsewhere.test"},
        {"uri": BROKER_ORIGIN + "/"},
        {"nonce": "00" * 56},
        {"resources": None},
        {"resources": ()},
        {"resources": (device_resource(bytes(32)),)},
        {"resources": ("https://service.test/",)},
        {"issued_at": FUTURE},
        {"not_before": FUTURE},
        {"expiration_time": ISSUED},
    ],
    ids="-".join,
)
def test_a_message_about_anything_else_signs_nobody_in(
    visit: Visit, wallet: Wallet, changed: Mapping[str, Any]
) -> None:
    assert reason(sign_in(visit, wallet, **changed)) == "proof_invalid"


def test_a_message_that_grants_more_signs_nobody_in(visit: Visit, wallet: Wallet) -> None:
    mine = device_resource(visit.key.key_hash)
    for resources in ((mine, "https://elsewhere.test/"), (mine, device_resource(bytes(32))), (mine, mine)):
        assert reason(sign_in(visit, wallet, resources=resources)) == "proof_invalid"


def test_a_message_inside_its_time_is_good(visit: Visit, wallet: Wallet) -> None:
    answer = sign_in(visit, wallet, scheme="https", not_before=ISSUED, expiration_time=FUTURE, request_id="1")
    assert answer.status_code == 200


@pytest.mark.parametrize("scheme", [None, "http"])
def test_the_devices_own_page_may_ask_for_this_broker(visit: Visit, wallet: Wallet, scheme: str | None) -> None:
    answer = sign_in(visit, wallet, domain=DEVICE_PAGE, scheme=scheme)
    assert answer.status_code == 200, answer.text
    assert answer.json()["session"]["method"] == "wallet"


def test_another_wallet_signs_nobody_in(visit: Visit, wallet: Wallet) -> None:
    stranger = Wallet()
    assert reason(sign_in(visit, stranger)) == "proof_invalid"
    assert reason(sign_in(visit, wallet, signer=stranger)) == "proof_invalid"


def test_a_message_for_one_device_signs_in_no_other(services: Services, visit: Visit, wallet: Wallet) -> None:
    """The broker's nonce is nobody's in particular; the device in the message is what binds it."""
    nonce = visit.nonce()
    text = message(visit, wallet, nonce).encode()
    thief = Visit(services.broker, services.world.clock, services.world.user.agent)
    assert reason(send(thief, nonce, body(text, wallet.sign(text)))) == "proof_invalid"
    assert send(visit, nonce, body(text, wallet.sign(text))).status_code == 200


def test_a_high_s_is_no_signature(visit: Visit, wallet: Wallet) -> None:
    """The same signature in its other form, which lax libraries take for good."""
    nonce = visit.nonce()
    text = message(visit, wallet, nonce).encode()
    signature = wallet.sign(text)
    high = (ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    other_form = signature[:32] + high + bytes([55 - signature[64]])
    assert Account.recover_message(encode_defunct(text=text), signature=other_form) == wallet.account.address
    assert reason(send(visit, nonce, body(text, other_form))) == "proof_invalid"


def test_a_message_is_good_once(visit: Visit, wallet: Wallet) -> None:
    nonce = visit.nonce()
    text = message(visit, wallet, nonce).encode()
    content = body(text, wallet.sign(text))
    assert send(visit, nonce, content).status_code == 200
    assert reason(send(visit, nonce, content)) == "proof_invalid"


def test_a_refused_message_uses_no_nonce_up(visit: Visit, wallet: Wallet) -> None:
    nonce = visit.nonce()
    text = message(visit, wallet, nonce).encode()
    assert reason(send(visit, nonce, body(text, Wallet().sign(text)))) == "proof_invalid"
    assert send(visit, nonce, body(text, wallet.sign(text))).status_code == 200


def test_a_managed_wallet_signs_nobody_in(services: Services, visit: Visit, wallet: Wallet) -> None:
    services.world.registry.bend_operator(services.world.user.operator, wallet_epoch=1)
    assert reason(sign_in(visit, wallet)) == "policy_refused"


@pytest.mark.parametrize(
    ("siwe", "expected"),
    [
        (None, "invalid_body"),
        ({}, "invalid_body"),
        ({"message": 1, "signature": "AA"}, "invalid_body"),
        ({"message": "hello", "signature": "AA"}, "invalid_siwe"),
        ({"message": "x" * 8193, "signature": "AA"}, "too_large"),
        ({"message": "hello", "signature": "AA", "more": 1}, "unknown_fields"),
    ],
)
def test_what_is_no_message_is_refused_by_name(visit: Visit, siwe: object, expected: str) -> None:
    assert reason(send(visit, visit.nonce(), json.dumps({"siwe": siwe}).encode())) == expected


def test_a_signature_has_65_bytes(visit: Visit, wallet: Wallet) -> None:
    text = message(visit, wallet, "a" * 8).encode()
    for signature in (b"", bytes(64), bytes(66)):
        assert reason(send(visit, visit.nonce(), body(text, signature))) == "invalid_body"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["message", "signature", "x"]), inner),
    max_leaves=6,
)


@given(JSON)
def test_whatever_comes_is_refused_by_name(obj: object) -> None:
    with pytest.raises(KeyServiceError) as caught:
        SignedMessage.from_json(obj)
    named = {Reason.INVALID_BODY, Reason.INVALID_SIWE, Reason.UNKNOWN_FIELDS, Reason.TOO_LARGE}
    assert caught.value.reason in named
