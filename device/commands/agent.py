"""`agent add | list`, `scope set`."""

from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from device.agents import actor_named, add_agent, agents_of, checked_services, set_scope, state_now
from device.commands.comparing import compare_hash
from device.commands.context import device_json, opened, receipt_json
from device.home import read_public_file
from device.pairing import MAX_OFFER_BYTES, Offer

app = typer.Typer(no_args_is_help=True, help="Agents: devices that act for themselves, inside a scope.")
scope_app = typer.Typer(no_args_is_help=True, help="What an agent may use.")
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", metavar="SERVICE", help="For example cred:openrouter; repeatable.")
]


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
        compare_hash(device.show, offer.hash, pairing_hash, machine="agent's machine")
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
