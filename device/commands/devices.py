"""`device list | revoke | rotate`, `freeze`, `unfreeze`, `teardown`."""

from collections.abc import Mapping
from typing import Annotated

import typer

from agentkeys_core.encoding import address_encode, hex_encode
from agentkeys_core.ops import ObjectClass
from agentkeys_core.registry import DeviceRecord, OperatorState
from device.agents import actor_named, device_named, freeze, revoke_device, state_now, unfreeze
from device.broker_session import BrokerSession
from device.commands import masters
from device.commands.context import device_json, opened, options, receipt_json
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import class_words, moment, role_words
from device.keys import K10
from device.last_use import last_uses, use_words
from device.masters import revoke_master, teardown, threshold_after
from device.rotating import Rotation, ask_without_old_key, rotate
from device.session import Device, load_profile

app = typer.Typer(no_args_is_help=True, help="Devices of this operator.")
HashArgument = Annotated[
    str, typer.Argument(metavar="HASH", help="A device's hash, or at least the first 8 digits of it.")
]
app.command("add", short_help="Approve a further master.")(masters.add_command)
app.command("approve", short_help="Approve what another master began.")(masters.approve_command)
app.command("roles")(masters.roles_command)
app.command("threshold")(masters.threshold_command)


@app.command("list")
def list_command(context: typer.Context) -> None:
    """List all devices, masters and agents, revoked ones too. When each was last used is the broker's word alone."""
    with opened(context) as device:
        state, uses = state_now(device), last_uses(BrokerSession(device))
        records = sorted(
            state.devices.values(), key=lambda record: (record.tier, record.label or "", record.registered_at)
        )
        data = {
            "devices": [
                {**device_json(record), "last_seen_by_broker": (uses or {}).get(record.device_key_hash)}
                for record in records
            ],
            "frozen": state.frozen,
            "last_seen_told": uses is not None,
            "rotations": [state.rotations[key].to_json() for key in sorted(state.rotations)],
            "threshold": state.threshold,
            "torn_down": {hex_encode(owner): bits for owner, bits in state.torn_down.items()},
        }
        device.show.table(
            data,
            ("device", "state", "proof", "may", "since", "last seen by broker", "hash"),
            [_line(record, uses) for record in records],
        )
        _warn(device, state)


def _line(record: DeviceRecord, uses: Mapping[bytes, int] | None) -> tuple[str, ...]:
    return (
        record.tier.name.lower() if record.label is None else f"{record.label}/{record.generation}",
        "revoked" if record.revoked else "active",
        f"{record.evidence} ({record.assurance})",
        role_words(record.roles) if record.is_master else "its scope",
        moment(record.registered_at),
        use_words(uses, record.device_key_hash),
        hex_encode(record.device_key_hash),
    )


def _warn(device: Device, state: OperatorState) -> None:
    """Say what a person must not overlook; what is said rests on an unsigned answer, and can only alarm."""
    for rotation in state.rotations.values():
        device.show.warn(
            f"Device {hex_encode(rotation.device)[:16]} gets another key, {address_encode(rotation.new_address)}, at"
            f" {moment(rotation.due_at)}. If you did not ask for that: agentkeys freeze."
        )
    for record in state.devices.values():
        if record.counter_fell and not record.revoked:
            device.show.warn(
                f"The K11 counter of device {hex_encode(record.device_key_hash)[:16]} fell: somebody may have a copy."
            )
    for owner, bits in state.torn_down.items():
        device.show.note(f"torn down for ever: {class_words(bits)} of {hex_encode(owner)}")


@app.command("revoke", short_help="Revoke a device for ever. Needs K11.")
def revoke_command(context: typer.Context, name: HashArgument, collect: masters.CollectOption = None) -> None:
    """Revoke a device for ever: goes to broker and worker at once, done on the signed row. Needs K11.

    Of a master it takes as many of the other masters as the threshold says.
    """
    with opened(context) as device:
        key_hash = device_named(device, name)
        state = state_now(device)
        target = state.devices.get(key_hash)
        if target is not None and target.is_master:
            after = threshold_after(state, key_hash)
            if after < state.threshold:
                device.show.warn(f"Afterwards {after} instead of {state.threshold} masters can let masters in and out.")
            masters.carry_out(device, revoke_master(key_hash), collect)
            return
        if collect is not None:
            raise DeviceError(Trouble.USAGE, "revoking an agent takes one master; leave --collect out")
        receipt = revoke_device(device, key_hash)
        data = {**receipt_json(receipt), "device": hex_encode(key_hash)}
        device.show.result(data, [f"revoked {hex_encode(key_hash)}, row {receipt.row.seq}"])


@app.command("rotate")
def rotate_command(
    context: typer.Context,
    lost: Annotated[
        str | None,
        typer.Option(
            "--lost",
            metavar="HASH",
            help="The old key is gone: ask for this folder's in its place, in 72 hours.",
        ),
    ] = None,
) -> None:
    """Give this master a new device key (K10). Its K11 stays, and approves.

    Stopped at any point, the same command goes on where it was. The old key stays here until the registry's signed row
    of the change has come, and broker and workers tell that the new key is in force.
    """
    if lost is None:
        with opened(context) as device:
            _print_rotation(device, rotate(device))
        return
    chosen = options(context)
    with Home.open(chosen.home) as home:
        made = K10.load_or_make(home)  # where the old key's file is gone, this is the new key
        with Device(home, load_profile(home), made, chosen.show) as device:
            _print_rotation(device, ask_without_old_key(device, device_named(device, lost)))


def _print_rotation(device: Device, rotation: Rotation) -> None:
    key_hash, row = hex_encode(rotation.device), rotation.receipt.row.seq
    data = {
        **receipt_json(rotation.receipt),
        "device": key_hash,
        "due_at": rotation.due_at,
        "old_key_kept": rotation.old_kept,
    }
    words = f"this device's key is now {key_hash}, row {row}"
    if rotation.due_at is not None:
        words = f"asked for, row {row}; in force at {moment(rotation.due_at)} unless a master freezes"
    device.show.result(data, [words])


def freeze_command(context: typer.Context) -> None:
    """Stop everything of this operator at once; any master can, without K11."""
    with opened(context) as device:
        receipt = freeze(device)
        device.show.result(receipt_json(receipt), [f"frozen, row {receipt.row.seq}"])


def unfreeze_command(context: typer.Context) -> None:
    """End a freeze. Needs K11."""
    with opened(context) as device:
        receipt = unfreeze(device)
        device.show.result(receipt_json(receipt), [f"no longer frozen, row {receipt.row.seq}"])


def teardown_command(
    context: typer.Context,
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help="Whose memory; without one, this operator's own.")
    ] = None,
    credentials: Annotated[bool, typer.Option("--credentials", help="Every credential of this operator.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="The memory of that actor.")] = False,
) -> None:
    """Destroy stored data for ever: its keys are never released again. There is no way back. Needs K11."""
    classes = credentials * int(ObjectClass.CREDENTIALS) | memory * int(ObjectClass.MEMORY)
    if not classes:
        raise DeviceError(Trouble.USAGE, "say what: --credentials, --memory or both")
    if credentials and agent is not None:
        raise DeviceError(Trouble.USAGE, "an agent owns no credentials: they are the operator's")
    with opened(context) as device:
        actor = device.identity().operator_omni if agent is None else actor_named(device, agent)
        receipt = teardown(device, actor, classes)
        data = {**receipt_json(receipt), "actor_omni": hex_encode(actor), "classes": classes}
        device.show.result(data, [f"{class_words(classes)} torn down for ever, row {receipt.row.seq}"])
