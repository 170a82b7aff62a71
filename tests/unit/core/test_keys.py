import copy
import json
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import keccak256
from agentkeys_core.keys import (
    DeviceKey,
    ES256PublicKey,
    eip191_digest,
    es256_sign,
    parse_jwks,
    recover_address,
    verify_recoverable,
    verify_secp256k1,
)
from agentkeys_core.proof import k10_digest
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases, document

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize(("given_", "expect"), cases("device"))
def test_devices_of_the_vectors(given_: Any, expect: Any) -> None:
    key = DeviceKey.from_bytes(bytes.fromhex(given_["private_key"]))
    assert key.public_key.hex() == expect["public_key"]
    assert "0x" + key.address.hex() == expect["address"]
    assert key.key_hash.hex() == expect["device_key_hash"]


@pytest.mark.parametrize(("given_", "expect"), cases("k10_signature"))
def test_k10_signs_the_digest_itself(given_: Any, expect: Any) -> None:
    key = DeviceKey.from_bytes(bytes.fromhex(given_["device_private_key"]))
    canonical = canonical_json(json.loads(given_["json"]))
    assert canonical == expect["canonical"].encode()
    digest = k10_digest(given_["purpose"], canonical)
    assert digest.hex() == expect["k10_digest"]
    assert key.sign(digest).hex() == expect["signature"]
    assert verify_secp256k1(key.public_key, digest, key.sign(digest))


@pytest.mark.parametrize(("given_", "expect"), cases("negative", "k10_signature"))
def test_k10_signatures_that_differ_in_one_thing(given_: Any, expect: Any) -> None:
    digest = k10_digest(given_["purpose"], given_["canonical"].encode())
    valid = verify_secp256k1(bytes.fromhex(given_["public_key"]), digest, bytes.fromhex(given_["signature"]))
    assert valid is (expect["reason"] == "ok")


@pytest.mark.parametrize(("given_", "expect"), cases("siwe"))
def test_eip191_signatures_of_the_vectors(given_: Any, expect: Any) -> None:
    wallet = next(
        case["expect"]
        for case in document()["groups"]["k4"]["cases"]
        if case["in"] == {"omni": given_["omni"], "epoch": given_["epoch"]}
    )
    key = DeviceKey.from_bytes(bytes.fromhex(wallet["private_key"]))
    digest = eip191_digest(given_["message"].encode())
    assert digest.hex() == expect["eip191_digest"]
    assert key.sign_recoverable(digest).hex() == expect["signature"]
    for name in ("signature", "signature_v01"):
        signature = bytes.fromhex(expect[name])
        assert verify_recoverable(key.public_key, digest, signature)
        assert recover_address(digest, signature) == bytes.fromhex(expect["address"][2:])


@pytest.mark.parametrize(("given_", "expect"), cases("eip191_device_proof"))
def test_proofs_of_deployed_devices(given_: Any, expect: Any) -> None:
    key = DeviceKey.from_bytes(bytes.fromhex(given_["device_private_key"]))
    assert keccak256(expect["preimage"].encode()).hex() == expect["payload"]
    digest = eip191_digest(bytes.fromhex(expect["payload"]))
    assert digest.hex() == expect["eip191_digest"]
    assert key.sign_recoverable(digest).hex() == expect["signature_v27"]
    for name in ("signature_v27", "signature_v01"):
        assert verify_recoverable(key.public_key, digest, bytes.fromhex(expect[name]))


@pytest.mark.parametrize(("given_", "expect"), cases("negative", "eip191") + cases("negative", "eip712"))
def test_recoverable_signatures_that_differ_in_one_thing(given_: Any, expect: Any) -> None:
    digest = eip191_digest(bytes.fromhex(given_["message"])) if "message" in given_ else bytes.fromhex(given_["digest"])
    signature = bytes.fromhex(given_["signature"])
    signer = recover_address(digest, signature)
    assert (signer == bytes.fromhex(given_["address"][2:])) is (expect["reason"] == "ok")
    for case in document()["groups"]["device"]["cases"]:
        if case["expect"]["address"] == given_["address"]:
            key = bytes.fromhex(case["expect"]["public_key"])
            assert verify_recoverable(key, digest, signature) is (expect["reason"] == "ok")


def test_another_library_makes_the_same_signature() -> None:
    key = DeviceKey.generate()
    account = Account.from_key(key.secret_bytes())
    assert bytes.fromhex(account.address[2:]) == key.address
    signed = account.sign_message(encode_defunct(b"hello"))
    assert bytes(signed.signature) == key.sign_recoverable(eip191_digest(b"hello"))


