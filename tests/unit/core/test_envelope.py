import dataclasses
import json
from typing import Any

import pytest

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import canonical_json
from agentkeys_core.envelope import MAX_ENVELOPE_BYTES, Envelope, ObjectPlaintext, open_envelope, seal_envelope
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import hkdf_sha256
from agentkeys_core.legacy_envelope import LegacyEnvelope
from agentkeys_core.ops import ObjectClass, Service
from agentkeys_core.secret import Secret
from tests.unit.core.material import AuditKey, envelope, k3, object_key
from tests.unit.core.vectors import cases

OWNER = bytes(range(32))
SERVICE = Service.parse("cred:openrouter")
SALT = b"\x05" * 32
KEY = b"\x01" * 32
COMMITMENT = b"\x02" * 32


def derived(given: dict[str, Any], found: Envelope) -> tuple[Secret, bytes]:
    """What a signer gives for a request: class, owner and service from the request, epoch and salt from the envelope."""
    key, commitment = object_key(
        found.epoch, int(given["class"]), bytes.fromhex(given["owner"]), given["service"], found.salt
    )
    return Secret.copy_of(key), commitment


def opened(given: dict[str, Any], data: bytes) -> bytes:
    return open_envelope(
        data,
        object_class=ObjectClass(int(given["class"])),
        owner=bytes.fromhex(given["owner"]),
        service=Service.parse(given["service"]),
        held=lambda epoch: epoch in (1, 2),
        key_for=lambda found: derived(given, found),
    )


@pytest.mark.parametrize(("given", "expect"), cases("envelope"))
def test_vectors_of_envelopes(given: Any, expect: Any) -> None:
    data = bytes.fromhex(expect["envelope"])
    found = Envelope.parse(data)
    key, commitment = derived(given, found)
    plaintext = ObjectPlaintext(body=given["body"].encode(), row=AuditRow.from_json(given["row"]))
    sealed = seal_envelope(
        key,
        epoch=given["epoch"],
        object_class=ObjectClass(given["class"]),
        salt=bytes.fromhex(given["salt"]),
        commitment=commitment,
        owner=bytes.fromhex(given["owner"]),
        service=Service.parse(given["service"]),
        plaintext=plaintext.encode(),
        nonce=bytes.fromhex(given["nonce"]),
    )
    assert key.reveal().hex() == expect["object_key"]
    assert plaintext.encode().decode() == expect["plaintext"]
    assert found.header.hex() == expect["header"]
    assert sealed == data
    assert found.encode() == data
    assert ObjectPlaintext.parse(opened(given, data)) == plaintext


@pytest.mark.parametrize(("given", "expect"), cases("negative", "envelope"))
def test_vectors_of_refused_envelopes(given: Any, expect: Any) -> None:
    data = bytes.fromhex(given["envelope"])
    if expect["reason"] == "ok":
        ObjectPlaintext.parse(opened(given, data))
    else:
        with pytest.raises(KeyServiceError) as caught:
            opened(given, data)
        assert caught.value.reason == expect["reason"]


def legacy_key(epoch: int, omni: bytes) -> Secret:
    info = b"agentkeys.user.v1" + omni
    return Secret.copy_of(hkdf_sha256(k3(epoch), salt=b"agentkeys.kek-salt.v2", info=info, length=32))


