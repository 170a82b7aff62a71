"""The one comparison that ties a file to the machine that wrote it."""

import hmac

from agentkeys_core.pairing import PAIRING_HASH_BYTES
from device.errors import DeviceError, Trouble
from device.pairing import shown
from device.setting_up import hex_argument
from device.show import Show


def compare_hash(show: Show, pairing_hash: bytes, told: str | None, *, machine: str) -> None:
    """Have the pairing hash compared: with --pairing-hash by us, else by the person.

    Raises:
        DeviceError: `pairing_hash_mismatch`, `declined` or `usage`.
    """
    if told is not None:
        expected = hex_argument(told.replace(" ", ""), "--pairing-hash", length=PAIRING_HASH_BYTES)
        if not hmac.compare_digest(pairing_hash, expected):
            detail = f"this offer's hash is {shown(pairing_hash)}: it was not made on that machine"
            raise DeviceError(Trouble.PAIRING_HASH_MISMATCH, detail)
        return
    show.warn(f"pairing hash: {shown(pairing_hash)}")
    # --yes does not answer this one: it is the only thing that ties the file to the machine.
    Show(as_json=show.as_json).confirm(
        f"Does the {machine} show the very same pairing hash?", instead="give --pairing-hash HEX as shown there"
    )
