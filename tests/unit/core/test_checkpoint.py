import base64
import json
from typing import Any

import hypothesis
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

from agentkeys_core.checkpoint import Checkpoint, leaf_hash, merkle_root
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import hkdf_sha256, sha256
from agentkeys_core.jwks import jwks_document
from agentkeys_core.keys import ES256PublicKey, es256_sign, parse_jwks
from tests.unit.core.material import k3, p256_public
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases


def public(epoch: int, purpose: str = "audit") -> ES256PublicKey:
    info = f"agentkeys.{purpose}.v1".encode() + b"\x00"
    return p256_public(hkdf_sha256(k3(epoch), salt=b"agentkeys.es256-salt.v1", info=info, length=32))


@pytest.mark.parametrize(("given", "expect"), cases("checkpoint"))
def test_vectors_of_checkpoints(given: Any, expect: Any) -> None:
    rows = [bytes.fromhex(row) for row in given["row_hashes"]]
    key = public(given["epoch"])
    checkpoint = Checkpoint(registry_id=given["registry_id"], size=len(rows), root=merkle_root(rows))
    assert [leaf_hash(row).hex() for row in rows] == expect["leaf_hashes"]
    assert checkpoint.root.hex() == expect["root"]
    assert checkpoint.text().decode() == expect["text"]
    assert key.kid == expect["kid"]
    assert key.verify(checkpoint.text(), bytes.fromhex(expect["signature"]))


def naive(rows: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1 as it is written."""
    if len(rows) == 1:
        return sha256(b"\x00" + rows[0])
    split = 1 << (len(rows) - 1).bit_length() - 1
    return sha256(b"\x01" + naive(rows[:split]) + naive(rows[split:]))


@pytest.mark.parametrize("size", range(1, 70))
def test_the_root_is_that_of_the_rfc(size: Any) -> None:
    rows = [bytes([index]) * 32 for index in range(size)]
    assert merkle_root(rows) == naive(rows)


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert merkle_root([]) == sha256(b"")


def test_a_note_carries_key_id_and_signature() -> None:
    key = public(1)
    checkpoint = Checkpoint(registry_id="00" * 32, size=1, root=bytes(32))
    text, _, line = checkpoint.note(key, b"\x07" * 64).partition(b"\n\n")
    name = f"{'00' * 32}/audit"
    dash, found, blob = line.decode().removesuffix("\n").split(" ")
    assert (dash, found) == ("—", name)
    assert text + b"\n" == checkpoint.text()
    expected = sha256(name.encode() + b"\x0a\xff" + b"agentkeys-es256" + b"\x04" + key.x + key.y)[:4]
    assert base64.b64decode(blob) == expected + b"\x07" * 64


@pytest.mark.parametrize(("given", "expect"), cases("jwks"))
def test_vectors_of_key_documents(given: Any, expect: Any) -> None:
    for purpose in ("oidc", "audit"):
        keys = [public(epoch, purpose) for epoch in given["epochs"]]
        document = json.loads(jwks_document(keys))
        wanted = expect[f"{purpose}_jwks"]
        assert sorted(document["keys"], key=lambda jwk: jwk["kid"]) == sorted(
            wanted["keys"], key=lambda jwk: jwk["kid"]
        )
        assert parse_jwks(jwks_document(keys)) == {key.kid: key for key in keys}


def test_a_key_stands_once() -> None:
    assert len(json.loads(jwks_document([public(1), public(1)]))["keys"]) == 1


AUDIT_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = ES256PublicKey.of(AUDIT_KEY.public_key())


def signed_note(checkpoint: Checkpoint) -> bytes:
    return checkpoint.note(PUBLIC, es256_sign(AUDIT_KEY, checkpoint.text()))


def test_a_note_is_read_once_its_signature_holds() -> None:
    checkpoint = Checkpoint(registry_id="ab" * 32, size=2**50, root=b"r" * 32)
    other = ES256PublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    assert Checkpoint.verify(signed_note(checkpoint), "ab" * 32, [other, PUBLIC]) == checkpoint
    for keys in ([], [other]):
        with refused("invalid_encoding"):
            Checkpoint.verify(signed_note(checkpoint), "ab" * 32, keys)
    with refused("invalid_encoding"):
        Checkpoint.verify(signed_note(checkpoint), "cd" * 32, [PUBLIC])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\n7\n", b"\n8\n"),
        (b"\n7\n", b"\n07\n"),
        (b"\n7\n", b"\n+7\n"),
        (b"\n7\n", b"\n\n"),
        ("—".encode(), b"-"),
        (b"/audit\n7", b"/other\n7"),
        (b"/audit ", b"/other "),
        (b"=\n\n", b"=\nmore\n\n"),
    ],
)
def test_a_note_in_other_words_is_refused(before: bytes, after: bytes) -> None:
    note = signed_note(Checkpoint(registry_id="ab" * 32, size=7, root=b"r" * 32))
    assert note.count(before) == 1
    with refused("invalid_encoding"):
        Checkpoint.verify(note.replace(before, after), "ab" * 32, [PUBLIC])


@hypothesis.given(st.binary(max_size=300))
def test_hostile_notes_are_refused_by_name(data: bytes) -> None:
    for note in (data, b"a/audit\n1\n" + data, data * 5):
        with pytest.raises(KeyServiceError) as caught:
            Checkpoint.verify(note, "a", [PUBLIC])
        assert caught.value.reason in {"invalid_encoding", "too_large"}
