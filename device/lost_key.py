"""A folder whose K10 is gone, though what else is in it is about that key: said by name, with what can be done."""

from typing import Final

from device.errors import DeviceError, Trouble
from device.home import Home
from device.identity import Identity, Part

#: An Enrol that waits for its wallet or for its row.
ENROL_FILE: Final = "pending-enrol.json"
#: Remembers on a new master's machine which operator it was offered to, until a master's approval comes back.
OFFER_FILE: Final = "pending-master.json"
_OF_PART: Final = {
    Part.MASTER: "Is its K11 still here? Then ask for a new key in its place, which holds in 72 hours: agentkeys device"
    " rotate --lost HASH, or agentkeys console, page Masters, which knows the hash. Otherwise another master revokes it"
    " (agentkeys device revoke HASH) and lets this machine in anew, with another --home",
    Part.AGENT: "A master revokes it (agentkeys device revoke HASH); then pair this machine anew, with another --home."
    " What the agent stored stays its own",
}
_BEGUN: Final = "What was begun with it cannot be finished; begin anew, with another --home"


def check_key_not_lost(home: Home) -> None:
    """Return for a folder that never had a key: nothing in it is about one.

    Raises:
        DeviceError: `k10_missing`; `bad_file` or `unsafe_file`.
    """
    identity = Identity.load(home)
    if identity is not None:
        _raise(home, _OF_PART[identity.part])
    if any(home.read(name) is not None for name in (ENROL_FILE, OFFER_FILE)):
        _raise(home, _BEGUN)


def _raise(home: Home, what_to_do: str) -> None:
    raise DeviceError(Trouble.K10_MISSING, f"the device key of {home.path} is gone (k10.json). {what_to_do}")
