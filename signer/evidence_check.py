"""Whether evidence for a first bind is right, by what the host configured. Pure: keys and time are given."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import b64u_decode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import (
    MAX_EVIDENCE_BYTES,
    Assurance,
    BindEvidence,
    EmailEvidence,
    Evidence,
    OidcEvidence,
    PasskeyEvidence,
)
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import IdentityType, oidc_value, passkey_value
from agentkeys_core.pairing import oidc_nonce
from agentkeys_core.webauthn_check import verify_passkey
from signer.attesting import Finding
from signer.registry_effects import Attested

#: How old an ID token may be, and how much its issuer's clock may differ from ours, in seconds.
MAX_TOKEN_AGE_S: Final = 600
CLOCK_SKEW_S: Final = 60
MAX_SUBJECT: Final = 255
_BAD: Final = Reason.INVALID_EVIDENCE
_MARK_TAG: Final = b"agentkeys.evidence-mark.v1\0"
_SEGMENTS: Final = 3
_HIGH: Final = Assurance.HIGH

#: Verifies a compact JWS under a key that it names; returns the payload. Raises invalid_evidence.
VerifyToken = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedIssuer:
    """An issuer whose ID tokens count: its name, our client id there, and its keys.

    `kind` says how its subjects are named; `verify` checks a token's signature under the keys that the host pinned.
    """

    issuer: str
    client_id: str
    kind: IdentityType
    verify: VerifyToken


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyPolicy:
    """The relying party of users' passkeys (the broker's domain), and the origins of its pages."""

    rp_id: str
    origins: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePolicy:
    """Which evidence the host takes; what is not configured is refused."""

    issuers: Mapping[str, PinnedIssuer]
    passkey: PasskeyPolicy | None = None
    email: bool = False


def verifier(policy: EvidencePolicy) -> Callable[[BindEvidence, Enrol, bytes, int], Finding]:
    """The check of evidence under this policy; see `signer.attesting.Verify`."""

    def verify(evidence: BindEvidence, change: Enrol, digest: bytes, now: int) -> Finding:
        match evidence:
            case OidcEvidence():
                return _oidc(policy, evidence, change, now)
            case PasskeyEvidence():
                return _passkey(policy, evidence, digest)
            case EmailEvidence():
                return _email(policy, evidence)

    return verify


def _refuse(detail: str) -> KeyServiceError:
    return KeyServiceError(_BAD, detail)


def _oidc(policy: EvidencePolicy, evidence: OidcEvidence, change: Enrol, now: int) -> Finding:
    """An ID token of a pinned issuer for our client id, fresh, whose nonce binds the K10 and K11 of this Enrol."""
    claimed = _claims(_payload(evidence.id_token)).get("iss")
    issuer = policy.issuers.get(claimed) if isinstance(claimed, str) else None
    if issuer is None:
        raise _refuse("the token's issuer is not pinned here")
    claims = _claims(issuer.verify(evidence.id_token))
    if claims.get("iss") != issuer.issuer:
        raise _refuse("iss")
    if claims.get("aud") not in (issuer.client_id, [issuer.client_id]):
        raise _refuse("the token is for another client")
    issued_at = _check_times(claims, now)
    nonce = _text(claims, "nonce")
    public = change.k11
    expected = oidc_nonce(
        device_address=change.device,
        k11_cred_id=public.credential_id_hash,
        k11_x=public.x,
        k11_y=public.y,
        aud=issuer.client_id,
        blind=evidence.blind,
    )
    if not hmac.compare_digest(nonce.encode(errors="replace"), expected.encode()):
        raise _refuse("the token's nonce binds other keys")
    subject = _text(claims, "sub")
    if len(subject) > MAX_SUBJECT:
        raise _refuse("sub")
    value = subject if issuer.kind is IdentityType.OAUTH2_GOOGLE else oidc_value(issuer.issuer, subject)
    marks = [_mark(issuer.issuer, "nonce", nonce)]
    if "jti" in claims:
        marks.append(_mark(issuer.issuer, "jti", _text(claims, "jti")))
    return Finding(
        kind=issuer.kind,
        value=value,
        attested=Attested(evidence=Evidence.OIDC, assurance=_HIGH),
        marks=tuple(marks),
        keep_until=issued_at + MAX_TOKEN_AGE_S + CLOCK_SKEW_S,
    )


def _check_times(claims: Mapping[str, object], now: int) -> int:
    """Return `iat`, once the token is known to be of now: at most ten minutes old, and not expired."""
    issued_at, expires_at = _seconds(claims, "iat"), _seconds(claims, "exp")
    if not now - MAX_TOKEN_AGE_S <= issued_at <= now + CLOCK_SKEW_S:
        raise _refuse("the token is too old, or of the future")
    if expires_at <= now - CLOCK_SKEW_S:
        raise _refuse("the token has expired")
    if "nbf" in claims and _seconds(claims, "nbf") > now + CLOCK_SKEW_S:
        raise _refuse("the token is not yet valid")
    return issued_at


def _payload(token: str) -> bytes:
    """The payload of a compact JWS, of which nothing is believed yet but whose keys to ask."""
    parts = token.split(".")
    if len(parts) != _SEGMENTS:
        raise _refuse("not a compact JWS")
    _claims(b64u_decode(parts[0], reason=_BAD))  # a header that nests without end must not reach the library
    return b64u_decode(parts[1], reason=_BAD)


def _claims(payload: bytes) -> Mapping[str, object]:
    claims = strict_json(payload, limit=MAX_EVIDENCE_BYTES, reason=_BAD)
    if not isinstance(claims, dict):
        raise _refuse("the token holds no claims")
    return claims


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise _refuse(name)
    return value


def _seconds(claims: Mapping[str, object], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:
        raise _refuse(name)
    return value


def _mark(issuer: str, name: str, value: str) -> bytes:
    parts = (issuer, name, value)
    try:
        return sha256(_MARK_TAG + b"".join(sha256(part.encode()) for part in parts))
    except UnicodeEncodeError as exc:
        raise _refuse(name) from exc


def _passkey(policy: EvidencePolicy, evidence: PasskeyEvidence, digest: bytes) -> Finding:
    """An assertion over this very Enrol by the passkey whose public key is the identity."""
    if policy.passkey is None:
        raise _refuse("passkeys are not taken here")
    verify_passkey(
        evidence.assertion,
        challenge=digest,
        x=evidence.x,
        y=evidence.y,
        rp_id=policy.passkey.rp_id,
        origins=policy.passkey.origins,
    )
    attested = Attested(evidence=Evidence.PASSKEY, assurance=_HIGH)
    return Finding(kind=IdentityType.PASSKEY, value=passkey_value(evidence.x, evidence.y), attested=attested)


def _email(policy: EvidencePolicy, evidence: EmailEvidence) -> Finding:
    """The broker's word, which nothing here can check: marked low."""
    if not policy.email:
        raise _refuse("e-mail is not taken here")
    attested = Attested(evidence=Evidence.EMAIL, assurance=Assurance.LOW)
    return Finding(kind=IdentityType.EMAIL, value=evidence.address, attested=attested)
