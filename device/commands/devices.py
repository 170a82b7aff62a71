"""`device list | revoke`, `freeze`, `unfreeze`."""

from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from device.agents import device_named, freeze, revoke_device, state_now, unfreeze
from device.commands.context import device_json, opened, receipt_json
from device.intent import moment

app = typer.Typer(no_args_is_help=True, help="Devices of this operator.")


@app.command("list")
def list_command(context: typer.Context) -> None:
    """List all devices, masters and agents, revoked ones too."""
    with opened(context) as device:
        state = state_now(device)
        records = sorted(
            state.devices.values(), key=lambda record: (record.tier, record.label or "", record.registered_at)
        )
        data = {"devices": [device_json(record) for record in records], "frozen": state.frozen}
        rows = [
            (
                record.tier.name.lower() if record.label is None else f"{record.label}/{record.generation}",
                "revoked" if record.revoked else "active",
                moment(record.registered_at),
                hex_encode(record.device_key_hash),
            )
            for record in records
        ]
        device.show.table(data, ("device", "state", "since", "hash"), rows)


@app.command("revoke", short_help="Revoke a device for ever. Needs K11.")
def revoke_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="HASH", help="Its hash, or at least the first 8 digits of it.")],
) -> None:
    """Revoke a device for ever: goes to broker and worker at once, done on the signed row. Needs K11."""
    with opened(context) as device:
        key_hash = device_named(device, name)
        receipt = revoke_device(device, key_hash)
        data = {**receipt_json(receipt), "device": hex_encode(key_hash)}
        device.show.result(data, [f"revoked {hex_encode(key_hash)}, row {receipt.row.seq}"])


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
