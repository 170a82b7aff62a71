"""Who stands behind a change that masters sign together: nobody is named before their signatures are proven."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import K11OfDevice, OrderedChange
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import device_key_hash
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH, SOFTWARE_ORIGIN, credential_id_hash, origin_hash
from agentkeys_core.registry import DeviceRecord, OperatorState, Role
from agentkeys_core.secp256k1 import recover_address
from device.collected import Collected
from device.errors import DeviceError, Trouble
from device.k11.ceremony import Expected, check_assertion
from device.session import Device

_ORIGINS: Final = {origin_hash(origin): origin for origin in (K11_ORIGIN, SOFTWARE_ORIGIN)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """The masters behind a change: `began` signed it with K10, the K11 of each in `by` approved it."""

    began: DeviceRecord
    by: tuple[DeviceRecord, ...]


def behind(device: Device, collected: Collected, state: OperatorState) -> Behind:
    """Return who stands behind a change, each proven over the change's own digest against the registry's `state`.

    Raises:
        DeviceError: `bad_file` for a change of another operator, or for another moment of this one; `approval_invalid`
            for a signature of nobody who may give it.
    """
    change = collected.change
    if change.operator_omni != state.operator_omni:
        raise DeviceError(Trouble.BAD_FILE, "that is a change of another operator")
    _check_moment(collected, state, device.now())
    digest = change.digest(device.profile.domain)
    address = recover_address(digest, collected.signed.signatures.k10)
    if address is None:
        raise _invalid("nobody has signed it")
    by = tuple(_approved(entry, digest, state) for entry in collected.signed.signatures.k11)
    if any(count > 1 for count in Counter((master.k11.x, master.k11.y) for master in by if master.k11).values()):
        raise _invalid("a K11 key approved it twice")
    return Behind(began=_master(device_key_hash(address), state), by=by)


def _check_moment(collected: Collected, state: OperatorState, now: int) -> None:
    """Nothing is approved that somebody could keep and play later."""
    change = collected.change
    if not isinstance(change, OrderedChange) or (change.nonce, change.incarnation) != (state.nonce, state.incarnation):
        raise DeviceError(Trouble.BAD_FILE, "it is not for this moment: something was changed since; begin it anew")
    if now >= change.deadline:
        raise DeviceError(Trouble.BAD_FILE, "its hour is over; begin it anew")


def _master(key_hash: bytes, state: OperatorState) -> DeviceRecord:
    found = state.devices.get(key_hash)
    if found is None or not found.is_master or found.revoked or not found.holds(Role.RECOVERY):
        raise _invalid("a signature is of no master that may give it")
    return found


def _approved(entry: K11OfDevice, digest: bytes, state: OperatorState) -> DeviceRecord:
    master = _master(entry.device, state)
    key, assertion = master.k11, entry.assertion
    if key is None or credential_id_hash(assertion.credential_id) != key.credential_id_hash:
        raise _invalid("an approval is of another K11 key")
    origin = _ORIGINS.get(key.origin_hash)
    if origin is None or key.rp_id_hash != RP_ID_HASH:
        raise _invalid("a master's K11 key was made for another page")
    expected = Expected(
        credential_id=assertion.credential_id, x=key.x, y=key.y, origin=origin, rp_id_hash=key.rp_id_hash
    )
    try:
        check_assertion(assertion, challenge=digest, expected=expected)
    except KeyServiceError as exc:
        raise _invalid(f"an approval does not hold: {exc.detail}") from exc
    return master


def _invalid(why: str) -> DeviceError:
    return DeviceError(Trouble.APPROVAL_INVALID, f"{why}; do not go on with this file")
