"""Agents and devices of an operator: added, listed, scoped, revoked, frozen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.changes import AddAgent, Change, Freeze, RevokeDevice, SetScope, Unfreeze
from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni, parse_generation
from agentkeys_core.ops import Service
from agentkeys_core.registry import DeviceRecord, OperatorState
from device.change_desk import Receipt, apply_change, views_of
from device.errors import DeviceError, Trouble
from device.pairing import Offer
from device.session import Device

_HASH: Final = re.compile("[0-9a-f]{64}")
#: Shorter beginnings of a device hash are too easily somebody else's.
_PREFIX: Final = re.compile("[0-9a-f]{8,63}")
_SHORT: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent actor with its devices and scope, as broker or worker tells it."""

    actor_omni: bytes
    label: str
    generation: int
    devices: tuple[DeviceRecord, ...]
    scope: tuple[str, ...]

    @property
    def name(self) -> str:
        """`label/generation`."""
        return f"{self.label}/{self.generation}"


def checked_services(names: Sequence[str]) -> tuple[str, ...]:
    """Return the services in order, each once. Raises `usage` for a malformed name."""
    try:
        return tuple(sorted({Service.parse(name).text for name in names}))
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, f"a service is written like cred:openrouter: {exc.detail}") from exc


def state_now(device: Device) -> OperatorState:
    """Return what the first part that answered says of this operator; for showing only."""
    return views_of(device, device.identity().operator_omni)[0].state


def agents_of(state: OperatorState) -> list[Agent]:
    """Return the agents of an operator, by label and generation.

    A device whose actor is not that of its label is left out.
    """
    found: dict[bytes, list[DeviceRecord]] = {}
    for record in state.devices.values():
        if not record.is_master and _actor_fits(state.operator_omni, record):
            found.setdefault(record.actor_omni, []).append(record)
    agents = [
        Agent(
            actor_omni=actor,
            label=records[0].label or "",
            generation=records[0].generation or 0,
            devices=tuple(sorted(records, key=lambda record: record.registered_at)),
            scope=tuple(sorted(state.scopes.get(actor, frozenset()))),
        )
        for actor, records in found.items()
    ]
    return sorted(agents, key=lambda agent: (agent.label, agent.generation))


def _actor_fits(operator: bytes, record: DeviceRecord) -> bool:
    if record.label is None or record.generation is None:
        return False
    try:
        return child_omni(operator, record.label, record.generation) == record.actor_omni
    except KeyServiceError:
        return False


def actor_named(device: Device, text: str) -> bytes:
    """Return the actor omni of `label`, `label/generation` or 64 hex digits.

    Omnis are computed here, never taken from an answer.

    Raises:
        DeviceError: `no_such_agent`; `ambiguous` for a label with several generations.
    """
    if _HASH.fullmatch(text):
        return bytes.fromhex(text)
    operator = device.identity().operator_omni
    label, slash, generation = text.removeprefix("//").partition("/")
    try:
        if slash:
            return child_omni(operator, label, parse_generation(generation))
        found = {agent.actor_omni for agent in agents_of(state_now(device)) if agent.label == label}
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "an agent is named label, label/generation or by its omni") from exc
    if len(found) > 1:
        raise DeviceError(Trouble.AMBIGUOUS, f"{label} has several generations; write {label}/N")
    if not found:
        raise DeviceError(Trouble.NO_SUCH_AGENT, f"no agent {label}")
    return found.pop()


def device_named(device: Device, text: str) -> bytes:
    """Return a device key hash from 64 hex digits, or from at least 8 that begin exactly one device of this operator.

    Raises:
        DeviceError: `usage`, `no_such_device`, `ambiguous`.
    """
    text = text.lower().removeprefix("0x")
    if _HASH.fullmatch(text):
        return bytes.fromhex(text)
    if not _PREFIX.fullmatch(text):
        raise DeviceError(Trouble.USAGE, "a device is named by its hash, or the first 8 digits of it or more")
    found = [key for key in state_now(device).devices if hex_encode(key).startswith(text)]
    if len(found) != 1:
        raise DeviceError(
            Trouble.AMBIGUOUS if found else Trouble.NO_SUCH_DEVICE, f"{len(found)} devices begin like that"
        )
    return found[0]


