"""`agent invite | add | approve | list`, `scope set`."""

from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from device.agents import actor_named, add_agent, agents_of, checked_services, set_scope, state_now
from device.commands.comparing import compare_hash, pairing_hash_argument
from device.commands.context import device_json, opened, receipt_json
from device.errors import DeviceError, Trouble
from device.home import read_public_file
from device.pairing import MAX_OFFER_BYTES, Offer
from device.pairing_desk import Claimed, MasterSide, fingerprint
from device.pairing_link import SCHEME, PairingLink
from device.profile_source import invitation
from device.session import Device
from device.show import Show

app = typer.Typer(no_args_is_help=True, help="Agents: devices that act for themselves, inside a scope.")
scope_app = typer.Typer(no_args_is_help=True, help="What an agent may use.")
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", metavar="SERVICE", help="For example cred:openrouter; repeatable.")
]
GenerationOption = Annotated[
    int, typer.Option("--generation", help="Another number makes another actor of the same label.")
]
PairingHashOption = Annotated[
    str | None,
    typer.Option("--pairing-hash", metavar="HEX", help="What the agent's machine showed; otherwise you are asked."),
]


@app.command("invite", short_help="Print the line to run on a new agent's machine.")
def invite_command(
    context: typer.Context,
    *,
    label: Annotated[str | None, typer.Option("--label", help="1 to 32 of a-z, 0-9 and -.")] = None,
    services: ServicesOption = None,
) -> None:
    """Print the line to run on a new agent's machine: it names the profile, its hash and this operator alone.

    Nothing in it is secret, and nothing is let in by it: the machine then shows a code for agentkeys agent approve.
    """
    names = checked_services(services or ())
    with opened(context) as device:
        line = invitation(device, label=label, services=names)
        device.show.result({"command": line}, [line])


@app.command("add")
def add_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The offer that agentkeys pair --out wrote.")],
    *,
    label: Annotated[str, typer.Option("--label", help="1 to 32 of a-z, 0-9 and -.")],
    services: ServicesOption = None,
    generation: GenerationOption = 0,
    pairing_hash: PairingHashOption = None,
) -> None:
    """Let a paired device in as an agent with these services. Needs K11."""
    offer = Offer.parse(read_public_file(file, limit=MAX_OFFER_BYTES))
    names = checked_services(services or ())
    with opened(context) as device:
        offer.check(device)
        compare_hash(device.show, offer.hash, pairing_hash, machine="agent's machine")
        _let_in(device, offer, label=label, generation=generation, services=names)


def _let_in(device: Device, offer: Offer, *, label: str, generation: int, services: tuple[str, ...]) -> None:
    receipt = add_agent(device, offer, label=label, generation=generation, services=services)
    data = {**receipt_json(receipt), "generation": generation, "label": label, "services": list(services)}
    device.show.result(data, [f"added {label}/{generation}, row {receipt.row.seq}"])


@app.command("approve", short_help="Let a machine in by the code that it shows. Needs K11.")
def approve_command(
    context: typer.Context,
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="What agentkeys pair shows there, or its QR code's text.")
    ],
    *,
    label: Annotated[
        str | None, typer.Option("--label", help="1 to 32 of a-z, 0-9 and -; otherwise what the machine asked for.")
    ] = None,
    services: ServicesOption = None,
    generation: GenerationOption = 0,
    pairing_hash: PairingHashOption = None,
) -> None:
    """Let a machine in as an agent by the code that it shows, after its pairing hash was compared. Needs K11."""
    names = None if services is None else checked_services(services)
    told = None if pairing_hash is None else hex_encode(pairing_hash_argument(pairing_hash))
    link = PairingLink.parse(code) if code.strip().startswith(SCHEME) else None
    if link is not None and told is not None:
        raise DeviceError(Trouble.USAGE, "the QR code's text holds the pairing hash already")
    with opened(context) as device:
        if link is not None:
            if link.broker != device.profile.broker:
                raise DeviceError(Trouble.PAIR_INVALID, "its machine asks at another broker than this one")
            device.show.confirm("Did you take this text from that machine's own screen, and from nowhere else?")
            code, told = link.code, hex_encode(link.hash)
        master = MasterSide(device)
        claimed = master.claim(code)
        compare_hash(device.show, claimed.hash, told, machine="agent's machine")
        chosen, granted = _chosen(device.show, claimed, label, names)
        device.show.warn(f"this operator: {fingerprint(device.identity().operator_omni)}; confirm it on that machine")
        offer = master.offer(claimed)
        _let_in(device, offer, label=chosen, generation=generation, services=granted)


def _chosen(
    show: Show, claimed: Claimed, label: str | None, services: tuple[str, ...] | None
) -> tuple[str, tuple[str, ...]]:
    """Return label and services: as given here, else as the machine is said to ask for, if the person agrees.

    Raises:
        DeviceError: `usage` where there is no label, or nobody can be asked; `declined`.
    """
    chosen = claimed.label if label is None else label
    granted = claimed.services if services is None else services
    if chosen is None:
        raise DeviceError(Trouble.USAGE, "the machine proposes no label; give --label")
    if label is None or (services is None and granted):
        show.warn(f"asked for: {chosen}, which may use {', '.join(granted) or 'nothing'}")
        # --yes does not answer this one either: a broker could have written it.
        show.person_asked().confirm("Is that what this agent shall have?", instead="give --label and --service")
    return chosen, granted


@app.command("list")
def list_command(context: typer.Context) -> None:
    """List agents with their devices and scopes."""
    with opened(context) as device:
        agents = agents_of(state_now(device))
        data = {
            "agents": [
                {
                    "actor_omni": hex_encode(agent.actor_omni),
                    "devices": [device_json(record) for record in agent.devices],
                    "generation": agent.generation,
                    "label": agent.label,
                    "scope": list(agent.scope),
                }
                for agent in agents
            ]
        }
        rows = [
            (
                agent.name,
                str(sum(not record.revoked for record in agent.devices)),
                ", ".join(agent.scope),
                hex_encode(agent.actor_omni),
            )
            for agent in agents
        ]
        device.show.table(data, ("agent", "devices", "scope", "actor"), rows)


@scope_app.command("set")
def scope_command(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="label, label/generation or actor omni.")],
    grant: Annotated[list[str] | None, typer.Option("--grant", metavar="SERVICE", help="Repeatable.")] = None,
    revoke: Annotated[list[str] | None, typer.Option("--revoke", metavar="SERVICE", help="Repeatable.")] = None,
) -> None:
    """Grant services to an agent, or take them away. Needs K11."""
    granted, revoked = checked_services(grant or ()), checked_services(revoke or ())
    with opened(context) as device:
        receipt = set_scope(device, actor_named(device, agent), grant=granted, revoke=revoked)
        data = {**receipt_json(receipt), "grant": list(granted), "revoke": list(revoked)}
        device.show.result(data, [f"scope of {agent} changed, row {receipt.row.seq}"])
