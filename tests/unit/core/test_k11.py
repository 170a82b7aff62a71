import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import utils

from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import (
    K11_ORIGIN,
    RP_ID_HASH,
    SOFTWARE_ORIGIN,
    K11Assertion,
    cap_challenge,
    credential_id_hash,
    origin_hash,
)
from agentkeys_core.registry import K11Public
from agentkeys_core.webauthn_check import verify_assertion
from tests.unit.core.material import SoftwareK11
from tests.unit.core.vectors import cases

CHALLENGE = bytes(range(32))


@pytest.fixture(scope="module")
def key() -> SoftwareK11:
    return SoftwareK11()


def refused(assertion: K11Assertion, public: K11Public, challenge: bytes = CHALLENGE) -> None:
    with pytest.raises(KeyServiceError) as caught:
        verify_assertion(assertion, challenge=challenge, public=public)
    assert caught.value.reason == Reason.K11_INVALID


def public_of(given: dict[str, Any], **changed: bytes) -> K11Public:
    members = {
        "credential_id_hash": bytes.fromhex(given["k11CredId"]),
        "x": bytes.fromhex(given["x"]),
        "y": bytes.fromhex(given["y"]),
        "rp_id_hash": RP_ID_HASH,
        "origin_hash": origin_hash(given["origin"]),
    }
    return K11Public(**(members | changed))


@pytest.mark.parametrize(("given", "expect"), cases("k11_assertion"))
def test_vectors_of_assertions(given: Any, expect: Any) -> None:
    challenge = (
        cap_challenge(bytes.fromhex(given["cap_digest"]))
        if "cap_digest" in given
        else bytes.fromhex(given["change_digest"])
    )
    assertion = K11Assertion.parse(json.loads(expect["k11_canonical"]))
    public = public_of({**expect, "origin": given["k11"]["origin"]})
    assert challenge.hex() == expect["challenge"]
    assert assertion.canonical().decode() == expect["k11_canonical"]
    assert hashlib.sha256(assertion.canonical()).hexdigest() == expect["k11_sha256"]
    assert assertion.client_data_json.decode() == expect["client_data_json"]
    assert credential_id_hash(assertion.credential_id).hex() == expect["k11CredId"]
    assert origin_hash(given["k11"]["origin"]).hex() == expect["k11OriginHash"]
    assert RP_ID_HASH.hex() == expect["k11RpIdHash"]
    assert verify_assertion(assertion, challenge=challenge, public=public) == given["k11"]["sign_count"]


@pytest.mark.parametrize(("given", "expect"), cases("negative", "k11"))
def test_vectors_of_refused_assertions(given: Any, expect: Any) -> None:
    assertion, challenge = K11Assertion.parse(given["k11"]), bytes.fromhex(given["challenge"])
    if expect["reason"] == "ok":
        assert verify_assertion(assertion, challenge=challenge, public=public_of(given)) == 1
    else:
        refused(assertion, public_of(given), challenge)


def test_accepts_an_assertion_without_cross_origin(key: Any) -> None:
    data = json.loads(key.client_data(CHALLENGE))
    del data["crossOrigin"]
    assert (
        verify_assertion(
            key.answer(CHALLENGE, client_data=json.dumps(data).encode()), challenge=CHALLENGE, public=key.public
        )
        == 1
    )


def test_accepts_the_software_origin_where_it_was_registered() -> None:
    key = SoftwareK11(origin=SOFTWARE_ORIGIN)
    assert verify_assertion(key.answer(CHALLENGE), challenge=CHALLENGE, public=key.public) == 1


@pytest.mark.parametrize("count", [0, 1, 2**32 - 1])
def test_counters_never_refuse(key: Any, count: Any) -> None:
    assert verify_assertion(key.answer(CHALLENGE, count=count), challenge=CHALLENGE, public=key.public) == count


@pytest.mark.parametrize("cross_origin", [True, "false", 0, None, []])
def test_refuses_any_cross_origin_but_false(key: Any, cross_origin: Any) -> None:
    refused(key.answer(CHALLENGE, client_data=key.client_data(CHALLENGE, crossOrigin=cross_origin)), key.public)


@pytest.mark.parametrize("type_", ["webauthn.create", "payment.get", None, 1])
def test_refuses_other_types(key: Any, type_: Any) -> None:
    refused(key.answer(CHALLENGE, client_data=key.client_data(CHALLENGE, type=type_)), key.public)


def test_refuses_a_padded_challenge(key: Any) -> None:
    data = json.loads(key.client_data(CHALLENGE))
    data["challenge"] += "="
    refused(key.answer(CHALLENGE, client_data=json.dumps(data).encode()), key.public)