def add_agent(device: Device, offer: Offer, *, label: str, generation: int, services: tuple[str, ...]) -> Receipt:
    """Register the device of a checked offer as agent `label/generation` with these services."""
    offer.check(device)
    operator = device.identity().operator_omni
    try:
        actor = child_omni(operator, label, generation)
    except KeyServiceError as exc:
        raise DeviceError(
            Trouble.USAGE, "a label has 1 to 32 of a-z, 0-9 and -; a generation is a number from 0"
        ) from exc

    def build(state: OperatorState, deadline: int) -> Change:
        # Told by the registry, not signed: so beside what is signed, not in it.
        others = [found for found in state.devices.values() if found.actor_omni == actor and not found.revoked]
        shared = sorted(state.scopes.get(actor, frozenset()) - set(services))
        if others or shared:
            more = f"; this device may use as well: {', '.join(shared)}" if shared else ""
            device.show.warn(f"It joins {label}/{generation}, which has {len(others)} other device(s) now{more}")
        return AddAgent(
            operator_omni=operator,
            actor_omni=actor,
            label=label,
            generation=generation,
            device=offer.pair.message.device,
            services=services,
            incarnation=state.incarnation,
            nonce=state.nonce,
            deadline=deadline,
        )

    return apply_change(device, build, k11=True, pair=offer.pair)


def set_scope(device: Device, actor: bytes, *, grant: tuple[str, ...], revoke: tuple[str, ...]) -> Receipt:
    """Grant and take away services of an agent; taking away goes to broker and worker at once."""
    if not grant and not revoke:
        raise DeviceError(Trouble.USAGE, "name a service to --grant or to --revoke")
    if set(grant) & set(revoke):
        raise DeviceError(Trouble.USAGE, "a service is both granted and taken away")

    def build(state: OperatorState, deadline: int) -> Change:
        return SetScope(
            operator_omni=state.operator_omni,
            actor_omni=actor,
            grant=grant,
            revoke=revoke,
            incarnation=state.incarnation,
            nonce=state.nonce,
            deadline=deadline,
        )

    return apply_change(device, build, k11=True, everywhere=bool(revoke))


def device_name(record: DeviceRecord) -> str:
    """What a device is to people."""
    return "master" if record.is_master else f"agent {record.label}/{record.generation}"


def short(key_hash: bytes) -> str:
    """The first digits of a key hash, by which people tell devices apart."""
    return hex_encode(key_hash)[:_SHORT]


def known_as(record: DeviceRecord) -> str:
    """What people tell a device apart by."""
    return f"master {short(record.device_key_hash)}" if record.label is None else f"{record.label}/{record.generation}"


def revoke_device(device: Device, key_hash: bytes) -> Receipt:
    """Revoke a device for ever."""

    def build(state: OperatorState, deadline: int) -> Change:
        record = state.devices.get(key_hash)
        if record is not None:  # told by the registry, not signed
            device.show.warn(f"The registry calls this device: {device_name(record)}")
        return RevokeDevice(
            operator_omni=state.operator_omni,
            device_key_hash=key_hash,
            incarnation=state.incarnation,
            nonce=state.nonce,
            deadline=deadline,
        )

    return apply_change(device, build, k11=True, everywhere=True)


def freeze(device: Device) -> Receipt:
    """Stop everything of this operator; K10 alone does it."""

    def build(state: OperatorState, deadline: int) -> Change:  # noqa: ARG001 - a Freeze has no deadline
        return Freeze(operator_omni=state.operator_omni, incarnation=state.incarnation, freeze_nonce=state.freeze_nonce)

    return apply_change(device, build, k11=False, everywhere=True)


def unfreeze(device: Device) -> Receipt:
    """End a freeze."""

    def build(state: OperatorState, deadline: int) -> Change:
        return Unfreeze(
            operator_omni=state.operator_omni, incarnation=state.incarnation, nonce=state.nonce, deadline=deadline
        )

    return apply_change(device, build, k11=True, everywhere=True)
