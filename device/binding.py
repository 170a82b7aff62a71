"""A first bind of an identity that is no wallet: composed here, proven by evidence, signed by its initial wallet."""

import secrets
from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import ChangeSignatures, Enrol, SignedChange
from agentkeys_core.encoding import (
    address_decode,
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_encode,
    parse_canonical,
    strict_json,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import BindEvidence, OidcEvidence
from agentkeys_core.ids import IdentityType, identity_omni, oidc_value, operator_omni
from agentkeys_core.keys import recover_address
from agentkeys_core.pairing import oidc_nonce
from agentkeys_core.registry import ALL_ROLES
from agentkeys_core.shapes import MAX_EPOCH, integer
from device.change_desk import approved
from device.enrol import ENROL_LIFE_S, Enrolment, Pending, finish, sent_before
from device.errors import DeviceError, Trouble
from device.identity import Identity
from device.k11.port import K11Kind, K11Record
from device.problems import check_refusal
from device.registry import TIMEOUT_S, lowest_incarnation
from device.session import Device
from device.setting_up import own_k11

BLIND_FILE: Final = "pending-oidc.json"
ADDRESS_PATH: Final = "/v1/derive-address"
ATTEST_PATH: Final = "/v1/enrolments/attest"
MAX_TOKEN_BYTES: Final = 16 * 1024
_SEGMENTS: Final = 3
_BAD: Final = Reason.INVALID_EVIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWish:
    """What an ID token must say: the client that it is for, and the nonce that binds this device's keys."""

    client_id: str
    nonce: str
    blind: bytes


def wished_token(device: Device, client_id: str, kind: K11Kind) -> TokenWish:
    """Return the nonce to ask an issuer for; the blind that belongs to it is made once and kept.

    Raises:
        DeviceError: `already_initialised` for a folder that is enrolled; else as the authenticator.
    """
    if Identity.load(device.home) is not None:
        raise DeviceError(Trouble.ALREADY_INITIALISED, f"{device.home.path} is enrolled already; use another --home")
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
    return TokenWish(client_id=client_id, nonce=nonce, blind=blind)


def bind_by_token(device: Device, wish: TokenWish, token: str, *, google: bool) -> Enrolment:
    """Enrol this device as the first master of whoever the ID token names.

    Raises:
        DeviceError: `bad_file` for something that is no ID token; `wallet_signature_invalid` where what came back is
            not the initial wallet's signature over this Enrol; else as `send_change` and the authenticator.
        KeyServiceError: the signer's or the registry's refusal.
    """
    issuer, subject = _names(token)
    kind, value = (IdentityType.OAUTH2_GOOGLE, subject) if google else (IdentityType.OIDC, oidc_value(issuer, subject))
    identity = identity_omni(kind, value)
    evidence = OidcEvidence(id_token=token, blind=wish.blind)
    record = K11Record.load(device.home)
    if record is None:
        raise DeviceError(Trouble.K11_MISSING, "run init without the token first: it makes the keys that it binds")
    pending = Pending.load(device.home)
    done = None if pending is None else sent_before(device, pending, pending.change.wallet)
    made = done or _bind(device, identity, record, evidence)
    device.home.remove(BLIND_FILE)
    return made


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


def _names(token: str) -> tuple[str, str]:
    """Issuer and subject as the token says; the signer verifies it, here it only says which wallet to ask for."""
    try:
        parts = token.split(".")
        payload = b64u_decode(parts[1], reason=_BAD) if len(parts) == _SEGMENTS else b""
        claims = strict_json(payload, limit=MAX_TOKEN_BYTES, reason=_BAD)
        issuer, subject = (claims.get(name) if isinstance(claims, dict) else None for name in ("iss", "sub"))
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, "that is no ID token") from exc
    if not isinstance(issuer, str) or not isinstance(subject, str):
        raise DeviceError(Trouble.BAD_FILE, "the ID token names no issuer or subject")
    return issuer, subject


def _bind(device: Device, identity: bytes, record: K11Record, evidence: BindEvidence) -> Enrolment:
    wallet, epoch = _initial_wallet(device, identity)
    operator, public = operator_omni(wallet), record.public
    change = Enrol(
        identity_omni=identity,
        operator_omni=operator,
        wallet=wallet,
        wallet_epoch=epoch,
        device=device.k10.address,
        k11_cred_id=public.credential_id_hash,
        k11_x=int.from_bytes(public.x, "big"),
        k11_y=int.from_bytes(public.y, "big"),
        k11_rp_id_hash=public.rp_id_hash,
        k11_origin_hash=public.origin_hash,
        roles=int(ALL_ROLES),
        incarnation=lowest_incarnation(device.routes, operator),
        nonce=0,
        deadline=device.now() + ENROL_LIFE_S,
    )
    signed, k11 = approved(device, change, question="Sign this and send it?")
    signature = _attested(device, change, evidence)
    if recover_address(signed.digest, signature) != wallet:
        raise DeviceError(Trouble.WALLET_SIGNATURE_INVALID, "the initial wallet did not sign this Enrol")
    signatures = ChangeSignatures(k10=signed.signature, k11=k11, wallet=signature)
    pending = Pending(signed=SignedChange(change=change, signatures=signatures))
    pending.save(device.home)
    return finish(device, pending)


def _initial_wallet(device: Device, identity: bytes) -> tuple[bytes, int]:
    """The address and epoch that the broker tells; a lie costs the bind, since the signer computes both."""
    body = canonical_json({"omni": hex_encode(identity)})
    obj = check_refusal(device.channel(None).post(ADDRESS_PATH, body, timeout_s=TIMEOUT_S)).json()
    try:
        members = fields(obj, required=("address", "epoch"), reason=Reason.INVALID_ENCODING)
        epoch = integer(members["epoch"], "epoch", low=1, high=MAX_EPOCH, reason=Reason.INVALID_ENCODING)
        return address_decode(members["address"]), epoch
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"no address in the answer: {exc}") from exc


def _attested(device: Device, change: Enrol, evidence: BindEvidence) -> bytes:
    proof = strict_json(evidence.encode(), limit=2 * MAX_TOKEN_BYTES, reason=_BAD)
    body = canonical_json({"change": {"message": change.to_message(), "type": change.type}, "evidence": proof})
    obj = check_refusal(device.channel(None).post(ATTEST_PATH, body, timeout_s=TIMEOUT_S)).json()
    try:
        members = fields(obj, required=("signature",), reason=Reason.INVALID_ENCODING)
        return b64u_decode(members["signature"], length=65)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"no signature in the answer: {exc}") from exc
