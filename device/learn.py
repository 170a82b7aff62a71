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
    return next(iter(_own_records(device, views)), None)


def _own_records(device: Device, views: list[View]) -> list[DeviceRecord]:
    found = (view.state.devices.get(device.k10.key_hash) for view in views)
    return [record for record in found if record is not None]


def learn_agent(device: Device, views: list[View]) -> Identity:
    """Return the identity with what the registry says of this agent, kept in the folder if it is there.

    Raises:
        DeviceError: `answer_not_trusted` where label and generation do not lead to the actor: that name is
            recomputed, never believed. `registry_views_differ` where broker and worker name different actors: what is
            kept outlives its answer.
    """
    identity = device.identity()
    records = _own_records(device, views)
    if not records or identity.part is not Part.AGENT:
        return identity
    record = records[0]
    if any(other.actor_omni != record.actor_omni for other in records):
        raise DeviceError(Trouble.REGISTRY_VIEWS_DIFFER, "broker and worker name different actors for this device")
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
