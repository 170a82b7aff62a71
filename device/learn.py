"""What a device learns from the registry about itself: its actor, and the epoch that requests must name."""

from dataclasses import replace

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni
from agentkeys_core.registry import DeviceRecord
from device.change_desk import views_of
from device.errors import DeviceError, Trouble
from device.identity import Identity, Part
from device.registry import View
from device.session import Device


def actor_of(device: Device) -> bytes:
    """Return the actor omni that this device serves.

    Raises `not_registered` on an agent that no master has added yet.
    """
    identity = device.identity()
    if identity.actor_omni is None:
        identity = learn_agent(device, views_of(device, identity.operator_omni))
    if identity.actor_omni is None:
        raise DeviceError(Trouble.NOT_REGISTERED, "no master has added this device yet; run agentkeys agent add there")
    return identity.actor_omni


def own_record(device: Device, views: list[View]) -> DeviceRecord | None:
    """Return what the registry is said to hold of this device."""
    for view in views:
        record = view.state.devices.get(device.k10.key_hash)
        if record is not None:
            return record
    return None


def learn_agent(device: Device, views: list[View]) -> Identity:
    """Return the identity with what the registry says of this agent, kept in the folder if it is there.

    Raises:
        DeviceError: `answer_not_trusted` where label and generation do not lead to the actor: that name is
            recomputed, never believed.
    """
    identity = device.identity()
    record = own_record(device, views)
    if record is None or identity.part is not Part.AGENT:
        return identity
    try:
        actor = child_omni(
            identity.operator_omni, record.label or "", -1 if record.generation is None else record.generation
        )
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the registry answer names no actor for this device") from exc
    if actor != record.actor_omni:
        raise DeviceError(
            Trouble.ANSWER_NOT_TRUSTED, "the registry answer names an actor that label and generation do not lead to"
        )
    known = replace(identity, actor_omni=actor, label=record.label, generation=record.generation, registered=True)
    if known != identity:
        known.save(device.home)
    return known


def current_epoch(device: Device) -> int:
    """Return the epoch to name: the highest that a signed row has proven, else what the registry is said to be at."""
    proven = device.memory.epoch
    if proven:
        return proven
    return min(view.state.k3_epoch for view in views_of(device, device.identity().operator_omni))
