import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_decode, canonical_json
from agentkeys_core.sealing import OVERHEAD_BYTES, check_reply_key, open_sealed, seal
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases

P = 2**255 - 19
DIGEST = bytes(range(32))


@pytest.mark.parametrize(("given_", "expect"), cases("sealed_answer"))
def test_sealed_answers_of_the_vectors_open(given_: Any, expect: Any) -> None:
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(given_["reply_private_key"]))
    assert private.public_key().public_bytes_raw() == b64u_decode(expect["reply_key"])
    sealed = bytes.fromhex(expect["enc"] + expect["ciphertext"])
    assert sealed == b64u_decode(expect["sealed"])
    plaintext = open_sealed(private, bytes.fromhex(given_["cap_digest"]), sealed)
    assert plaintext == expect["plaintext"].encode() == canonical_json(json.loads(given_["shuffled_json"]))


@pytest.mark.parametrize(("given_", "expect"), cases("negative", "seal_to"))
def test_keys_that_seal_for_everyone_are_refused(given_: Any, expect: Any) -> None:
    with refused(expect["reason"]):
        seal(b64u_decode(given_["reply_key"]), DIGEST, b"plaintext")


def small_order_spellings() -> Any:
    eights = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ]
    points = [0, 1, P - 1, *(int.from_bytes(bytes.fromhex(text), "little") for text in eights)]
    reduced = points + [point + P for point in points if point + P < 2**255]
    return [(value | top).to_bytes(32, "little") for value in reduced for top in (0, 2**255)]


@pytest.mark.parametrize("key", small_order_spellings(), ids=bytes.hex)
def test_every_spelling_of_a_small_point_is_refused_as_the_exchange_itself_would(key: Any) -> None:
    with refused("invalid_encoding"):
        check_reply_key(key)
    with pytest.raises(ValueError, match=r".*"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_passes_exactly_where_the_exchange_gives_a_secret(key: Any) -> None:
    try:
        X25519PrivateKey.from_private_bytes(bytes([9]) * 32).exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        expected = "invalid_encoding"
    else:
        expected = "ok"
    with refused(expected):
        check_reply_key(key)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_reply_keys_have_32_bytes(length: Any) -> None:
    with refused("invalid_encoding"):
        check_reply_key(bytes([9]) * length)


def test_an_answer_opens_for_its_key_and_its_request_alone() -> None:
    private, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    sealed = seal(private.public_key().public_bytes_raw(), DIGEST, b"secret")
    assert len(sealed) == len(b"secret") + OVERHEAD_BYTES
    assert open_sealed(private, DIGEST, sealed) == b"secret"
    with refused("invalid_encoding"):
        open_sealed(other, DIGEST, sealed)
    with refused("invalid_encoding"):
        open_sealed(private, bytes(32), sealed)
    with refused("invalid_encoding"):
        open_sealed(private, DIGEST, sealed[:-1])


def test_an_answer_with_a_small_encapsulated_key_is_refused() -> None:
    with refused("invalid_encoding"):
        open_sealed(X25519PrivateKey.generate(), DIGEST, bytes(80))


@given(st.binary(max_size=120))
def test_any_bytes_are_refused_as_sealed_answer(data: Any) -> None:
    with refused("invalid_encoding"):
        open_sealed(KEY, DIGEST, data)


KEY = X25519PrivateKey.generate()