def test_refuses_another_challenge(key: Any) -> None:
    refused(key.answer(bytes(32)), key.public)


@pytest.mark.parametrize("origin", ["http://localhost:8723", "https://localhost:8722", "http://localhost", "", None, 7])
def test_refuses_other_origins(key: Any, origin: Any) -> None:
    refused(key.answer(CHALLENGE, client_data=key.client_data(CHALLENGE, origin=origin)), key.public)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"\xff", b"{", b"\xef\xbb\xbf{}"])
def test_refuses_client_data_that_is_no_object(key: Any, data: Any) -> None:
    refused(key.answer(CHALLENGE, client_data=data), key.public)


def test_refuses_an_origin_that_stands_twice(key: Any) -> None:
    data = key.client_data(CHALLENGE).replace(b'{"type"', b'{"origin": "http://evil.example", "type"')
    assert b"evil" in data
    refused(key.answer(CHALLENGE, client_data=data), key.public)


@pytest.mark.parametrize("flags", [0x00, 0x01, 0x04, 0x10 | 0x05])
def test_refuses_without_presence_and_verification_or_with_impossible_flags(key: Any, flags: Any) -> None:
    refused(key.answer(CHALLENGE, flags=flags), key.public)


def test_refuses_another_relying_party(key: Any) -> None:
    refused(key.answer(CHALLENGE, rp_id_hash=hashlib.sha256(b"broker.example").digest()), key.public)


def test_refuses_a_key_registered_for_another_relying_party(key: Any) -> None:
    foreign = hashlib.sha256(b"broker.example").digest()
    members = {
        "rp_id_hash": foreign,
        "credential_id_hash": key.public.credential_id_hash,
        "origin_hash": key.public.origin_hash,
    }
    refused(key.answer(CHALLENGE), K11Public(x=key.public.x, y=key.public.y, **members))


def test_refuses_another_credential_id(key: Any) -> None:
    refused(key.answer(CHALLENGE, credential_id=b"credential-2"), key.public)


def test_refuses_another_key(key: Any) -> None:
    other = SoftwareK11()
    refused(other.answer(CHALLENGE), key.public)


def test_refuses_a_signature_of_r_and_s(key: Any) -> None:
    good = key.answer(CHALLENGE)
    r, s = utils.decode_dss_signature(good.signature)
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    refused(
        K11Assertion(
            authenticator_data=good.authenticator_data,
            client_data_json=good.client_data_json,
            credential_id=good.credential_id,
            signature=raw,
        ),
        key.public,
    )


def test_refuses_a_registered_point_off_the_curve(key: Any) -> None:
    members = {name: getattr(key.public, name) for name in ("credential_id_hash", "rp_id_hash", "origin_hash")}
    refused(key.answer(CHALLENGE), K11Public(x=bytes(32), y=bytes(32), **members))


def test_the_page_has_one_documented_origin() -> None:
    assert K11_ORIGIN == "http://localhost:8722"


GOOD = {"authenticator_data": "AA", "client_data_json": "AA", "credential_id": "AA", "signature": "AA"}


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (None, Reason.INVALID_CAP),
        ([], Reason.INVALID_CAP),
        ({}, Reason.INVALID_CAP),
        ({**GOOD, "user_handle": "AA"}, Reason.UNKNOWN_FIELDS),
        ({**GOOD, "signature": None}, Reason.INVALID_CAP),
        ({**GOOD, "signature": "AA=="}, Reason.INVALID_ENCODING),
        ({**GOOD, "signature": "AB"}, Reason.INVALID_ENCODING),
        ({**GOOD, "signature": "A" * 344}, Reason.INVALID_ENCODING),
        ({**GOOD, "credential_id": "A" * 1368}, Reason.INVALID_ENCODING),
    ],
)
def test_refuses_malformed_objects(obj: Any, reason: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        K11Assertion.parse(obj)
    assert caught.value.reason == reason


def test_names_the_reasons_that_its_caller_asks_for() -> None:
    with pytest.raises(KeyServiceError) as caught:
        K11Assertion.parse({**GOOD, "signature": "="}, malformed=Reason.INVALID_CHANGE, encoding=Reason.INVALID_CHANGE)
    assert caught.value.reason == Reason.INVALID_CHANGE


def test_reads_what_it_writes(key: Any) -> None:
    assertion = key.answer(CHALLENGE)
    assert K11Assertion.parse(assertion.encode()) == assertion
    assert b64u_decode(assertion.encode()["signature"]) == assertion.signature
