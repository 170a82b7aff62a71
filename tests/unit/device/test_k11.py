"""K11: the software authenticator, and what comes back from a browser."""

from collections.abc import Callable
from typing import Any

import pytest
from fido2 import cbor
from fido2.cose import RS256, CoseKey
from fido2.webauthn import AttestationObject, AuthenticatorData, CollectedClientData

from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.webauthn_check import verify_assertion
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11.browser import BrowserAuthenticator
from device.k11.ceremony import read_assertion, read_creation
from device.k11.port import K11Kind, K11Record
from device.k11.software import SOFTWARE_FILE, SoftwareAuthenticator
from device.keys import SignedDigest
from tests.unit.device.browser_key import CHALLENGE, Key


def invalid(call: Callable[..., object], *args: object, **words: object) -> None:
    with pytest.raises(KeyServiceError) as caught:
        call(*args, **words)
    assert caught.value.reason in (Reason.K11_INVALID, Reason.UNKNOWN_FIELDS)


# --- software -------------------------------------------------------------------------------------------------------


def test_software_assertions_pass_two_webauthn_libraries(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    made = SoftwareAuthenticator(home)
    record = made.create(home, device_key_hash=bytes(32))
    counts = []
    for _ in range(2):
        assertion = made.approve(record, *signed)
        counts.append(verify_assertion(assertion, challenge=signed[0].challenge, public=record.public))
        data = CollectedClientData(assertion.client_data_json)
        assert data.challenge == signed[0].challenge
        AuthenticatorData(assertion.authenticator_data)
        cose = CoseKey.parse({1: 2, 3: -7, -1: 1, -2: record.x, -3: record.y})
        cose.verify(assertion.authenticator_data + data.hash, assertion.signature)
    assert counts == [1, 2]
    assert record.kind is K11Kind.SOFTWARE
    assert b"DEVELOPMENT ONLY" in (home.path / SOFTWARE_FILE).read_bytes()


def test_software_key_is_made_once(home: Home) -> None:
    made = SoftwareAuthenticator(home)
    assert made.create(home, device_key_hash=bytes(32)) == made.create(home, device_key_hash=bytes(32))


def test_nothing_that_k10_did_not_sign_is_approved(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    from dataclasses import replace

    forged = replace(signed[0], digest=bytes(32), challenge=bytes(32))
    made = SoftwareAuthenticator(home)
    record = made.create(home, device_key_hash=bytes(32))
    opened: list[str] = []
    for authenticator in (made, BrowserAuthenticator(opened.append)):
        with pytest.raises(DeviceError) as caught:
            authenticator.approve(record, forged, signed[1])
        assert caught.value.reason is Trouble.INTERNAL
    assert not opened


def test_page_shows_only_what_was_signed(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    from dataclasses import replace

    record = SoftwareAuthenticator(home).create(home, device_key_hash=bytes(32))
    with pytest.raises(DeviceError) as caught:
        BrowserAuthenticator(lambda _: None).approve(record, signed[0], replace(signed[1], digest=bytes(32)))
    assert caught.value.reason is Trouble.INTERNAL


def test_lost_software_key_is_named(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    made = SoftwareAuthenticator(home)
    record = made.create(home, device_key_hash=bytes(32))
    home.remove(SOFTWARE_FILE)
    with pytest.raises(DeviceError) as caught:
        made.approve(record, *signed)
    assert caught.value.reason is Trouble.K11_MISSING


# --- what a browser answers -----------------------------------------------------------------------------------------


def test_reads_a_new_key_and_its_assertion() -> None:
    key = Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    numbers = key.private.public_key().public_numbers()
    assert (record.x, record.y) == (numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
    assertion = read_assertion(key.get(CHALLENGE), challenge=CHALLENGE, record=record)
    assert verify_assertion(assertion, challenge=CHALLENGE, public=record.public) == 2
    assert K11Record.parse(record.encode()) == record


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Key().create(bytes(32)),
        lambda: Key(origin="http://localhost:8723").create(CHALLENGE),
        lambda: Key(rp="example.org").create(CHALLENGE),
        lambda: Key().create(CHALLENGE, kind="webauthn.get"),
        lambda: Key().create(CHALLENGE, flags=0x01),
        lambda: Key().create(CHALLENGE, flags=0x04),
        lambda: Key().create(CHALLENGE, key=RS256({1: 3, 3: -257, -1: bytes(256), -2: b"\1\0\1"})),
        lambda: Key().create(CHALLENGE) | {"credential_id": "AAAA"},
        lambda: Key().create(CHALLENGE) | {"more": "AAAA"},
        lambda: Key().create(CHALLENGE) | {"attestation_object": b64u_encode(cbor.encode({"fmt": "none"}))},
        lambda: Key().create(CHALLENGE) | {"attestation_object": b64u_encode(b"\xff" * 40)},
        lambda: Key().create(CHALLENGE) | {"attestation_object": 1},
        list,
    ],
    ids=[
        "challenge",
        "origin",
        "rp",
        "type",
        "no uv",
        "no up",
        "rsa",
        "id",
        "unknown",
        "no data",
        "no cbor",
        "no text",
        "list",
    ],
)
def test_refuses_odd_creation(answer: Callable[[], object]) -> None:
    invalid(read_creation, answer(), challenge=CHALLENGE)


@pytest.mark.parametrize("cut", [40, 60, 75, 90])
def test_refuses_truncated_authenticator_data(cut: int) -> None:
    key = Key()
    whole = key.create(CHALLENGE)
    data = bytes(AttestationObject(b64u_decode(whole["attestation_object"])).auth_data)[:cut]
    broken = cbor.encode({"attStmt": {}, "authData": data, "fmt": "none"})
    invalid(read_creation, whole | {"attestation_object": b64u_encode(broken)}, challenge=CHALLENGE)


def test_refuses_bytes_behind_the_key() -> None:
    key = Key()
    whole = key.create(CHALLENGE)
    data = bytes(AttestationObject(b64u_decode(whole["attestation_object"])).auth_data) + b"\x00"
    broken = cbor.encode({"attStmt": {}, "authData": data, "fmt": "none"})
    invalid(read_creation, whole | {"attestation_object": b64u_encode(broken)}, challenge=CHALLENGE)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ({"challenge": bytes(32)}, {}),
        ({"flags": 0x01}, {}),
        ({"flags": 0x04}, {}),
        ({"kind": "webauthn.create"}, {}),
        ({"crossOrigin": True}, {}),
        ({"origin": "http://localhost:8723"}, {}),
        ({}, {"signature": "AAAA"}),
        ({}, {"credential_id": "AAAA"}),
        ({}, {"authenticator_data": "AAAA"}),
        ({}, {"client_data_json": "AAAA"}),
        ({}, {"more": "AAAA"}),
    ],
)
def test_refuses_odd_assertion(words: dict[str, Any], change: dict[str, str]) -> None:
    key = Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    answer = key.get(**({"challenge": CHALLENGE} | words)) | change
    invalid(read_assertion, answer, challenge=CHALLENGE, record=record)


def test_refuses_assertion_of_another_key() -> None:
    key, other = Key(), Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    invalid(read_assertion, other.get(CHALLENGE), challenge=CHALLENGE, record=record)
