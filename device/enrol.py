"""The first bind of a user with an own wallet: K10, K11 and the wallet sign one Enrol; done on the signed row."""

from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import ChangeSignatures, Enrol, K11OfDevice, SignedChange
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import IdentityType, operator_omni
from agentkeys_core.keys import DeviceKey, recover_address
from agentkeys_core.registry import ALL_ROLES, K11Public
from device.change_desk import Receipt, send_change, settled
from device.errors import DeviceError, Trouble
from device.home import Home
from device.identity import Identity, Part
from device.intent import change_intent
from device.k11.port import K11Kind
from device.lost_key import ENROL_FILE
from device.pending_enrol import Pending
from device.registry import lowest_incarnation
from device.session import Device
from device.setting_up import own_k11
from device.signed_in import SignedIn

#: The registry takes an hour at most; ten minutes of it are left for clocks that differ.
ENROL_LIFE_S: Final = 3000
#: An offer is made anew when less than this is left to sign it.
MARGIN_S: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """How far it is: `receipt` where this run has enrolled the device, `pending` while the wallet must sign.

    `signed_in` is the session that the wallet began at the broker afterwards; it has ended with what held its token.
    """

    identity: Identity | None
    pending: Pending | None = None
    receipt: Receipt | None = None
    signed_in: SignedIn | None = None


def enrol(
    device: Device, *, wallet: bytes | None, kind: K11Kind, wallet_signature: bytes | None, wallet_key: DeviceKey | None
) -> Enrolment:
    """Bring this device's enrolment one step further; may be run again at any point.

    Args:
        device: this machine's.
        kind: of the K11 to make where there is none.
        wallet: 20 address bytes; None to go on with the one that waits in the folder.
        wallet_signature: 65 bytes over the Enrol that was printed.
        wallet_key: signs it at once; for development.

    Raises:
        DeviceError: `already_initialised` for a folder of another wallet or of an agent;
            `wallet_signature_invalid`; otherwise as `send_change` and the authenticator.
        KeyServiceError: the registry's refusal.
    """
    pending = Pending.load(device.home)
    wallet = wallet or (pending.change.wallet if pending and _is_own(pending) else None)
    identity = Identity.load(device.home)
    if identity is not None:
        if identity.part is not Part.MASTER or (wallet is not None and identity.wallet != wallet):
            raise serves_other(device)
        return Enrolment(identity=identity)
    if wallet is None:
        raise DeviceError(
            Trouble.USAGE, "name the wallet: --wallet ADDRESS (or --wallet-key-file FILE for development)"
        )
    done = sent_before(device, pending, IdentityType.EVM, operator_omni(wallet))
    if done is not None:
        return done
    if pending is None or not _usable(device, pending, wallet):
        pending = offer(device, wallet, kind)
        pending.save(device.home)
    if wallet_key is not None:
        wallet_signature = wallet_key.sign_recoverable(pending.change.digest(device.profile.domain))
    if wallet_signature is None:
        return Enrolment(identity=None, pending=pending)
    return complete(device, pending, wallet_signature)


def waits_for_wallet(home: Home) -> bool:
    """Whether an Enrol was printed that a wallet elsewhere has yet to sign. Raises `bad_file` or `unsafe_file`."""
    pending = Pending.load(home)
    return pending is not None and _is_own(pending) and pending.signed.signatures.wallet is None


def sent_before(device: Device, pending: Pending | None, by: IdentityType, identity: bytes | None) -> Enrolment | None:
    """Finish an Enrol whose answer was lost, before anything else is begun: whoever got it may apply it at any time.

    A registry that knows it gives the same row again. None where nothing was sent, or where it was refused for good; it
    is forgotten then.

    Args:
        device: this machine's.
        pending: what waits in the folder.
        by: what names whoever is to be bound now.
        identity: omni (32 bytes) of who that is; None where it is not known yet.

    Raises:
        DeviceError: `already_initialised` where it was another identity's and went through; else as `settled`.
        KeyServiceError: the registry's refusal of an Enrol for this very identity; it is forgotten all the same.
    """
    if pending is None or pending.signed.signatures.wallet is None:
        return None
    found = settled(device, pending.signed)
    if isinstance(found, KeyServiceError):
        device.home.remove(ENROL_FILE)
        if identity == pending.change.identity_omni and found.reason is not Reason.CHANGE_NOT_AUTHORISED:
            raise found
        device.show.note(f"An Enrol that this folder had sent before is forgotten: it was refused ({found.reason}).")
        return None
    done = _enrolled(device, pending, found)
    device.show.note("An Enrol that this folder had sent before went through.")
    if pending.by is not by or identity not in (None, pending.change.identity_omni):
        raise serves_other(device)
    return done


