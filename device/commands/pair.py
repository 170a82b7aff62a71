"""`pair`: becoming an agent's device, through the broker or by a file."""

import hmac
import sys
from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from device.agents import checked_services
from device.commands.agent import ServicesOption
from device.commands.context import options
from device.commands.init import ProfileHashOption, ProfileOption
from device.errors import DeviceError, Trouble
from device.home import Home, write_new_file
from device.k11.port import K11Kind
from device.masters import offer_master
from device.pairing import Offer, make_offer, shown
from device.pairing_desk import MachineSide, fingerprint
from device.session import Device
from device.setting_up import confirmed_profile, hex_argument, set_up


def pair(
    context: typer.Context,
    *,
    profile: ProfileOption,
    profile_hash: ProfileHashOption,
    operator: Annotated[
        str | None,
        typer.Option(
            "--operator", metavar="HEX", help="Agree to this operator only (master's whoami); nobody is asked."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="A proposal for the agent's label.")] = None,
    master: Annotated[
        bool, typer.Option("--master", help="Become a further master instead of an agent: makes K11 as well. By --out.")
    ] = False,
    k11: Annotated[
        K11Kind, typer.Option("--k11", help="With --master, as for init; software: development only.")
    ] = K11Kind.BROWSER,
    services: ServicesOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Without the broker: an offer for a master to accept."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """On a new machine: make its key, and have a master let it in.

    Shows a code for agentkeys agent approve and a pairing hash to compare there, waits, and asks before it agrees.
    The whole line for it, with the profile's address and hash, comes from a master: agentkeys agent invite.
    """
    chosen = options(context)
    named = None if operator is None else hex_argument(operator, "--operator", length=32)
    wanted = checked_services(services or ())
    if out is not None and (named is None or wanted):
        raise DeviceError(Trouble.USAGE, "--out needs --operator, and carries no --service")
    if out is None and (force or master):
        raise DeviceError(Trouble.USAGE, "--force and --master go with --out")
    if out is None and named is None and not sys.stdin.isatty():
        raise DeviceError(Trouble.USAGE, "nobody can be asked here; give --operator HEX")
    confirmed = confirmed_profile(profile, profile_hash)
    with Home.open(chosen.home, create=True) as home, set_up(home, confirmed, chosen.show) as device:
        if out is not None and named is not None:
            offer = offer_master(device, named, k11) if master else make_offer(device, named, label=label)
            write_new_file(out, offer.encode() + b"\n", replace=force)
            _tell_file(device, offer, out)
        else:
            _by_broker(device, named, label=label, services=wanted)


def _tell_file(device: Device, offer: Offer, out: Path) -> None:
    data = {"device": hex_encode(device.k10.key_hash), "file": str(out), "pairing_hash": hex_encode(offer.hash)}
    lines = [f"pairing hash: {shown(offer.hash)}", f"offer: {out} (for one hour)", f"device: {data['device']}"]
    device.show.result(data, lines)
    command = "agent add FILE --label LABEL --service cred:NAME" if offer.k11 is None else "device add FILE --out FILE"
    device.show.note(f"On a master: agentkeys {command}; compare the pairing hash there.")


def _by_broker(device: Device, operator: bytes | None, *, label: str | None, services: tuple[str, ...]) -> None:
    machine = MachineSide(device)
    begun = machine.begin(label=label, services=services)
    device.show.pairing(begun.code, shown(begun.hash), begun.link.encode())
    device.show.note("Waiting for a master …")
    claimed_by = machine.claimed_by(begun)
    _agreed(device, claimed_by, operator)
    machine.agree(begun, claimed_by)
    device.show.note("Agreed. Waiting until the master lets this device in …")
    identity = machine.registered()
    data = {
        "device": hex_encode(device.k10.key_hash),
        "generation": identity.generation,
        "label": identity.label,
        "operator_omni": hex_encode(identity.operator_omni),
        "pairing_hash": hex_encode(begun.hash),
        "status": "registered",
    }
    device.show.result(data, [f"this device is {identity.label}/{identity.generation} now"])


def _agreed(device: Device, claimed_by: bytes, named: bytes | None) -> None:
    """Have the claiming operator agreed to: by --operator, else by the person.

    Raises:
        DeviceError: `pair_invalid` for another than the one named; `declined`.
    """
    if named is not None:
        if not hmac.compare_digest(claimed_by, named):
            detail = f"operator {fingerprint(claimed_by)} claimed it, not the one named; nothing was signed"
            raise DeviceError(Trouble.PAIR_INVALID, detail)
        return
    show = device.show.person_asked()
    show.warn(f"claimed by operator: {fingerprint(claimed_by)}")
    show.confirm("Does the master's machine show the very same operator? This device will be its agent.")
