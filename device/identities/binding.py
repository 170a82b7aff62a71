"""What all first binds by an identity share: an Enrol for the wallet that it leads to, signed, attested and sent.

Each step is in the folder before the next one begins, so that init may be run again at any point: nothing is asked of
a person twice that still holds, and nothing is bound twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import ChangeSignatures, Enrol, SignedChange
from agentkeys_core.encoding import address_decode, b64u_decode, canonical_json, fields, hex_encode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import MAX_EVIDENCE_BYTES, BindEvidence
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import recover_address
from agentkeys_core.shapes import MAX_EPOCH, integer
from device.change_desk import approved
from device.enrol import MARGIN_S, Enrolment, finish, first_enrol, sent_before, serves_other
from device.errors import DeviceError, Trouble
from device.identities.ceremony import forget_ceremony
from device.identity import Identity, Part
from device.k11.port import K11Record
from device.pending_enrol import Pending
from device.problems import check_refusal
from device.registry import TIMEOUT_S
from device.session import Device
from device.waiting import TRY_AGAIN

ADDRESS_PATH: Final = "/v1/derive-address"
ATTEST_PATH: Final = "/v1/enrolments/attest"
_BAD: Final = Reason.INVALID_ENCODING

#: Has the initial wallet sign a pending Enrol, on the ground of what proves the identity; 65 bytes.
Prove = Callable[[Enrol], bytes]


def enrolled(device: Device) -> Enrolment | None:
    """Return the enrolment that this folder knows of. Raises `already_initialised` for an agent's folder."""
    known = Identity.load(device.home)
    if known is None:
        return None
    if known.part is not Part.MASTER:
        raise serves_other(device)
    return Enrolment(identity=known)


def standing(device: Device, by: IdentityType, identity: bytes | None = None) -> Enrolment | None:
    """Return the enrolment of a folder that has one, also one whose answer was lost; None where it is still to be made.

    `by` is what names whoever is to be bound, `identity` their omni (32 bytes), None where it is not known yet.

    Raises:
        DeviceError, KeyServiceError: as `enrolled` and `sent_before`.
    """
    done = enrolled(device) or sent_before(device, Pending.load(device.home), by, identity)
    if done is not None:
        forget_ceremony(device.home)
    return done


def signed_enrol(device: Device, by: IdentityType, identity: bytes) -> Pending:
    """Return an Enrol for this identity that K10 and K11 have signed, and that waits for its initial wallet.

    It is in the folder when this returns; one that is there already and still holds is taken.

    Raises:
        DeviceError: `answer_not_trusted`, `k11_missing`; else as `approved`.
        KeyServiceError: the broker's refusal to name the wallet.
    """
    wallet = _initial_wallet(device, identity)
    pending = Pending.load(device.home)
    if pending is not None and _holds(device, pending, identity, wallet):
        return pending
    record = K11Record.load(device.home)
    if record is None:
        raise DeviceError(Trouble.K11_MISSING, "run init from its beginning: it makes the keys that are bound")
    change = first_enrol(device, record.public, identity=identity, wallet=wallet.address, wallet_epoch=wallet.epoch)
    signed, k11 = approved(device, change, question="Sign this and send it?")
    signatures = ChangeSignatures(k10=signed.signature, k11=k11)
    pending = Pending(signed=SignedChange(change=change, signatures=signatures), by=by)
    pending.save(device.home)
    return pending


def bound(device: Device, pending: Pending, prove: Prove) -> Enrolment:
    """Have the initial wallet sign the Enrol, and send it; what was kept for it is gone afterwards.

    A final refusal ends the ceremony that led here, so that the next run begins another one.

    Raises:
        DeviceError: `answer_not_trusted` where what came back is not the initial wallet's signature over this Enrol;
            else as `send_change`.
        KeyServiceError: the signer's or the registry's refusal.
    """
    change = pending.change
    try:
        signature = prove(change)
    except KeyServiceError as exc:
        if exc.reason.code not in TRY_AGAIN:
            forget_ceremony(device.home)
        raise
    if recover_address(change.digest(device.profile.domain), signature) != change.wallet:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the initial wallet did not sign this Enrol")
    signed = pending.with_wallet(signature)
    signed.save(device.home)
    made = finish(device, signed)
    forget_ceremony(device.home)
    return made


def attested(device: Device, change: Enrol, evidence: BindEvidence) -> bytes:
    """Return the signature (65 bytes) that the signer gives against evidence which proves itself.

    Raises:
        DeviceError: `answer_not_trusted`, `unreachable`.
        KeyServiceError: the refusal.
    """
    proof = strict_json(evidence.encode(), limit=MAX_EVIDENCE_BYTES, reason=Reason.INVALID_EVIDENCE)
    body = canonical_json({"change": change_members(change), "evidence": proof})
    return signature_in(check_refusal(device.channel(None).post(ATTEST_PATH, body, timeout_s=TIMEOUT_S)).json())


def change_members(change: Enrol) -> dict[str, object]:
    """An Enrol as the broker's requests hold it."""
    return {"message": change.to_message(), "type": change.type}


def signature_in(answer: object) -> bytes:
    """The signature (65 bytes) in an answer; whose it is has yet to be checked. Raises `answer_not_trusted`."""
    try:
        return b64u_decode(fields(answer, required=("signature",), reason=_BAD)["signature"], length=65)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"no signature in the answer: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _InitialWallet:
    address: bytes
    epoch: int


def _initial_wallet(device: Device, identity: bytes) -> _InitialWallet:
    """What the broker tells; a lie costs the bind, since the signer computes both."""
    body = canonical_json({"omni": hex_encode(identity)})
    obj = check_refusal(device.channel(None).post(ADDRESS_PATH, body, timeout_s=TIMEOUT_S)).json()
    try:
        members = fields(obj, required=("address", "epoch"), reason=_BAD)
        epoch = integer(members["epoch"], "epoch", low=1, high=MAX_EPOCH, reason=_BAD)
        return _InitialWallet(address=address_decode(members["address"]), epoch=epoch)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"no address in the answer: {exc}") from exc


def _holds(device: Device, pending: Pending, identity: bytes, wallet: _InitialWallet) -> bool:
    """Whether an Enrol of before is for all of this, was not sent yet, and leaves time enough to be."""
    change = pending.change
    return (
        change.identity_omni == identity
        and (change.wallet, change.wallet_epoch) == (wallet.address, wallet.epoch)
        and change.device == device.k10.address
        and pending.signed.signatures.wallet is None
        and change.deadline > device.now() + MARGIN_S
    )
