"""A master's new K10: signed by the old one, or asked for without it and in force after 72 hours."""

from typing import Final

from agentkeys_core.changes import ChangeSignatures, K11OfDevice, RotateKey, SignedChange
from agentkeys_core.registry import OperatorState
from device.change_desk import CHANGE_LIFE_S, Receipt, send_change, views_of
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import change_intent
from device.keys import K10, K10_FILE, SignedDigest
from device.registry import same_view
from device.session import Device

NEXT_FILE: Final = "k10-next.json"


def rotate(device: Device) -> Receipt | None:
    """Replace this master's K10 by a new one; may be run again at any point. None where an earlier run had done it all.

    The new key is on disk before anything is sent, and takes the old one's place only once the registry has it.

    Raises:
        DeviceError, KeyServiceError: as `views_of`, `send_change` and the authenticator.
    """
    state = _state(device)
    new = K10.load_or_make(device.home, NEXT_FILE)
    known = state.devices.get(new.key_hash)
    if known is not None and not known.revoked:
        _take_over(device.home)
        return None
    change = _change(device, state, device.k10.key_hash, new)
    signed = device.k10.sign_change(change, device.profile.domain)
    receipt = _send(device, change, signed, device.k10.key_hash, new)
    _take_over(device.home)
    return receipt


def ask_without_old_key(device: Device, old: bytes) -> Receipt:
    """Ask for this folder's K10 in the place of a lost one, whose K11 is still at hand.

    Raises:
        DeviceError: `usage` where the lost key is this very folder's; else as `rotate`.
    """
    if device.k10.key_hash == old:
        raise DeviceError(Trouble.USAGE, "that key is here, not lost; run it without --lost")
    state = _state(device)
    change = _change(device, state, old, device.k10)
    signed = device.k10.sign_change(change, device.profile.domain)
    return _send(device, change, signed, old, device.k10)


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


def _send(device: Device, change: RotateKey, signed: SignedDigest, old: bytes, new: K10) -> Receipt:
    """Show the change, have K11 of the device `old` approve it, and send it."""
    intent = change_intent(change, signed.name)
    device.show.signing(intent)
    device.show.confirm("Sign this and send it?")
    authenticator, record = device.k11()
    assertion = authenticator.approve(record, signed, intent)
    signatures = ChangeSignatures(
        k10=signed.signature,
        k11=(K11OfDevice(device=old, assertion=assertion),),
        new_device=new.sign_change(change, device.profile.domain).signature,
    )
    body = SignedChange(change=change, signatures=signatures).encode()
    return send_change(device, body, change, signed.digest, everywhere=True)


def _take_over(home: Home) -> None:
    """Put the new key into the old one's place. Whole at every moment, and repeatable."""
    with home.locked():
        data = home.read(NEXT_FILE)
        if data is not None:
            home.write(K10_FILE, data)
            home.remove(NEXT_FILE)
