"""What comes back from `navigator.credentials` or over USB: read strictly, checked against what was asked, and sent on.

Registry and signer check every assertion again with a WebAuthn library; these checks find a wrong key or page while the
person is still there.
"""

import hmac
import io
from dataclasses import dataclass
from typing import Final

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from agentkeys_core.encoding import b64u_decode, b64u_encode, fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH, K11Assertion
from agentkeys_core.keys import ES256PublicKey
from device.k11.port import K11Kind, K11Record

_BAD: Final = Reason.K11_INVALID
_USER_PRESENT, _USER_VERIFIED, _KEY_INCLUDED, _EXTENSIONS = 0x01, 0x04, 0x40, 0x80
_FLAGS_AT, _COUNTER_AT, _AAGUID_AT, _LENGTH_AT, _ID_AT = 32, 33, 37, 53, 55
_CLIENT_DATA_LIMIT: Final = 4096
_MAX_NESTING: Final = 8
# COSE key labels and values (RFC 9053): kty EC2, alg ES256, crv P-256, x, y.
_COSE_P256: Final = ((1, 2), (3, -7), (-1, 1))
_COSE_X, _COSE_Y = -2, -3


def _refuse(why: str) -> KeyServiceError:
    return KeyServiceError(_BAD, why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Whose assertion it must be: the credential, its key (x and y of 32 bytes), and where it is used.

    `rp_id_hash` has 32 bytes; `origin` is that of the page which asked.
    """

    credential_id: bytes
    x: bytes
    y: bytes
    origin: str
    rp_id_hash: bytes


def _check_client_data(data: bytes, *, kind: str, challenge: bytes, origin: str) -> None:
    members = strict_json(data, limit=_CLIENT_DATA_LIMIT, reason=_BAD)
    if not isinstance(members, dict) or members.get("type") != kind:
        raise _refuse("the answer is to another ceremony")
    if members.get("challenge") != b64u_encode(challenge):
        raise _refuse("the answer is to another challenge")
    if members.get("origin") != origin or members.get("crossOrigin", False) is not False:
        raise _refuse("the answer comes from another page")


def _check_flags(data: bytes, *, rp_id_hash: bytes = RP_ID_HASH) -> int:
    if len(data) < _AAGUID_AT or not hmac.compare_digest(data[:_FLAGS_AT], rp_id_hash):
        raise _refuse("the key is for another relying party")
    flags = data[_FLAGS_AT]
    if not flags & _USER_PRESENT or not flags & _USER_VERIFIED:
        raise _refuse("the authenticator did not verify its user; it needs a PIN, a fingerprint or the like")
    return flags


def _cbor_items(data: bytes, count: int) -> list[object]:
    """Return exactly `count` items and nothing behind them."""
    stream = io.BytesIO(data)
    try:
        decoder = cbor2.CBORDecoder(stream, max_depth=_MAX_NESTING, allow_duplicate_keys=False)
        items: list[object] = [decoder.decode() for _ in range(count)]
    except Exception as exc:
        raise _refuse("not CBOR") from exc
    if stream.tell() != len(data):
        raise _refuse("bytes behind the CBOR")
    return items


def read_creation(obj: object, *, challenge: bytes, kind: K11Kind = K11Kind.BROWSER) -> K11Record:
    """Return the public half of the key that was made for this challenge; `kind` is who was asked.

    Raises:
        KeyServiceError: `k11_invalid` or `unknown_fields` for an answer that is not a fresh, user-verified ES256
            key for `localhost`.
    """
    members = fields(obj, required=("attestation_object", "client_data_json", "credential_id"), reason=_BAD)
    parts = {name: b64u_decode(value, reason=_BAD) for name, value in members.items()}
    _check_client_data(parts["client_data_json"], kind="webauthn.create", challenge=challenge, origin=K11_ORIGIN)
    attestation = _cbor_items(parts["attestation_object"], 1)[0]
    data = attestation.get("authData") if isinstance(attestation, dict) else None
    if not isinstance(data, bytes):
        raise _refuse("no authenticator data")
    flags = _check_flags(data)
    if not flags & _KEY_INCLUDED or len(data) < _ID_AT:
        raise _refuse("no key in the answer")
    end = _ID_AT + int.from_bytes(data[_LENGTH_AT:_ID_AT], "big")
    if data[_ID_AT:end] != parts["credential_id"] or not parts["credential_id"]:
        raise _refuse("another credential")
    cose = _cbor_items(data[end:], 2 if flags & _EXTENSIONS else 1)[0]
    key = _p256(cose)
    return K11Record(kind=kind, credential_id=parts["credential_id"], x=key.x, y=key.y)


def _p256(cose: object) -> ES256PublicKey:
    if not isinstance(cose, dict) or any(cose.get(label) != value for label, value in _COSE_P256):
        raise _refuse("not an ES256 key")
    x, y = cose.get(_COSE_X), cose.get(_COSE_Y)
    if not isinstance(x, bytes) or not isinstance(y, bytes):
        raise _refuse("not an ES256 key")
    try:
        return ES256PublicKey.from_xy(x, y)
    except KeyServiceError as exc:
        raise _refuse("not a point of P-256") from exc


def read_assertion(obj: object, *, challenge: bytes, record: K11Record) -> K11Assertion:
    """Return the assertion, once the recorded key is proven to have signed this challenge with its user verified.

    Raises:
        KeyServiceError: `k11_invalid` or `unknown_fields`.
    """
    assertion = K11Assertion.parse(obj, malformed=_BAD, encoding=_BAD)
    expected = Expected(
        credential_id=record.credential_id,
        x=record.x,
        y=record.y,
        origin=K11_ORIGIN,
        rp_id_hash=RP_ID_HASH,
    )
    check_assertion(assertion, challenge=challenge, expected=expected)
    return assertion


def check_assertion(assertion: K11Assertion, *, challenge: bytes, expected: Expected) -> None:
    """Return once that key is proven to have signed this challenge (32 bytes), at that page, with its user verified.

    Raises:
        KeyServiceError: `k11_invalid`.
    """
    if not hmac.compare_digest(assertion.credential_id, expected.credential_id):
        raise _refuse("another credential")
    _check_client_data(assertion.client_data_json, kind="webauthn.get", challenge=challenge, origin=expected.origin)
    _check_flags(assertion.authenticator_data, rp_id_hash=expected.rp_id_hash)
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(expected.x, "big"), int.from_bytes(expected.y, "big"), ec.SECP256R1()
    )
    signed = assertion.authenticator_data + sha256(assertion.client_data_json)
    try:
        numbers.public_key().verify(assertion.signature, signed, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as exc:
        raise _refuse("not signed by that key") from exc
