"""`agent add | list`, `scope set`."""

import hmac
from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from agentkeys_core.pairing import PAIRING_HASH_BYTES
from device.agents import actor_named, add_agent, agents_of, checked_services, set_scope, state_now
from device.commands.context import device_json, opened, receipt_json
from device.errors import DeviceError, Trouble
from device.home import read_public_file
from device.pairing import MAX_OFFER_BYTES, Offer, shown
from device.setting_up import hex_argument
from device.show import Show

app = typer.Typer(no_args_is_help=True, help="Agents: devices that act for themselves, inside a scope.")
scope_app = typer.Typer(no_args_is_help=True, help="What an agent may use.")
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", metavar="SERVICE", help="For example cred:openrouter; repeatable.")
]


def _compare(show: Show, offer: Offer, told: str | None) -> None:
    """Have the pairing hash compared: with --pairing-hash by us, else by the person.

    Raises:
        DeviceError: `pairing_hash_mismatch`, `declined` or `usage`.
    """
    if told is not None:
        expected = hex_argument(told.replace(" ", ""), "--pairing-hash", length=PAIRING_HASH_BYTES)
        if not hmac.compare_digest(offer.hash, expected):
            detail = f"this offer's hash is {shown(offer.hash)}: it was not made on that machine"
            raise DeviceError(Trouble.PAIRING_HASH_MISMATCH, detail)
        return
    show.warn(f"pairing hash: {shown(offer.hash)}")
    # --yes does not answer this one: it is the only thing that ties the file to the machine.
    Show(as_json=show.as_json).confirm(
        "Does the agent's machine show the very same pairing hash?", instead="give --pairing-hash HEX as shown there"
    )


@app.command("add")
def add_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The offer that agentkeys pair wrote.")],
    *,
    label: Annotated[str, typer.Option("--label", help="1 to 32 of a-z, 0-9 and -.")],
    services: ServicesOption = None,
    generation: Annotated[
        int, typer.Option("--generation", help="Another number makes another actor of the same label.")
    ] = 0,
    pairing_hash: Annotated[
        str | None,
        typer.Option("--pairing-hash", metavar="HEX", help="What the agent's machine showed; otherwise you are asked."),
    ] = None,
) -> None:
    """Let a paired device in as an agent with these services. Needs K11."""
    offer = Offer.parse(read_public_file(file, limit=MAX_OFFER_BYTES))
    names = checked_services(services or ())
    with opened(context) as device:
        offer.check(device)
        _compare(device.show, offer, pairing_hash)
        receipt = add_agent(device, offer, label=label, generation=generation, services=names)
        data = {**receipt_json(receipt), "generation": generation, "label": label, "services": list(names)}
        device.show.result(data, [f"added {label}/{generation}, row {receipt.row.seq}"])


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
