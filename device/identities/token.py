"""First bind by an ID token: its nonce binds K10 and K11, and it may come from the broker's ceremony or from a file."""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import OidcEvidence
from agentkeys_core.ids import IdentityType, identity_omni, oidc_value
from agentkeys_core.mailbox import MAX_EMAIL_BYTES
from agentkeys_core.pairing import oidc_nonce
from device.enrol import Enrolment
from device.errors import DeviceError, Trouble
from device.identities.binding import attested, bound, enrolled, signed_enrol, standing
from device.identities.ceremony import Asked, Proving, fingerprint, forget_ceremony
from device.identities.providers import chosen_provider
from device.k11.port import K11Kind
from device.session import Device
from device.setting_up import own_k11
from device.waiting import TRY_AGAIN, Pause

BLIND_FILE: Final = "pending-oidc.json"
OIDC_PATH: Final = "/v1/identity/oidc"
MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_SUBJECT: Final = 255  # OpenID Connect Core, 2
_SEGMENTS: Final = 3
_BAD: Final = Reason.INVALID_EVIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWish:
    """What an ID token must say: the client that it is for, and the nonce that binds this device's keys.

    `issuer` is None where any may have signed it.
    """

    client_id: str
    nonce: str
    blind: bytes = field(repr=False)
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What an ID token says. The signer verifies it; here it only tells what would be bound."""

    issuer: str
    subject: str
    name: str

    @classmethod
    def of(cls, token: str, wish: TokenWish) -> Self:
        """Read a token. Raises `invalid_evidence` for one that is none, or that answers another wish."""
        parts = token.split(".")
        payload = b64u_decode(parts[1], reason=_BAD) if len(parts) == _SEGMENTS else b""
        claims = strict_json(payload, limit=MAX_TOKEN_BYTES, reason=_BAD)
        if not isinstance(claims, dict):
            raise KeyServiceError(_BAD, "that is no ID token")
        issuer, subject, nonce = (_text(claims, name) for name in ("iss", "sub", "nonce"))
        if not hmac.compare_digest(nonce.encode(errors="replace"), wish.nonce.encode()):
            raise KeyServiceError(_BAD, "the ID token has another nonce: it is not for this device's keys")
        if claims.get("aud") not in (wish.client_id, [wish.client_id]):
            raise KeyServiceError(_BAD, "the ID token is for another client")
        if wish.issuer not in (None, issuer):
            raise KeyServiceError(_BAD, "the ID token is another provider's")
        if len(subject) > MAX_SUBJECT:
            raise KeyServiceError(_BAD, "the ID token's subject is too long")
        email = claims.get("email")
        is_shown = isinstance(email, str) and 0 < len(email) <= MAX_EMAIL_BYTES
        return cls(issuer=issuer, subject=subject, name=str(email) if is_shown else subject)

    def identity(self, by: IdentityType) -> bytes:
        """The identity omni (32 bytes): by subject alone for Google, else by issuer and subject."""
        if by is IdentityType.OAUTH2_GOOGLE:
            return identity_omni(IdentityType.OAUTH2_GOOGLE, self.subject)
        return identity_omni(IdentityType.OIDC, oidc_value(self.issuer, self.subject))


def bind_at_provider(
    device: Device, *, issuer: str | None, by: IdentityType, kind: K11Kind, pause: Pause = time.sleep
) -> Enrolment:
    """Enrol this device as the first master of whoever signs in at a provider of the broker's, on the broker's pages.

    `issuer` is None where the broker's only provider is meant.

    Raises:
        DeviceError: `identity_not_offered`, `ambiguous`; `answer_not_trusted` for a token of another provider, client
            or nonce; else as `Proving.confirmed`, `bound` and the authenticator.
        KeyServiceError: a refusal of the broker, the signer or the registry.
    """
    done = standing(device, by)
    if done is not None:
        device.home.remove(BLIND_FILE)
        return done
    device.show.need_person()
    provider = chosen_provider(device, issuer)
    wish = wished_token(device, provider.client_id, kind, issuer=provider.issuer)
    asked = Asked(path=OIDC_PATH, members={"issuer": provider.issuer, "nonce": wish.nonce}, page="/identity/oidc/")
    shown, doing = fingerprint(device), f"Sign in at {provider.issuer}"
    told = Proving(device, pause=pause).confirmed(
        asked, lambda asks: device.show.identity_page(doing, asks.page, shown, asks.code)
    )
    try:
        claims = Claims.of(told.id_token, wish)
        identity = claims.identity(by)
    except KeyServiceError as exc:
        forget_ceremony(device.home)
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, exc.detail) from exc
    return _bound_by(device, by, identity, claims, OidcEvidence(id_token=told.id_token, blind=wish.blind))


def bind_by_token(
    device: Device, *, client_id: str, token: str | None, by: IdentityType, kind: K11Kind
) -> Enrolment | TokenWish:
    """Enrol this device as the first master of whoever an ID token names that was fetched without the broker's pages.

    Without a token it says what the token must carry.

    Raises:
        DeviceError: `bad_file` for something that is no ID token, or one for other keys or another client; else as
            `bound` and the authenticator.
        KeyServiceError: the signer's or the registry's refusal.
    """
    done = enrolled(device)
    if done is not None:
        return done
    wish = wished_token(device, client_id, kind)
    if token is None:
        return wish
    try:
        claims = Claims.of(token, wish)
        identity = claims.identity(by)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, exc.detail) from exc
    done = standing(device, by, identity)
    if done is None:
        return _bound_by(device, by, identity, claims, OidcEvidence(id_token=token, blind=wish.blind))
    device.home.remove(BLIND_FILE)
    return done


def wished_token(device: Device, client_id: str, kind: K11Kind, *, issuer: str | None = None) -> TokenWish:
    """Return the nonce to ask an issuer for. Its blind is made once and kept, so that a run again asks for the same.

    Raises as `own_k11`.
    """
    blind = _kept_blind(device)
    public = own_k11(device, kind).public
    nonce = oidc_nonce(
        device_address=device.k10.address,
        k11_cred_id=public.credential_id_hash,
        k11_x=public.x,
        k11_y=public.y,
        aud=client_id,
        blind=blind,
    )
    return TokenWish(client_id=client_id, nonce=nonce, blind=blind, issuer=issuer)


def _bound_by(device: Device, by: IdentityType, identity: bytes, claims: Claims, evidence: OidcEvidence) -> Enrolment:
    subject = "" if claims.name == claims.subject else f" (its subject {claims.subject})"
    # In every mode: whoever agrees to what follows agrees to be bound under this name.
    device.show.warn(f"{claims.issuer} says that you are {claims.name}{subject}.")
    pending = signed_enrol(device, by, identity)
    try:
        made = bound(device, pending, lambda change: attested(device, change, evidence))
    except KeyServiceError as exc:
        if exc.reason.code not in TRY_AGAIN:
            device.home.remove(BLIND_FILE)  # a nonce counts once: the next token must carry another
        raise
    device.home.remove(BLIND_FILE)
    return made


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise KeyServiceError(_BAD, f"the ID token has no {name}")
    return value


def _kept_blind(device: Device) -> bytes:
    with device.home.locked():
        data = device.home.read(BLIND_FILE)
        if data is None:
            blind = secrets.token_bytes(32)
            device.home.create(BLIND_FILE, canonical_json({"blind": b64u_encode(blind)}))
            return blind
    try:
        members = fields(parse_canonical(data, limit=1024, not_canonical=_BAD), required=("blind",), reason=_BAD)
        return b64u_decode(members["blind"], length=32, reason=_BAD)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{device.home.path / BLIND_FILE}: {exc}") from exc
