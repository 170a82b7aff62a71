"""Passkeys as identities: what a browser is asked on the broker's pages, and what of its answer is believed. No I/O.

Their relying party is the broker's own domain, and never `localhost`, which is K11's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import urlsplit

import cbor2
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_registration_response,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from agentkeys_core import k11
from agentkeys_core.encoding import b64u_decode, b64u_encode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import PasskeyEvidence
from agentkeys_core.ids import IdentityType, identity_omni, passkey_value
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.webauthn_check import verify_passkey
from broker.ports import Passkey

MAX_ANSWER: Final = 8192  # bytes
TIMEOUT_MS: Final = 300_000
_BAD: Final = Reason.INVALID_EVIDENCE
_ALGORITHMS: Final = [COSEAlgorithmIdentifier.ECDSA_SHA_256]
_USER_NAME: Final = "AgentKeys identity"
_COORDINATE_BYTES: Final = 32
_X, _Y = -2, -3  # COSE key labels (RFC 9053)
_COUNTER: Final = slice(33, 37)  # of authenticator data, behind the hash of the relying party and the flags


@dataclass(frozen=True, slots=True, kw_only=True)
class RelyingParty:
    """Whom passkeys are made for: `id` is the domain, `origin` the one origin whose pages may ask for them."""

    id: str
    origin: str

    @classmethod
    def of(cls, origin: str) -> Self | None:
        """The broker's relying party; None where its host is an address, or the name that belongs to K11."""
        host = urlsplit(origin).hostname or ""
        try:
            ip_address(host)
        except ValueError:
            return None if host == k11.RP_ID or host.endswith(f".{k11.RP_ID}") else cls(id=host, origin=origin)
        return None


def creation_options(party: RelyingParty, *, challenge: bytes, user: bytes) -> str:
    """JSON of what a browser is asked to make: a discoverable ES256 key that verifies its user."""
    made = generate_registration_options(
        rp_id=party.id,
        rp_name=f"AgentKeys at {party.id}",
        user_name=_USER_NAME,
        user_id=user,
        challenge=challenge,
        timeout=TIMEOUT_MS,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        supported_pub_key_algs=_ALGORITHMS,
    )
    return str(options_to_json(made))


def request_options(party: RelyingParty, *, challenge: bytes, credential_id: bytes | None) -> str:
    """JSON of what a browser is asked to sign, by that credential or by any of ours."""
    allowed = [] if credential_id is None else [PublicKeyCredentialDescriptor(id=credential_id)]
    made = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=TIMEOUT_MS,
        allow_credentials=allowed,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return str(options_to_json(made))


def registered(party: RelyingParty, answer: str, *, challenge: bytes, now: int) -> Passkey:
    """The passkey that an answer to `creation_options` registers.

    Raises:
        KeyServiceError: `invalid_evidence`, whatever is wrong.
    """
    members = _answer(answer)
    try:
        client_data = b64u_decode(_response(members)["clientDataJSON"], reason=_BAD)
        _check_client_data(client_data, challenge)
        made = verify_registration_response(
            credential=json.dumps(members),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            require_user_verification=True,
            supported_pub_key_algs=_ALGORITHMS,
        )
        key = cbor2.loads(made.credential_public_key)
        x, y = bytes(key[_X]), bytes(key[_Y])
    except KeyServiceError:
        raise
    except Exception as error:  # hostile bytes make the parsers raise almost anything: fail closed
        raise KeyServiceError(_BAD, f"registration: {type(error).__name__}") from error
    if len(x) != _COORDINATE_BYTES or len(y) != _COORDINATE_BYTES:
        raise KeyServiceError(_BAD, "not a P-256 key")
    return Passkey(credential_id=made.credential_id, x=x, y=y, sign_count=made.sign_count, created_at=now, used_at=now)


def assertion_of(answer: str) -> K11Assertion:
    """The assertion in an answer to `request_options`; nothing is verified. Raises `invalid_evidence`."""
    members = _answer(answer)
    response = _response(members)
    try:
        shaped = {
            "authenticator_data": response["authenticatorData"],
            "client_data_json": response["clientDataJSON"],
            "credential_id": members["rawId"],
            "signature": response["signature"],
        }
    except KeyError as error:
        raise KeyServiceError(_BAD, "a name is missing") from error
    return K11Assertion.parse(shaped, malformed=_BAD, encoding=_BAD)


def asserted(party: RelyingParty, assertion: K11Assertion, passkey: Passkey, *, challenge: bytes) -> int:
    """Return the counter of an assertion by this passkey over `challenge`, verified as the signer itself will.

    Raises:
        KeyServiceError: `invalid_evidence`, whatever is wrong.
    """
    if assertion.credential_id != passkey.credential_id:
        raise KeyServiceError(_BAD, "another passkey")
    verify_passkey(
        assertion, challenge=challenge, x=passkey.x, y=passkey.y, rp_id=party.id, origins=frozenset({party.origin})
    )
    return int.from_bytes(assertion.authenticator_data[_COUNTER], "big")


def identity_of(passkey: Passkey) -> bytes:
    """The identity omni (32 bytes) that this passkey proves."""
    return identity_omni(IdentityType.PASSKEY, passkey_value(passkey.x, passkey.y))


def evidence_of(passkey: Passkey, assertion: K11Assertion) -> bytes:
    """The evidence for a first bind, as the signer takes it (canonical JSON)."""
    return PasskeyEvidence(x=passkey.x, y=passkey.y, assertion=assertion).encode()


def _answer(answer: str) -> Mapping[str, object]:
    try:
        data = answer.encode()
    except UnicodeEncodeError as error:
        raise KeyServiceError(_BAD, "not text") from error
    members = strict_json(data, limit=MAX_ANSWER, reason=_BAD)
    if not isinstance(members, dict):
        raise KeyServiceError(_BAD, "the answer is no object")
    return members


def _response(members: Mapping[str, object]) -> Mapping[str, object]:
    response = members.get("response")
    if not isinstance(response, dict):
        raise KeyServiceError(_BAD, "the answer holds no response")
    return response


def _check_client_data(data: bytes, challenge: bytes) -> None:
    """Stricter than the library, which forgives padded challenges and repeated names, and ignores crossOrigin."""
    found = strict_json(data, limit=MAX_ANSWER, reason=_BAD)
    if not isinstance(found, dict) or found.get("type") != "webauthn.create":
        raise KeyServiceError(_BAD, "type")
    if found.get("challenge") != b64u_encode(challenge):
        raise KeyServiceError(_BAD, "challenge")
    if found.get("crossOrigin", False) is not False:
        raise KeyServiceError(_BAD, "crossOrigin")
