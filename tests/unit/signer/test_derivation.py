import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import ObjectClass, Service
from signer import derivation
from signer.derivation import (
    P256_ORDER,
    SECP256K1_ORDER,
    es256_key,
    es256_scalar,
    journal_mac_key,
    k3_check,
    object_key,
    wallet_address,
    wallet_key,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "vectors.json").read_text())
HELD = {int(epoch): bytes.fromhex(k3) for epoch, k3 in VECTORS["held_epochs"].items()}


def cases(group: Any) -> Any:
    return [pytest.param(case["in"], case["expect"], id=case["name"]) for case in VECTORS["groups"][group]["cases"]]


@pytest.mark.parametrize(("given", "expect"), cases("k4"))
def test_wallet_keys_meet_the_vectors(given: Any, expect: Any) -> None:
    k3, omni = HELD[given["epoch"]], bytes.fromhex(given["omni"])
    assert wallet_key(k3, omni).hex() == expect["private_key"]
    assert "0x" + wallet_address(k3, omni).hex() == expect["address"]


@pytest.mark.parametrize(("given", "expect"), cases("object_key"))
def test_object_keys_meet_the_vectors(given: Any, expect: Any) -> None:
    key, commitment = object_key(
        HELD[given["epoch"]],
        object_class=ObjectClass(given["class"]),
        owner=bytes.fromhex(given["owner"]),
        service=Service.parse(given["service"]),
        salt=bytes.fromhex(given["salt"]),
    )
    assert (key.hex(), commitment.hex()) == (expect["object_key"], expect["commitment"])


@pytest.mark.parametrize("purpose", ["oidc", "audit"])
@pytest.mark.parametrize(("given", "expect"), cases("k3"))
def test_epoch_keys_meet_the_vectors(given: Any, expect: Any, purpose: Any) -> None:
    k3 = bytes.fromhex(given["k3"])
    if "k3_check" in expect:
        assert k3_check(k3).hex() == expect["k3_check"]
    if "journal_mac_key" in expect:
        assert journal_mac_key(k3).hex() == expect["journal_mac_key"]
    if purpose in expect:
        assert es256_scalar(k3, purpose).hex() == expect[purpose]["scalar"]
        assert ES256PublicKey.of(es256_key(k3, purpose).public_key()).jwk() == expect[purpose]["jwk"]


@pytest.mark.parametrize("bad", [0, SECP256K1_ORDER, SECP256K1_ORDER + 1])
def test_a_wallet_candidate_that_is_no_scalar_is_passed_over_with_a_counter_byte(monkeypatch: Any, bad: Any) -> None:
    infos = []

    def hkdf(_k3: Any, *, salt: Any, info: Any, length: Any = 32) -> Any:
        infos.append(info)
        return bytearray((bad if len(infos) < 3 else 7).to_bytes(32, "big"))

    monkeypatch.setattr(derivation, "_hkdf", hkdf)
    assert wallet_key(bytes(32), b"o" * 32) == (7).to_bytes(32, "big")
    assert infos == [b"\x01agentkeys-evm-wallet" + b"o" * 32 + suffix for suffix in (b"", b"\x01", b"\x02")]


@pytest.mark.parametrize("bad", [0, P256_ORDER])
def test_an_es256_candidate_that_is_no_scalar_is_passed_over(monkeypatch: Any, bad: Any) -> None:
    infos = []

    def hkdf(_k3: Any, *, salt: Any, info: Any, length: Any = 32) -> Any:
        infos.append(info[-1])
        return bytearray((bad if len(infos) < 2 else 9).to_bytes(32, "big"))

    monkeypatch.setattr(derivation, "_hkdf", hkdf)
    assert es256_scalar(bytes(32), "audit") == (9).to_bytes(32, "big")
    assert infos == [0, 1]


@pytest.mark.parametrize("derive", [lambda: wallet_key(bytes(32), bytes(32)), lambda: es256_scalar(bytes(32), "oidc")])
def test_derivation_without_any_valid_candidate_ends(monkeypatch: Any, derive: Any) -> None:
    monkeypatch.setattr(derivation, "_hkdf", lambda *_, **__: bytearray(32))
    with pytest.raises(ArithmeticError):
        derive()


def test_orders_are_those_of_the_curves() -> None:
    key = ec.derive_private_key(P256_ORDER - 1, ec.SECP256R1())
    assert key.private_numbers().private_value == P256_ORDER - 1
    with pytest.raises(ValueError):
        ec.derive_private_key(SECP256K1_ORDER, ec.SECP256K1()).private_numbers()


def test_k3_is_read_in_place() -> None:
    k3 = bytearray(HELD[1])
    assert wallet_key(memoryview(k3), bytes(32)) == wallet_key(HELD[1], bytes(32))
    assert k3 == HELD[1]
