"""`device add | approve | roles | threshold`, `join`: what several masters sign together, as files between machines."""

from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from agentkeys_core.registry import ALL_ROLES
from device.agents import device_named
from device.change_desk import Receipt
from device.collected import Collected
from device.commands.comparing import compare_hash
from device.commands.context import opened, receipt_json
from device.deciding import Step, decide_alone, go_on, next_step, takes_several
from device.errors import DeviceError, Trouble
from device.home import read_public_file
from device.identity import Part
from device.masters import Build, add_master, begin, join, pairing_hash_of, set_roles, set_threshold
from device.pairing import MAX_OFFER_BYTES, Offer
from device.session import Device

CollectOption = Annotated[
    Path | None,
    typer.Option("--collect", metavar="FILE", help="Begin a file for other masters: agentkeys device approve FILE."),
]
PairingHashOption = Annotated[
    str | None,
    typer.Option("--pairing-hash", metavar="HEX", help="What the new machine showed; otherwise you are asked."),
]
RolesOption = Annotated[
    int,
    typer.Option("--roles", min=1, max=int(ALL_ROLES), help="Sum of: 1 use, 2 masters in and out, 4 manage agents."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def add_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The offer that agentkeys pair --master wrote.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the approval.")],
    roles: RolesOption = int(ALL_ROLES),
    pairing_hash: PairingHashOption = None,
    force: ForceOption = False,
) -> None:
    """Approve a further master, after comparing one hash on both machines. Needs K11.

    The new machine takes the file back: agentkeys join FILE. Under a higher threshold other masters approve it first.
    """
    offer = Offer.parse(read_public_file(file, limit=MAX_OFFER_BYTES))
    with opened(context) as device:
        offer.check(device, part=Part.MASTER)
        compare_hash(device.show, offer.hash, pairing_hash, machine="new machine")
        collected = add_master(device, offer, roles=roles)
        collected.write(out, replace_it=force)
        _say_next(device, collected, out)


def approve_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What another master began.")],
    *,
    pairing_hash: PairingHashOption = None,
) -> None:
    """Approve what another master began; sends it once enough masters have. Needs K11."""
    collected = Collected.read(file)
    with opened(context) as device:
        shown_hash = pairing_hash_of(device, collected)
        if shown_hash is not None:
            compare_hash(device.show, shown_hash, pairing_hash, machine="new machine")
        following = go_on(device, collected)
        if isinstance(following, Collected):
            following.write(file, replace_it=True)
            _say_next(device, following, file)
            return
        _print_done(device, following)


def join_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What agentkeys device add wrote.")],
) -> None:
    """On the new machine: become the master that the others have approved. Needs its own K11."""
    collected = Collected.read(file)
    with opened(context) as device:
        receipt = join(device, collected)
        data = {**receipt_json(receipt), "device": hex_encode(device.k10.key_hash), "status": "joined"}
        device.show.result(data, [f"this machine is a master now, row {receipt.row.seq}"])


def roles_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="HASH", help="A master's hash, or the first 8 digits of it or more.")],
    *,
    roles: RolesOption,
    collect: CollectOption = None,
) -> None:
    """Set what a master may do. Needs K11, of as many masters as the threshold says."""
    with opened(context) as device:
        carry_out(device, set_roles(device_named(device, name), roles), collect)


def threshold_command(
    context: typer.Context,
    threshold: Annotated[int, typer.Argument(metavar="N", min=1, max=255, help="At most one less than masters.")],
    *,
    collect: CollectOption = None,
) -> None:
    """Set how many masters it takes to let masters in and out. Needs K11, of as many as it takes now."""
    with opened(context) as device:
        carry_out(device, set_threshold(threshold), collect)


def carry_out(device: Device, build: Build, collect: Path | None) -> None:
    """Sign a change and send it to broker and worker at once; with `collect`, leave it in that file for the others.

    Raises:
        DeviceError: `usage` where it takes more masters and no file was named; nothing was signed then.
    """
    if collect is not None:
        collected = begin(device, build)
        collected.write(collect, replace_it=False)
        _say_next(device, collected, collect)
        return
    if takes_several(device):
        raise DeviceError(Trouble.USAGE, "that takes several masters: begin a file with --collect FILE")
    _print_done(device, decide_alone(device, build))


def _print_done(device: Device, receipt: Receipt) -> None:
    device.show.result(receipt_json(receipt), [f"{receipt.change.type} done, row {receipt.row.seq}"])


def _say_next(device: Device, collected: Collected, file: Path) -> None:
    following = next_step(device, collected)
    enough = following is not Step.ANOTHER_APPROVES
    by = [hex_encode(key_hash) for key_hash in collected.devices]
    data = {"approved_by": by, "change": collected.change.type, "done": False, "enough": enough, "file": str(file)}
    joins = following is Step.NEW_MACHINE_JOINS
    step = "on the new machine: agentkeys join FILE" if joins else "on another master: agentkeys device approve FILE"
    device.show.result(data, [f"approved by {len(by)}: {file}", f"next, within the hour, {step}"])
