"""What masters decide, alike for commands and console: alone where one is enough, else from hand to hand as a file."""

from enum import Enum, auto

from agentkeys_core.changes import AddMaster
from agentkeys_core.ops import ObjectClass
from agentkeys_core.registry import OperatorState
from device.change_desk import Receipt, apply_change, views_of
from device.collected import Collected
from device.errors import DeviceError, Trouble
from device.masters import Build, approve, is_enough, send_collected, threshold_after
from device.session import Device


class Step(Enum):
    """Who goes on with a file that this master has approved."""

    ANOTHER_APPROVES = auto()
    ANOTHER_SENDS = auto()
    NEW_MACHINE_JOINS = auto()


def takes_several(device: Device) -> bool:
    """Whether one master is too few by every part that was asked; the registry decides by itself."""
    views = views_of(device, device.identity().operator_omni)
    return min(view.state.threshold for view in views) > 1


def decide_alone(device: Device, build: Build) -> Receipt:
    """Sign a change about masters and send it to broker and worker at once. Raises as `apply_change`."""
    return apply_change(device, build, k11=True, everywhere=True)


def go_on(device: Device, collected: Collected) -> Receipt | Collected:
    """Approve what another master began, and send it where that is enough; else what others go on with.

    A new master is sent by its own machine, which has to sign it as well. Raises as `approve` and `send_collected`.
    """
    more = approve(device, collected)
    if isinstance(more.change, AddMaster) or not is_enough(device, more):
        return more
    return send_collected(device, more)


def next_step(device: Device, collected: Collected) -> Step:
    """Who goes on, as far as broker and worker tell."""
    if not is_enough(device, collected):
        return Step.ANOTHER_APPROVES
    return Step.NEW_MACHINE_JOINS if isinstance(collected.change, AddMaster) else Step.ANOTHER_SENDS


def words_for_the_rest(state: OperatorState, key_hash: bytes) -> str:
    """What the end of that master changes for the others; empty where nothing."""
    after = threshold_after(state, key_hash)
    if after == state.threshold:
        return ""
    return f"Afterwards {after} instead of {state.threshold} masters can let masters in and out."


def classes_to_destroy(*, credentials: bool, memory: bool, own: bool) -> int:
    """The classes of a teardown as one number; `own` where the data is the operator's.

    Raises:
        DeviceError: `usage` for none, and for credentials of an agent, which owns none.
    """
    if not credentials and not memory:
        raise DeviceError(Trouble.USAGE, "choose what is destroyed: credentials, memory or both")
    if credentials and not own:
        raise DeviceError(Trouble.USAGE, "an agent owns no credentials: they are the operator's")
    return credentials * int(ObjectClass.CREDENTIALS) | memory * int(ObjectClass.MEMORY)
