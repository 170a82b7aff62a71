from typing import Any

import pytest

from agentkeys_core import ids
from agentkeys_core.hashes import hkdf_sha256, keccak256
from agentkeys_core.ids import IdentityType
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases


def identity_value(kind: Any, value: Any) -> Any:
    if kind is IdentityType.OIDC:
        return ids.oidc_value(value["iss"], value["sub"])
    if kind is IdentityType.PASSKEY:
        return ids.passkey_value(bytes.fromhex(value["x"]), bytes.fromhex(value["y"]))
    return value


@pytest.mark.parametrize(("given", "expect"), cases("identity"))
def test_an_identity_always_gives_the_same_omni(given: Any, expect: Any) -> None:
    kind = IdentityType(given["type"])
    value = identity_value(kind, given["value"])
    assert ids.normalise_identity(kind, value) == expect["identity_value"]
    assert ids.identity_omni(kind, value).hex() == expect["identity_omni"]
    assert ids.operator_omni(bytes.fromhex(expect["initial_wallet"][2:])).hex() == expect["operator_omni"]


def test_an_evm_identity_is_the_operator_itself() -> None:
    wallet = bytes(range(200, 220))
    upper = "0x" + wallet.hex().upper()
    assert ids.identity_omni(IdentityType.EVM, upper) == ids.operator_omni(wallet)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("evm", "0x00"),
        ("evm", "00" * 20),
        ("email", ""),
        ("email", "\ud800@example.com"),
        ("oauth2_google", ""),
        ("oidc", "no bar"),
        ("oidc", "|sub"),
        ("oidc", "iss|"),
        ("passkey", "AB" * 32),
        ("passkey", "ab" * 31),
    ],
)
def test_values_that_are_no_identity_are_refused(kind: Any, value: Any) -> None:
    with refused("invalid_evidence"):
        ids.identity_omni(IdentityType(kind), value)


def test_an_issuer_with_a_bar_is_refused() -> None:
    with refused("invalid_evidence"):
        ids.oidc_value("https://a|b", "c")


@pytest.mark.parametrize(("given", "expect"), cases("child_omni"))
def test_children_of_the_vectors(given: Any, expect: Any) -> None:
    operator = bytes.fromhex(given["operator_omni"])
    assert ids.child_omni(operator, given["label"], given["generation"]).hex() == expect["actor_omni"]


@pytest.mark.parametrize(("given", "expect"), cases("negative", "child_omni"))
def test_bad_labels_and_generations_are_refused(given: Any, expect: Any) -> None:
    with refused(expect["reason"]):
        generation = given["generation"]
        generation = ids.parse_generation(generation) if isinstance(generation, str) else generation
        ids.child_omni(bytes.fromhex(given["operator_omni"]), given["label"], generation)


@pytest.mark.parametrize("generation", [-1, 2**53, True, 1.0, "1"])
def test_generations_are_plain_integers_in_range(generation: Any) -> None:
    with refused("invalid_omni"):
        ids.child_omni(bytes(32), "a", generation)


def test_children_need_an_operator_of_32_bytes() -> None:
    with refused("invalid_omni"):
        ids.child_omni(bytes(31), "a", 0)


@pytest.mark.parametrize(("given", "expect"), cases("device"))
def test_a_device_is_named_by_its_address(given: Any, expect: Any) -> None:
    address = ids.address_of(bytes.fromhex(expect["public_key"]))
    assert "0x" + address.hex() == expect["address"]
    assert ids.device_key_hash(address).hex() == expect["device_key_hash"]


@pytest.mark.parametrize("key", [b"", bytes(33), b"\x02" + bytes(31) + b"\x05", b"\x04" + bytes(64), b"\x02" * 34])
def test_addresses_of_keys_that_are_none_are_refused(key: Any) -> None:
    with refused("invalid_encoding"):
        ids.address_of(key)


def test_hashes_are_those_that_others_publish() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert (  # RFC 5869, test case 1
        hkdf_sha256(bytes([0x0B] * 22), salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42).hex()
        == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