@pytest.mark.parametrize(("given", "expect"), cases("legacy_envelope"))
def test_vectors_of_legacy_envelopes(given: Any, expect: Any) -> None:
    found, omni = LegacyEnvelope.parse(bytes.fromhex(expect["envelope"])), bytes.fromhex(given["omni"])
    key = legacy_key(given["epoch"], omni)
    assert (found.epoch, found.nonce.hex(), key.reveal().hex()) == (given["epoch"], given["nonce"], expect["key"])
    assert found.decrypt(key, omni=omni, service=given["service"]).hex() == given["plaintext"]
    for other in [{"omni": bytes(32), "service": given["service"]}, {"omni": omni, "service": "other"}]:
        with pytest.raises(KeyServiceError) as caught:
            found.decrypt(key, **other)
        assert caught.value.reason == Reason.INVALID_ENVELOPE


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.INVALID_ENVELOPE),
        (bytes(29), Reason.INVALID_ENVELOPE),
        (b"\x05" + bytes(29), Reason.UNSUPPORTED_VERSION),
        (bytes(MAX_ENVELOPE_BYTES + 1), Reason.INVALID_ENVELOPE),
    ],
)
def test_refuses_malformed_legacy_envelopes(data: Any, reason: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        LegacyEnvelope.parse(data)
    assert caught.value.reason == reason


def sealed(**changed: Any) -> bytes:
    values: dict[str, Any] = {
        "epoch": 1,
        "object_class": ObjectClass.CREDENTIALS,
        "salt": SALT,
        "commitment": COMMITMENT,
        "owner": OWNER,
        "service": SERVICE,
        "plaintext": b"hello",
    }
    return seal_envelope(Secret.copy_of(KEY), **(values | changed))


def refusal(data: bytes, *, commitment: bytes = COMMITMENT, held: Any = None, **changed: Any) -> Reason:
    values: dict[str, Any] = {"object_class": ObjectClass.CREDENTIALS, "owner": OWNER, "service": SERVICE}
    with pytest.raises(KeyServiceError) as caught:
        open_envelope(data, held=held, key_for=lambda _: (Secret.copy_of(KEY), commitment), **(values | changed))
    return caught.value.reason


def test_two_seals_of_one_plaintext_differ() -> None:
    assert sealed() != sealed()


def test_wipes_the_key_after_opening() -> None:
    key = Secret.copy_of(KEY)
    found = open_envelope(
        sealed(),
        object_class=ObjectClass.CREDENTIALS,
        owner=OWNER,
        service=SERVICE,
        held=None,
        key_for=lambda _: (key, COMMITMENT),
    )
    assert found == b"hello"
    assert key.wiped


def test_the_commitment_is_compared_though_the_tag_would_fit() -> None:
    assert refusal(sealed(), commitment=bytes(32)) == Reason.INVALID_ENVELOPE


def test_class_owner_and_service_come_from_the_request() -> None:
    assert refusal(sealed(), owner=bytes(32)) == Reason.INVALID_ENVELOPE
    assert refusal(sealed(), service=Service.parse("cred:other")) == Reason.INVALID_ENVELOPE
    assert refusal(sealed(), object_class=ObjectClass.MEMORY) == Reason.CLASS_MISMATCH


def test_asks_for_no_key_of_an_epoch_that_is_not_held() -> None:
    with pytest.raises(KeyServiceError) as caught:
        open_envelope(
            sealed(epoch=9),
            object_class=ObjectClass.CREDENTIALS,
            owner=OWNER,
            service=SERVICE,
            held=lambda epoch: epoch == 1,
            key_for=lambda _: pytest.fail("asked"),
        )
    assert caught.value.reason == Reason.EPOCH_NOT_HELD


@pytest.mark.parametrize("position", [*range(1, 98), -1])
def test_every_byte_is_authentic(position: Any) -> None:
    data = bytearray(sealed())
    data[position] ^= 1
    expected = Reason.CLASS_MISMATCH if position == 5 else Reason.INVALID_ENVELOPE
    assert refusal(bytes(data)) == expected


def test_refuses_what_no_envelope_holds() -> None:
    with pytest.raises(KeyServiceError) as caught:
        sealed(plaintext=bytes(MAX_ENVELOPE_BYTES))
    assert caught.value.reason == Reason.TOO_LARGE
    with pytest.raises(KeyServiceError) as caught:
        Envelope.parse(b"\x05" + bytes(MAX_ENVELOPE_BYTES))
    assert caught.value.reason == Reason.INVALID_ENVELOPE


def test_a_wiped_key_encrypts_nothing() -> None:
    key = Secret.copy_of(KEY)
    key.wipe()
    values: dict[str, Any] = {"epoch": 1, "object_class": ObjectClass.MEMORY, "salt": SALT, "commitment": COMMITMENT}
    with pytest.raises(ValueError, match="wiped"):
        seal_envelope(key, **values, owner=OWNER, service=SERVICE, plaintext=b"")


@pytest.fixture(scope="module")
def plaintext() -> ObjectPlaintext:
    return ObjectPlaintext(body=b"{}", row=AuditKey().row(envelope()))


def test_a_plaintext_reads_what_it_writes(plaintext: Any) -> None:
    assert ObjectPlaintext.parse(plaintext.encode()) == plaintext


@pytest.mark.parametrize("changed", [{"more": 1}, {"body": None}, {"body": "A"}, {"row": None}, {"row": {}}])
def test_refuses_other_plaintexts(plaintext: Any, changed: Any) -> None:
    data = canonical_json({**json.loads(plaintext.encode()), **changed})
    with pytest.raises(KeyServiceError) as caught:
        ObjectPlaintext.parse(data)
    assert caught.value.reason == Reason.INVALID_ENVELOPE


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff"])
def test_refuses_plaintexts_of_another_form(data: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        ObjectPlaintext.parse(data)
    assert caught.value.reason == Reason.INVALID_ENVELOPE


def test_refuses_a_plaintext_whose_row_is_of_another_version(plaintext: Any) -> None:
    document = json.loads(plaintext.encode())
    document["row"]["ver"] = 3
    with pytest.raises(KeyServiceError) as caught:
        ObjectPlaintext.parse(canonical_json(document))
    assert caught.value.reason == Reason.INVALID_ENVELOPE


def test_envelopes_are_values() -> None:
    found = Envelope.parse(sealed())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(found, "epoch", 2)  # noqa: B010  # typed code could not
