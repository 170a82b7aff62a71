import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.proof import SessionProof, k10_digest
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases, document

HEADER = document()["groups"]["session_proof"]["cases"][0]["expect"]["header"]


@pytest.mark.parametrize(("given_", "expect"), cases("session_proof"))
def test_session_proofs_of_the_vectors(given_: Any, expect: Any) -> None:
    key = DeviceKey.from_bytes(bytes.fromhex(given_["device_private_key"]))
    proof = SessionProof.parse(expect["header"])
    assert proof.canonical() == expect["canonical"].encode()
    assert k10_digest("session", proof.canonical()).hex() == expect["k10_digest"]
    assert proof.signature.hex() == expect["signature"]
    assert proof.body_hash == sha256(bytes.fromhex(given_["body"]))
    assert proof.encode() == expect["header"]
    assert proof.sign(key) == expect["header"]
    proof.verify()


def bent(**changed: Any) -> Any:
    document_, _, signature = HEADER.partition(".")
    members = json.loads(b64u_decode(document_)) | changed
    return f"{b64u_encode(canonical_json(members))}.{signature}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"zz": 1}, "unknown_fields"),
        ({"ver": 1}, "unsupported_version"),
        ({"ver": True}, "invalid_encoding"),
        ({"purpose": "cap"}, "invalid_encoding"),
        ({"expires_at": 1764000061}, "window_too_long"),
        ({"expires_at": 1764000000}, "invalid_encoding"),
        ({"method": "é"}, "invalid_encoding"),
        ({"device": "0x" + "0" * 64}, "invalid_encoding"),
        ({"public_key": "AA"}, "invalid_encoding"),
        ({"body_hash": None}, "invalid_encoding"),
        ({"issued_at": "1"}, "invalid_encoding"),
    ],
)
def test_malformed_proofs_are_refused(change: Any, reason: Any) -> None:
    with refused(reason):
        SessionProof.parse(bent(**change))


@pytest.mark.parametrize("header", ["", ".", "e30", "e30.", HEADER + "A", HEADER.replace(".", ""), HEADER + "."])
def test_texts_that_are_no_proof_are_refused(header: Any) -> None:
    with refused("invalid_encoding"):
        SessionProof.parse(header)


def test_large_headers_are_refused() -> None:
    with refused("too_large"):
        SessionProof.parse("A" * 8193)
    with refused("too_large"):
        SessionProof.parse(b64u_encode(b" " * 4097) + ".AA")


def test_a_changed_proof_is_not_the_devices() -> None:
    proof = SessionProof.parse(HEADER)
    with refused("device_signature_invalid"):
        dataclasses.replace(proof, path="/v1/other").verify()


def test_a_key_that_is_not_the_named_device_is_refused() -> None:
    key = DeviceKey.generate()
    proof = dataclasses.replace(SessionProof.parse(HEADER), public_key=key.public_key)
    signed = SessionProof.parse(proof.sign(key))
    with refused("device_signature_invalid"):
        signed.verify()


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda data: b64u_encode(data) + "." + b64u_encode(bytes(64))))
def test_any_text_is_a_proof_or_refused(header: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        SessionProof.parse(header)
    assert isinstance(caught.value.reason, Reason)
