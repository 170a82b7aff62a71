"""A master's new K10: signed by the old one, or asked for without it and in force after 72 hours.

Nobody's mere word makes this folder part with a key (docs/adr/0041). The new key and the signed RotateKey are in the
folder before anything is sent, a later run sends that very change again, and the new key takes the old one's place only
on the registry's signed row of it.
"""

from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import ChangeSignatures, K11OfDevice, RotateKey, SignedChange
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import device_key_hash
from agentkeys_core.keys import recover_address
from agentkeys_core.registry import OperatorState
from device.change_desk import CHANGE_LIFE_S, Receipt, settled, views_of
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import change_intent, moment
from device.keys import K10, K10_FILE
from device.registry import same_view
from device.rotation_standing import Standing, Told, told_of
from device.session import Device

NEXT_FILE: Final = "k10-next.json"
OLD_FILE: Final = "k10-old.json"
PENDING_FILE: Final = "pending-rotation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A RotateKey that the registry has, and the key hash (32 bytes) of its new key.

    `due_at` (Unix seconds) where that key has yet to come into force. `old_kept`: the old key is still in the folder,
    since one part did not tell that the new one is in force.
    """

    receipt: Receipt
    device: bytes
    due_at: int | None = None
    old_kept: bool = False


def rotate(device: Device) -> Rotation:
    """Replace this master's K10 by a new one; may be run again at any point, and finishes what was begun before.

    Raises:
        DeviceError: `rotation_not_in_force` where the registry has the change, and yet the new key does not count: the
            old one stays; else as `told_of`, `views_of` and the authenticator.
        KeyServiceError: the registry's refusal.
    """
    earlier = _finished(device)
    if earlier is not None:
        return earlier
    state = _state(device)
    new = K10.load_or_make(device.home, NEXT_FILE)
    return _asked(device, _change(device, state, device.k10.key_hash, new), k10=device.k10, new=new)


def ask_without_old_key(device: Device, old: bytes) -> Rotation:
    """Ask for this folder's K10 in the place of a lost one (its key hash), whose K11 is still at hand.

    What was begun here before is finished instead: after a lost answer the 72 hours go on from the first time.

    Raises:
        DeviceError: `usage` where the lost key is this very folder's; else as `rotate`.
        KeyServiceError: the registry's refusal.
    """
    if device.k10.key_hash == old:
        raise DeviceError(Trouble.USAGE, "that key is here, not lost; run it without --lost")
    earlier = _finished(device)
    if earlier is not None:
        return earlier
    return _asked(device, _change(device, _state(device), old, device.k10), k10=device.k10, new=device.k10)


def _finished(device: Device) -> Rotation | None:
    """Finish what an earlier run has sent. None where there is nothing, or nothing that can still come of it."""
    signed = _kept(device.home)
    if signed is None:
        return None
    found = settled(device, signed)
    if isinstance(found, KeyServiceError):
        why = f"was refused for good ({found.reason})"
    else:
        told = told_of(device, _rotation_in(signed))
        if told.standing is not Standing.ABSENT:
            return _concluded(device, signed, found, told)
        why = "is no longer in the registry: a freeze cancels one that waits"
    device.home.remove(PENDING_FILE)
    device.show.note(f"The rotation that was sent before {why}. It is made anew, for the same new key.")
    return None


def _state(device: Device) -> OperatorState:
    views = views_of(device, device.identity().operator_omni)
    if not same_view(views):
        raise DeviceError(Trouble.REGISTRY_VIEWS_DIFFER, "broker and worker tell different states; try again")
    return views[0].state


def _change(device: Device, state: OperatorState, old: bytes, new: K10) -> RotateKey:
    return RotateKey(
        operator_omni=state.operator_omni,
        old_device_key_hash=old,
        new_device=new.address,
        incarnation=state.incarnation,
        nonce=state.nonce,
        deadline=device.now() + CHANGE_LIFE_S,
    )


def _asked(device: Device, change: RotateKey, *, k10: K10, new: K10) -> Rotation:
    """Show the change, have both keys sign it and K11 of the old device approve it, keep it, and send it."""
    signed = k10.sign_change(change, device.profile.domain)
    intent = change_intent(change, signed.name)
    device.show.signing(intent)
    device.show.confirm("Sign this and send it?")
    authenticator, record = device.k11()
    assertion = authenticator.approve(record, signed, intent)
    signatures = ChangeSignatures(
        k10=signed.signature,
        k11=(K11OfDevice(device=change.old_device_key_hash, assertion=assertion),),
        new_device=new.sign_change(change, device.profile.domain).signature,
    )
    kept = SignedChange(change=change, signatures=signatures)
    device.home.create(PENDING_FILE, kept.encode())
    found = settled(device, kept)
    if isinstance(found, KeyServiceError):
        device.home.remove(PENDING_FILE)
        raise found
    return _concluded(device, kept, found, told_of(device, change))


def _concluded(device: Device, signed: SignedChange, receipt: Receipt, told: Told) -> Rotation:
    """Do what follows for this folder from where a rotation stands.

    Raises:
        DeviceError: `rotation_not_in_force`; every file stays as it was.
    """
    new = device_key_hash(_rotation_in(signed).new_device)
    match told.standing:
        case Standing.IN_FORCE:
            old_kept = _take_over(device.home, new, forget_old=told.unanimous)
            if old_kept:
                device.show.warn(
                    f"The old key stays in {device.home.path / OLD_FILE}, since one part does not tell that the new one"
                    " is in force. The next rotation removes it."
                )
            return Rotation(receipt=receipt, device=new, old_kept=old_kept)
        case Standing.WAITS if _is_without_old_key(device, signed):
            device.home.remove(PENDING_FILE)
            return Rotation(receipt=receipt, device=new, due_at=told.due_at)
        case Standing.WAITS:
            why = (
                "the old key's signature was taken out on its way, so the new key waits until"
                f" {moment(told.due_at or 0)}; the old one counts until then. To end that: agentkeys freeze, then"
                " agentkeys unfreeze, then run this again"
            )
        case Standing.REVOKED:
            why = "the new key was revoked since; another master can let this machine in again, with another --home"
        case Standing.ABSENT:
            why = "broker and workers do not know the new key; run this again"
    raise DeviceError(Trouble.ROTATION_NOT_IN_FORCE, why)


def _take_over(home: Home, new: bytes, *, forget_old: bool) -> bool:
    """Put the new key (its hash) into the old one's place; the rotation is done. Whether the old key is still there.

    Whole at every moment, and repeatable: one of the two keys is in K10's own file all along, and the old one in
    another before it leaves it.

    Raises:
        DeviceError: `bad_file` where the new key is gone.
    """
    with home.locked():
        now, coming = K10.load(home), K10.load(home, NEXT_FILE)
        is_coming = coming is not None and coming.key_hash == new
        if now is None or now.key_hash != new:
            if not is_coming:
                raise DeviceError(Trouble.BAD_FILE, f"{home.path / NEXT_FILE} does not hold the new key")
            _copy(home, K10_FILE, OLD_FILE)
            _copy(home, NEXT_FILE, K10_FILE)
        if is_coming:
            home.remove(NEXT_FILE)
        if forget_old:
            home.remove(OLD_FILE)
        home.remove(PENDING_FILE)
        return home.read(OLD_FILE) is not None


def _copy(home: Home, source: str, target: str) -> None:
    data = home.read(source)
    if data is not None:
        home.write(target, data)


def _kept(home: Home) -> SignedChange | None:
    """What an earlier run has signed, None where there is nothing. Raises `bad_file` or `unsafe_file`."""
    data = home.read(PENDING_FILE)
    if data is None:
        return None
    try:
        signed = SignedChange.parse(data)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{home.path / PENDING_FILE}: {exc}") from exc
    _rotation_in(signed)  # nothing else is ever sent from here
    return signed


def _rotation_in(signed: SignedChange) -> RotateKey:
    if not isinstance(signed.change, RotateKey):
        raise DeviceError(Trouble.BAD_FILE, f"{PENDING_FILE} holds another change")
    return signed.change


def _is_without_old_key(device: Device, signed: SignedChange) -> bool:
    """Whether the new key itself stands as K10."""
    signer = recover_address(signed.digest(device.profile.domain), signed.signatures.k10)
    return signer == _rotation_in(signed).new_device
