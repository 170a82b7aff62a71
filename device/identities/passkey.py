"""First bind by a passkey of the broker's domain: its public key is the identity, and it signs the Enrol itself.

The broker asks for it on its own pages, since passkeys belong to a domain; K11 stays on this machine's page.
"""

import time
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, hex_encode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import PasskeyEvidence
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import IdentityType, identity_omni, passkey_value
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.shapes import boolean, integer
from device.enrol import Enrolment
from device.errors import DeviceError, Trouble
from device.home import Home
from device.identities.binding import attested, bound, change_members, signed_enrol, standing
from device.identities.ceremony import Asked, Invitation, Proving, fingerprint, forget_ceremony
from device.k11.ceremony import Expected, check_assertion
from device.k11.port import K11Kind
from device.session import Device
from device.setting_up import own_k11
from device.waiting import Pause

PASSKEY_FILE: Final = "passkey.json"
PASSKEY_PATH: Final = "/v1/identity/passkey"
_PAGE: Final = "/identity/passkey/"
_MAX_ID: Final = 1023  # WebAuthn, 4: what a credential id may have
_BAD: Final = Reason.INVALID_EVIDENCE
_VERSION: Final = 1
_LIMIT: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPasskey:
    """The public half of the person's passkey: x and y have 32 bytes, a point of P-256.

    `existing` says that it was shown rather than made.
    """

    credential_id: bytes
    x: bytes
    y: bytes
    existing: bool

    @property
    def identity(self) -> bytes:
        """The identity omni (32 bytes) that it proves."""
        return identity_omni(IdentityType.PASSKEY, passkey_value(self.x, self.y))

    def save(self, home: Home) -> None:
        """Keep it, in place of another one."""
        texts = {name: b64u_encode(getattr(self, name)) for name in ("credential_id", "x", "y")}
        home.write(PASSKEY_FILE, canonical_json({**texts, "existing": self.existing, "ver": _VERSION}))

    @classmethod
    def load(cls, home: Home) -> Self | None:
        """Return what the folder holds, None where there is nothing. Raises `bad_file` or `unsafe_file`."""
        data = home.read(PASSKEY_FILE)
        if data is None:
            return None
        try:
            names = ("credential_id", "existing", "ver", "x", "y")
            members = fields(parse_canonical(data, limit=_LIMIT, not_canonical=_BAD), required=names, reason=_BAD)
            integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
            public = {name: members[name] for name in ("credential_id", "x", "y")}
            return cls.told(public, existing=boolean(members["existing"], "existing", reason=_BAD))
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"{home.path / PASSKEY_FILE}: {exc}") from exc

    @classmethod
    def told(cls, obj: object, *, existing: bool) -> Self:
        """Read `{"credential_id","x","y"}`. Raises `invalid_evidence`, `invalid_encoding` or `unknown_fields`."""
        members = fields(obj, required=("credential_id", "x", "y"), reason=_BAD)
        named = b64u_decode(members["credential_id"], reason=_BAD)
        if not 0 < len(named) <= _MAX_ID:
            raise KeyServiceError(_BAD, "no credential id")
        x, y = (b64u_decode(members[name], length=32, reason=_BAD) for name in ("x", "y"))
        key = ES256PublicKey.from_xy(x, y)
        return cls(credential_id=named, x=key.x, y=key.y, existing=existing)


def bind_by_passkey(device: Device, *, existing: bool, kind: K11Kind, pause: Pause = time.sleep) -> Enrolment:
    """Enrol this device as the first master of whoever holds the passkey that is made, or with `existing` shown, now.

    Its public half is kept until the bind is done: a run that was interrupted goes on with the same passkey.

    Raises:
        DeviceError: `identity_not_offered`; `answer_not_trusted` for a passkey that is none, or evidence that this very
            passkey did not sign over this very Enrol; else as `Proving.confirmed`, `bound` and the authenticator.
        KeyServiceError: a refusal of the broker, the signer or the registry.
    """
    known = KnownPasskey.load(device.home)
    passkey = known if known is not None and known.existing is existing else None
    done = standing(device, IdentityType.PASSKEY, None if passkey is None else passkey.identity)
    if done is None:
        device.show.need_person()
        if passkey is not None:
            device.show.warn("Going on with the passkey of before. Is it gone? Then begin anew with another --home.")
        own_k11(device, kind)
        done = _bound_by(device, passkey or _learnt(device, existing=existing, pause=pause), pause)
    device.home.remove(PASSKEY_FILE)
    return done


def _learnt(device: Device, *, existing: bool, pause: Pause) -> KnownPasskey:
    """Have the person make a passkey, or show one, and keep its public half."""
    asked = Asked(path=PASSKEY_PATH, members={"action": "sign-in" if existing else "register"}, page=_PAGE, coded=False)
    shown, doing = fingerprint(device), "Show your passkey" if existing else "Make your passkey, which will name you"
    told = Proving(device, pause=pause).confirmed(
        asked, lambda asks: device.show.identity_page(doing, asks.page, shown)
    )
    try:
        passkey = KnownPasskey.told(told.passkey, existing=existing)
    except KeyServiceError as exc:
        forget_ceremony(device.home)
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells no passkey") from exc
    passkey.save(device.home)
    forget_ceremony(device.home)
    return passkey


def _bound_by(device: Device, passkey: KnownPasskey, pause: Pause) -> Enrolment:
    pending = signed_enrol(device, IdentityType.PASSKEY, passkey.identity)
    digest = pending.change.digest(device.profile.domain)
    members = {
        "action": "bind",
        "change": change_members(pending.change),
        "credential_id": b64u_encode(passkey.credential_id),
    }
    asked = Asked(path=PASSKEY_PATH, members=members, page=_PAGE)

    def prove(change: Enrol) -> bytes:
        return attested(device, change, _evidence(device, passkey, asked, digest, pause))

    try:
        return bound(device, pending, prove)
    except KeyServiceError as exc:
        if exc.reason is Reason.INVALID_BODY:  # the broker no longer knows it
            device.home.remove(PASSKEY_FILE)
        raise


def _evidence(device: Device, passkey: KnownPasskey, asked: Asked, digest: bytes, pause: Pause) -> PasskeyEvidence:
    """What the passkey signed, once it is seen to be this passkey's word on this digest (32 bytes)."""
    shown, doing = fingerprint(device), "Have your passkey sign the enrolment"

    def invite(asks: Invitation) -> None:
        device.show.identity_page(doing, asks.page, shown, asks.code, enrolment=hex_encode(digest))

    told = Proving(device, pause=pause).confirmed(asked, invite)
    host = urlsplit(device.profile.broker).hostname or ""
    expected = Expected(
        credential_id=passkey.credential_id,
        x=passkey.x,
        y=passkey.y,
        origin=device.profile.broker,
        rp_id_hash=sha256(host.encode()),
    )
    try:
        assertion = PasskeyEvidence.from_json(told.evidence).assertion
        check_assertion(assertion, challenge=digest, expected=expected)
    except KeyServiceError as exc:
        forget_ceremony(device.home)
        detail = "the broker's evidence is not this passkey's word on this Enrol"
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"{detail}: {exc.detail}") from exc
    return PasskeyEvidence(x=passkey.x, y=passkey.y, assertion=assertion)
