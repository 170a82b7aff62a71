"""The one comparison that ties a key to the machine that made it."""

import hmac

from agentkeys_core.pairing import PAIRING_HASH_BYTES
from device.errors import DeviceError, Trouble
from device.pairing import shown
from device.setting_up import hex_argument
from device.show import Show


def pairing_hash_argument(told: str) -> bytes:
    """Read a pairing hash as machines show it: hex, in groups or not. Raises `usage`."""
    return hex_argument(told.replace(" ", ""), "--pairing-hash", length=PAIRING_HASH_BYTES)


def compare_hash(show: Show, pairing_hash: bytes, told: str | None, *, machine: str) -> None:
    """Have the pairing hash compared: with --pairing-hash by us, else by the person.

    Raises:
        DeviceError: `pairing_hash_mismatch`, `declined` or `usage`.
    """
    if told is not None:
        expected = pairing_hash_argument(told)
        if not hmac.compare_digest(pairing_hash, expected):
            detail = f"the hash here is {shown(pairing_hash)}: that key was not made on that machine"
            raise DeviceError(Trouble.PAIRING_HASH_MISMATCH, detail)
        return
    show.warn(f"pairing hash: {shown(pairing_hash)}")
    # --yes does not answer this one: it is the only thing that ties the key to the machine.
    show.person_asked().confirm(
        f"Does the {machine} show the very same pairing hash?", instead="give --pairing-hash HEX as shown there"
    )