def serves_other(device: Device) -> DeviceError:
    """The refusal of a folder that is somebody else's already."""
    detail = f"{device.home.path} serves something else already; use another --home"
    return DeviceError(Trouble.ALREADY_INITIALISED, detail)


def complete(device: Device, pending: Pending, wallet_signature: bytes) -> Enrolment:
    """Put the wallet's signature to the offer, keep it and send it.

    Raises:
        DeviceError: `wallet_signature_invalid`; else as `finish`.
        KeyServiceError: the registry's refusal.
    """
    if recover_address(pending.change.digest(device.profile.domain), wallet_signature) != pending.change.wallet:
        raise DeviceError(
            Trouble.WALLET_SIGNATURE_INVALID,
            "that is not the wallet's signature over this Enrol; run init again to see what to sign",
        )
    pending = pending.with_wallet(wallet_signature)
    pending.save(device.home)
    return finish(device, pending)


def _is_own(pending: Pending) -> bool:
    """Whether the wallet itself is the identity, and not one that the signer holds for it."""
    return pending.by is IdentityType.EVM


def _usable(device: Device, pending: Pending, wallet: bytes) -> bool:
    change = pending.change
    is_ours = change.wallet == wallet and change.device == device.k10.address
    return _is_own(pending) and is_ours and change.deadline > device.now() + MARGIN_S


def offer(device: Device, wallet: bytes, kind: K11Kind) -> Pending:
    """Compose the Enrol of an own wallet (20 address bytes) and have K10 and K11 sign it; nothing of it is kept.

    Raises:
        DeviceError, KeyServiceError: as `first_enrol` and the authenticator; `declined`.
    """
    operator = operator_omni(wallet)
    change = first_enrol(device, own_k11(device, kind).public, identity=operator, wallet=wallet, wallet_epoch=0)
    signed = device.k10.sign_change(change, device.profile.domain)
    intent = change_intent(change, signed.name)
    device.show.signing(intent)
    device.show.confirm("Sign this?")
    authenticator, record = device.k11()
    assertion = authenticator.approve(record, signed, intent)
    k11 = (K11OfDevice(device=device.k10.key_hash, assertion=assertion),)
    signatures = ChangeSignatures(k10=signed.signature, k11=k11)
    return Pending(signed=SignedChange(change=change, signatures=signatures), by=IdentityType.EVM)


def first_enrol(device: Device, k11: K11Public, *, identity: bytes, wallet: bytes, wallet_epoch: int) -> Enrol:
    """Compose the Enrol of this device for an identity omni (32 bytes) and its initial wallet (20 address bytes).

    Raises:
        DeviceError, KeyServiceError: as `lowest_incarnation`.
    """
    operator = operator_omni(wallet)
    return Enrol(
        identity_omni=identity,
        operator_omni=operator,
        wallet=wallet,
        wallet_epoch=wallet_epoch,
        device=device.k10.address,
        k11_cred_id=k11.credential_id_hash,
        k11_x=int.from_bytes(k11.x, "big"),
        k11_y=int.from_bytes(k11.y, "big"),
        k11_rp_id_hash=k11.rp_id_hash,
        k11_origin_hash=k11.origin_hash,
        roles=int(ALL_ROLES),
        incarnation=lowest_incarnation(device.routes, operator),
        nonce=0,
        deadline=device.now() + ENROL_LIFE_S,
    )


def finish(device: Device, pending: Pending) -> Enrolment:
    """Send an Enrol that everybody has signed; the folder is this operator's once the row came back.

    Raises:
        DeviceError, KeyServiceError: as `send_change`.
    """
    change = pending.change
    digest = change.digest(device.profile.domain)
    receipt = send_change(device, pending.signed.encode(), change, digest, everywhere=False)
    return _enrolled(device, pending, receipt)


def _enrolled(device: Device, pending: Pending, receipt: Receipt) -> Enrolment:
    """Make the folder this operator's."""
    change = pending.change
    identity = Identity(
        part=Part.MASTER,
        operator_omni=change.operator_omni,
        actor_omni=change.operator_omni,
        profile_hash=device.profile.hash(),
        wallet=change.wallet,
        registered=True,
    )
    identity.save(device.home)
    device.home.remove(ENROL_FILE)
    return Enrolment(identity=identity, receipt=receipt)
