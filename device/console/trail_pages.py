"""The audit page: whose trail, what was found out about each row here, a filter, and the export."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.encoding import hex_encode
from device.agents import agents_of
from device.audit_trail import Export, Verdict, export_own, export_tree
from device.console.actions import key_hash_of
from device.console.desk import Desk
from device.console.render import page
from device.console.trail import Filter, kinds_of, trail_rows
from device.errors import DeviceError, Trouble
from device.local_web import JSON, Reply

#: Rows on one page; the export has all.
MAX_ROWS: Final = 200
TREE: Final = "tree"


def trail_page(desk: Desk, query: Mapping[str, str]) -> Reply:
    """Our own trail, or with `whose=tree` that of every actor of this operator, each verified for itself."""
    wanted = Filter.of(query)
    tree = query.get("whose") == TREE
    found = _trails(desk, tree=tree)
    seen = desk.seen()  # afterwards: an agent that was added just now is one of ours
    names = {agent.actor_omni: agent.name for agent in agents_of(seen.state)}
    names[seen.state.operator_omni] = "master"
    rows = [
        row
        for export, verdict in found
        for row in trail_rows(export, verdict, actor=names.get(export.actor, hex_encode(export.actor)[:8]))
    ]
    rows.sort(key=lambda row: (row.at, row.seq), reverse=True)
    fitting = [row for row in rows if wanted.fits(row)]
    return page(
        "audit.html",
        bad=[(names.get(export.actor, ""), _findings(export, verdict, names)) for export, verdict in found],
        count=len(rows),
        chains=[(export.actor.hex(), names.get(export.actor, hex_encode(export.actor)[:8])) for export, _ in found],
        fitting=len(fitting),
        kinds=kinds_of(rows),
        rows=fitting[:MAX_ROWS],
        said=seen.said,
        tree=tree,
        mark=seen.mark,
        wanted=wanted,
    )


def _findings(export: Export, verdict: Verdict, names: Mapping[bytes, str]) -> list[str]:
    """What is wrong with a chain; a genuine one of somebody else has no place here either."""
    strange = (
        [] if export.actor in names else [f"these are rows of {hex_encode(export.actor)}, which is no actor of yours"]
    )
    return [*strange, *verdict.lines()]


def trail_file(desk: Desk, query: Mapping[str, str]) -> Reply:
    """All rows of one actor, by default our own, as `agentkeys audit verify` takes them. Raises `usage`."""
    found = _trails(desk, tree="actor" in query)
    wanted = key_hash_of(query["actor"]) if "actor" in query else found[0][0].actor
    for export, _ in found:
        if export.actor == wanted:
            return Reply(body=export.encode(), kind=JSON)
    raise DeviceError(Trouble.USAGE, "no rows of such an actor")


def _trails(desk: Desk, *, tree: bool) -> list[tuple[Export, Verdict]]:
    return export_tree(desk.device) if tree else [export_own(desk.device)]
