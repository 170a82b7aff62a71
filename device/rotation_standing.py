"""What became of a RotateKey that the registry took: its row alone does not tell whether the new key is in force.

Whoever relays a RotateKey can put the new key's signature in the place of the old key's: the registry then takes it as
one without the old key, which waits 72 hours, under the same digest and with the same kind of row (docs/adr/0041).
"""

import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

from agentkeys_core.changes import RotateKey
from agentkeys_core.ids import device_key_hash
from agentkeys_core.registry import OperatorState
from device.change_desk import CATCH_UP_S, QUORUM
from device.errors import DeviceError, Trouble
from device.registry import operator_path, state_of
from device.session import Device


class Standing(Enum):
    """Where the new key of a rotation stands in the registry."""

    IN_FORCE = auto()
    WAITS = auto()
    REVOKED = auto()
    ABSENT = auto()


@dataclass(frozen=True, slots=True)
class _Said:
    """What one part says; `due_at` in Unix seconds where it waits."""

    standing: Standing
    due_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What `QUORUM` parts say, or more of them; `unanimous` where every part that answered does."""

    standing: Standing
    due_at: int | None
    unanimous: bool


def told_of(device: Device, change: RotateKey) -> Told:
    """Ask every part where a rotation stands that the registry has taken.

    Raises:
        DeviceError: `registry_views_differ` where fewer than `QUORUM` parts say the same.
    """
    path, parse = operator_path(change.operator_omni), state_of(change.operator_omni)
    for left in (1, 0):
        said = Counter(_in_state(state, change) for state in device.routes.told(path, parse))
        ((most, number),) = said.most_common(1) or [(_Said(Standing.ABSENT), 0)]
        told = Told(standing=most.standing, due_at=most.due_at, unanimous=number == said.total())
        if number >= QUORUM and told.unanimous:
            return told
        if left:  # one of them may just be a moment behind
            time.sleep(CATCH_UP_S)
    if number < QUORUM:
        detail = "the registry has the rotation, but no two of broker and workers agree on whether it is in force"
        raise DeviceError(Trouble.REGISTRY_VIEWS_DIFFER, f"{detail}; nothing was changed here, run it again")
    return told


def _in_state(state: OperatorState, change: RotateKey) -> _Said:
    known = state.devices.get(device_key_hash(change.new_device))
    if known is not None:
        return _Said(Standing.REVOKED if known.revoked else Standing.IN_FORCE)
    waiting = state.rotations.get(change.old_device_key_hash)
    if waiting is not None and waiting.new_address == change.new_device:
        return _Said(Standing.WAITS, waiting.due_at)
    return _Said(Standing.ABSENT)
