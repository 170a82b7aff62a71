"""Verification of WebAuthn assertions (design §6), with user presence and user verification.

K11 assertions are of `localhost`; passkeys, as evidence for a first bind, of the broker's domain.
"""

import hmac
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final

import cbor2
from webauthn import verify_authentication_response
from webauthn.helpers.structs import AuthenticationCredential, AuthenticatorAssertionResponse

from agentkeys_core.encoding import b64u_encode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import RP_ID, RP_ID_HASH, K11Assertion, credential_id_hash, origin_hash
from agentkeys_core.registry import K11Public

_BAD: Final = Reason.K11_INVALID
_CLIENT_DATA_LIMIT: Final = 4096
# COSE key labels and values (RFC 9053): kty EC2, alg ES256, crv P-256, x, y.
_KTY, _ALG, _CRV, _X, _Y = 1, 3, -1, -2, -3
_EC2, _ES256, _P256 = 2, -7, 1


def verify_assertion(assertion: K11Assertion, *, challenge: bytes, public: K11Public) -> int:
    """Return the authenticator's signature counter, once `assertion` is proven to approve `challenge` by `public`.

    Checked: credential id, origin and relying party as registered, `webauthn.get`, not from a cross-origin frame, the
    challenge in its one strict form, user presence, user verification, and the ES256 signature. A counter that fell is
    the caller's to warn about, never a refusal. `challenge` are 32 bytes: `cap_challenge` of a cap, or the EIP-712
    digest of a change.

    Raises:
        KeyServiceError: `k11_invalid`, whatever is wrong.
    """
    if not hmac.compare_digest(credential_id_hash(assertion.credential_id), public.credential_id_hash):
        raise KeyServiceError(_BAD, "another credential")
    if public.rp_id_hash != RP_ID_HASH:
        raise KeyServiceError(_BAD, "registered for another relying party")
    return _verify(
        assertion,
        challenge=challenge,
        rp_id=RP_ID,
        is_origin=lambda origin: hmac.compare_digest(origin_hash(origin), public.origin_hash),
        key=_cose_key(public.x, public.y),
    )


def verify_passkey(
    assertion: K11Assertion, *, challenge: bytes, x: bytes, y: bytes, rp_id: str, origins: AbstractSet[str]
) -> None:
    """Return once `assertion` is proven to approve `challenge` (32 bytes) by the P-256 key at `x`, `y` (32 bytes each).

    Checked as for K11, with a relying party and origins that the host configured. The credential id is not: nobody
    recorded one, and the key is the identity.

    Raises:
        KeyServiceError: `invalid_evidence`, whatever is wrong.
    """
    try:
        _verify(assertion, challenge=challenge, rp_id=rp_id, is_origin=origins.__contains__, key=_cose_key(x, y))
    except KeyServiceError as exc:
        raise KeyServiceError(Reason.INVALID_EVIDENCE, f"passkey: {exc.detail}") from exc


def _verify(
    assertion: K11Assertion, *, challenge: bytes, rp_id: str, is_origin: Callable[[str], bool], key: bytes
) -> int:
    """Return the counter of an assertion that is right in every point."""
    origin = _checked_origin(assertion.client_data_json, challenge, is_origin)
    credential = AuthenticationCredential(
        id=b64u_encode(assertion.credential_id),
        raw_id=assertion.credential_id,
        response=AuthenticatorAssertionResponse(
            client_data_json=assertion.client_data_json,
            authenticator_data=assertion.authenticator_data,
            signature=assertion.signature,
        ),
    )
    try:
        verified = verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=rp_id,
            expected_origin=origin,
            credential_public_key=key,
            credential_current_sign_count=0,  # no counter is below 0: counters warn, never refuse
            require_user_verification=True,
        )
    except Exception as exc:  # hostile bytes make the parsers raise almost anything: fail closed
        raise KeyServiceError(_BAD, "assertion") from exc
    return int(verified.new_sign_count)


def _checked_origin(client_data_json: bytes, challenge: bytes, is_origin: Callable[[str], bool]) -> str:
    """Return the origin text, once the client data says what it must.

    Stricter than the library, which forgives padded challenges and repeated names, and ignores crossOrigin.
    """
    try:
        client_data = strict_json(client_data_json, limit=_CLIENT_DATA_LIMIT, reason=_BAD)
    except KeyServiceError as exc:
        raise KeyServiceError(_BAD, "client data") from exc
    if not isinstance(client_data, dict):
        raise KeyServiceError(_BAD, "client data is no object")
    if client_data.get("type") != "webauthn.get":
        raise KeyServiceError(_BAD, "type")
    if client_data.get("challenge") != b64u_encode(challenge):
        raise KeyServiceError(_BAD, "challenge")
    if client_data.get("crossOrigin", False) is not False:
        raise KeyServiceError(_BAD, "crossOrigin")
    origin = client_data.get("origin")
    if not isinstance(origin, str) or not is_origin(origin):
        raise KeyServiceError(_BAD, "origin")
    return origin


def _cose_key(x: bytes, y: bytes) -> bytes:
    return cbor2.dumps({_KTY: _EC2, _ALG: _ES256, _CRV: _P256, _X: x, _Y: y})