def test_a_high_s_is_refused_in_both_forms() -> None:
    key, digest = DeviceKey.generate(), bytes(range(32))
    signature = key.sign_recoverable(digest)
    high = (ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    assert not verify_secp256k1(key.public_key, digest, signature[:32] + high)
    flipped = signature[:32] + high + bytes([55 - signature[64]])
    assert recover_address(digest, flipped) is None
    assert not verify_recoverable(key.public_key, digest, flipped)


@given(st.binary(max_size=70), st.binary(max_size=40), st.binary(max_size=70))
def test_no_bytes_make_verification_raise(public_key: Any, digest: Any, signature: Any) -> None:
    assert not verify_secp256k1(public_key, digest, signature)
    assert not verify_recoverable(public_key, digest, signature)
    recover_address(digest, signature)


@given(st.integers(0, 63), st.integers(1, 255))
def test_any_changed_byte_of_a_signature_is_noticed(position: Any, change: Any) -> None:
    key, digest = DeviceKey.from_bytes(bytes([7]) * 32), bytes(32)
    signature = bytearray(key.sign(digest))
    signature[position] ^= change
    assert not verify_secp256k1(key.public_key, digest, bytes(signature))


@pytest.mark.parametrize("secret", [b"", bytes(32), ORDER.to_bytes(32, "big"), bytes([1]) * 31, bytes([1]) * 33])
def test_secrets_that_are_no_scalar_are_refused(secret: Any) -> None:
    with refused("invalid_encoding"):
        DeviceKey.from_bytes(secret)


def test_a_device_key_never_shows_or_leaves() -> None:
    key = DeviceKey.generate()
    secret = key.secret_bytes()
    for shown in (repr(key), str(key), f"{key!r}"):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(key)
    assert key != DeviceKey.from_bytes(secret)
    with pytest.raises(ValueError, match="32 bytes"):
        key.sign(bytes(31))


@pytest.mark.parametrize(("given_", "expect"), cases("jwks"))
def test_key_documents_of_the_vectors(given_: Any, expect: Any) -> None:
    for name in ("audit_jwks", "oidc_jwks"):
        keys = parse_jwks(canonical_json(expect[name]))
        assert {kid: key.jwk() for kid, key in keys.items()} == {jwk["kid"]: jwk for jwk in expect[name]["keys"]}


def es256() -> Any:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, ES256PublicKey.of(private.public_key())


def test_es256_signatures_are_r_and_s() -> None:
    private, public = es256()
    signature = es256_sign(private, b"message")
    assert len(signature) == 64
    assert public.verify(b"message", signature)
    assert not public.verify(b"other", signature)
    assert not public.verify(b"message", signature + b"\x00")
    assert not public.verify(b"message", bytes(64))
    assert not es256()[1].verify(b"message", signature)


@given(st.binary(max_size=70))
def test_no_signature_makes_es256_raise(signature: Any) -> None:
    assert not ES256_KEY.verify(b"message", signature)


ES256_KEY = es256()[1]


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"crv": "P-384"},
        {"alg": "ES384"},
        {"use": "enc"},
        {"kid": "x"},
        {"x": "AA"},
        {"y": None},
        {"d": "AAAA"},
        {"x": "A" * 43},
    ],
)
def test_jwks_of_something_else_are_refused(change: Any) -> None:
    jwk = ES256_KEY.jwk() | change
    with refused("invalid_encoding"):
        ES256PublicKey.from_jwk(jwk)
    with refused("invalid_encoding"):
        parse_jwks(canonical_json({"keys": [jwk]}))


def test_a_jwk_without_kid_gets_its_thumbprint() -> None:
    jwk = {name: value for name, value in ES256_KEY.jwk().items() if name in ("kty", "crv", "x", "y")}
    assert ES256PublicKey.from_jwk(jwk | {"key_ops": ["verify"]}) == ES256_KEY
    assert ES256PublicKey.from_jwk(jwk).kid == ES256_KEY.kid


def test_a_key_of_another_curve_is_refused() -> None:
    with refused("invalid_encoding"):
        ES256PublicKey.of(ec.generate_private_key(ec.SECP384R1()).public_key())
    with refused("invalid_encoding"):
        ES256PublicKey.from_xy(bytes(32), bytes(31))


@given(st.binary(max_size=200) | st.sampled_from([b'{"keys":[1]}', b'{"keys":{}}', b"[]", b'{"keys":[{"kty":"EC"}]}']))
def test_any_bytes_are_a_key_set_or_refused(data: Any) -> None:
    try:
        parse_jwks(data)
    except KeyServiceError as exc:
        assert exc.reason == "invalid_encoding"  # noqa: PT017
