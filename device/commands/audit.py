"""`audit export | verify`."""

from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import hex_encode
from device.audit_trail import MAX_EXPORT_BYTES, Export, Verdict, export_own, verify_export
from device.checkpoints import cover
from device.commands.context import opened, options
from device.errors import DeviceError, Trouble
from device.home import Home, read_public_file, write_new_file
from device.identity import Memory
from device.show import Show
from device.trust import KEYS_FILE, read_keys

app = typer.Typer(no_args_is_help=True, help="The signed record of what was done.")


def _judge(show: Show, export: Export, verdict: Verdict, extra: dict[str, object]) -> None:
    head = verdict.report.head
    faults = [
        {"fault": str(fault.fault), "position": fault.position, "seq": fault.seq} for fault in verdict.report.faults
    ]
    data: dict[str, object] = {
        "actor_omni": hex_encode(export.actor),
        "faults": faults,
        "head": None if head is None else {"row_hash": hex_encode(head.row_hash), "seq": head.seq},
        "known_row_missing": verdict.missing,
        "ok": verdict.ok,
        "rows": verdict.report.count,
        **extra,
    }
    good = f"{verdict.report.count} rows of {hex_encode(export.actor)}: chain, sequence and signatures are right"
    show.result(data, [good] if verdict.ok else verdict.lines())
    if not verdict.ok:
        raise DeviceError(Trouble.EXPORT_NOT_TRUSTED, f"{len(faults) + verdict.missing} findings")


@app.command("export", short_help="Write this actor's audit rows to a file, verified.")
def export_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the rows (mode 0600).")] = Path(
        "agentkeys-audit.json"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write all audit rows of this device's actor to a file, and verify them at once."""
    with opened(context) as device:
        export, verdict = export_own(device)
        write_new_file(out, export.encode(), replace=force)
        _judge(device.show, export, verdict, {"file": str(out)})


@app.command("verify", short_help="Verify an export, without any server.")
def verify_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What agentkeys audit export wrote.")],
    jwks: Annotated[
        Path | None,
        typer.Option("--jwks", metavar="FILE", help="The audit keys; otherwise those that this device has fetched."),
    ] = None,
    checkpoint: Annotated[
        bool,
        typer.Option(
            "--checkpoint", help="Ask the audit worker, too: are the rows in the deployment's signed history?"
        ),
    ] = False,
) -> None:
    """Verify an export without any server: chain, sequence, signatures, and that it holds the last row seen here.

    With --checkpoint also that the deployment's signed history of all rows holds them, and only ever grew.
    """
    chosen = options(context)
    export = Export.parse(read_public_file(file, limit=MAX_EXPORT_BYTES))
    seen = None
    if jwks is not None:
        keys = read_keys(read_public_file(jwks, limit=1024 * 1024))
    if jwks is None or chosen.home.is_dir():
        with Home.open(chosen.home) as home:
            seen = Memory.load(home).heads.get(export.actor)
            if jwks is None:
                stored = home.read(KEYS_FILE)
                if stored is None:
                    raise DeviceError(Trouble.NOT_INITIALISED, "no audit keys here yet; give --jwks FILE")
                keys = read_keys(stored)
    verdict = verify_export(export, keys, seen=seen)
    extra: dict[str, object] = {"file": str(file)}
    if checkpoint and verdict.ok:
        with opened(context) as device:
            found = cover(device, export.rows)
        extra["checkpoint"] = {
            "covered": found.covered,
            "newer": found.newer,
            "root": hex_encode(found.checkpoint.root),
            "size": found.checkpoint.size,
        }
        chosen.show.note(
            f"the signed history of {found.checkpoint.size} rows holds {found.covered} of them; {found.newer} are newer"
        )
    _judge(chosen.show, export, verdict, extra)
