"""`whoami`: which device this is, whose, and what the registry holds of it."""

from typing import Annotated

import typer

from agentkeys_core.encoding import address_encode, hex_encode
from device.change_desk import views_of
from device.commands.context import device_json, opened
from device.errors import DeviceError, Trouble
from device.identity import Identity, Part
from device.intent import moment
from device.learn import learn_agent, own_record
from device.session import Device
from device.show import described


def whoami(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the registry.")] = False,
) -> None:
    """Show this device, whose it is, and what the registry holds of it."""
    with opened(context) as device:
        identity = Identity.load(device.home)
        data: dict[str, object] = {
            "address": address_encode(device.k10.address),
            "device": hex_encode(device.k10.key_hash),
            "home": str(device.home.path),
            "profile_hash": hex_encode(device.profile.hash()),
            "status": "not_enrolled",
        }
        if identity is not None:
            if not offline:
                identity = _add_registry(device, data)
            data |= _own(identity)
            if offline:
                data["status"] = "not_asked"
        since = data.get("registered_at")
        shown = data if not isinstance(since, int) else data | {"registered_at": moment(since)}
        device.show.result(data, described(shown))


def _own(identity: Identity) -> dict[str, object]:
    data: dict[str, object] = {
        "actor_omni": None if identity.actor_omni is None else hex_encode(identity.actor_omni),
        "operator_omni": hex_encode(identity.operator_omni),
        "part": identity.part.value,
    }
    if identity.part is Part.AGENT:
        return data | {"generation": identity.generation, "label": identity.label}
    return data | {"wallet": None if identity.wallet is None else address_encode(identity.wallet)}


def _add_registry(device: Device, data: dict[str, object]) -> Identity:
    identity = device.identity()
    try:
        views = views_of(device, identity.operator_omni)
    except DeviceError as exc:
        if exc.reason is not Trouble.NOT_REGISTERED:
            raise
        data["status"] = "not_registered"
        return identity
    identity = learn_agent(device, views)
    record = own_record(device, views)
    state = views[0].state
    data["epoch"], data["frozen"] = state.k3_epoch, state.frozen
    if record is None:
        data["status"] = "not_registered"
        return identity
    data["status"] = "revoked" if record.revoked else "registered"
    known = device_json(record)
    data |= {name: known[name] for name in ("assurance", "evidence", "registered_at")}
    if identity.part is Part.AGENT:
        data["scope"] = sorted(state.scopes.get(record.actor_omni, frozenset()))
    return identity
