"""`put | get | list | rm` of one class of objects: `cred` and `memory` are made of it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import b64u_encode, hex_encode
from device import objects
from device.commands.context import opened
from device.errors import DeviceError, Trouble
from device.home import read_public_file, write_new_file
from device.objects import ObjectKind
from device.show import Show

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="For example openrouter: a-z, 0-9, and . _ - inside, at most 64.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The help texts of one class's commands, `…_short` where the whole one is too long for a list of commands."""

    all: str
    put: str
    put_short: str
    get: str
    get_short: str
    list: str
    rm: str


def commands(kind: ObjectKind, words: Words) -> typer.Typer:
    """Return the commands of one class."""
    app = typer.Typer(no_args_is_help=True, help=words.all)

    @app.command("put", help=words.put, short_help=words.put_short)
    def put_command(
        context: typer.Context,
        name: NameArgument,
        source: Annotated[
            str, typer.Option("--file", metavar="FILE", help="Where the value is; - is standard input.")
        ] = "-",
    ) -> None:
        value = _value(kind, source)
        with opened(context) as device:
            stored = objects.put(kind, device, name, value)
            replaced = None if stored.replaced is None else hex_encode(stored.replaced)
            data = {
                "name": name,
                "replaced": replaced,
                "row_hash": hex_encode(stored.row.row_hash),
                "store": hex_encode(stored.cap_digest),
            }
            done = "replaced" if replaced else "stored"
            device.show.result(data, [f"{done} {name} ({len(value)} bytes), row {stored.row.seq}"])

    @app.command("get", help=words.get, short_help=words.get_short)
    def get_command(
        context: typer.Context,
        name: NameArgument,
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="FILE", help="Write it to this file (mode 0600) instead of standard output."),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    ) -> None:
        if out is not None and out.exists() and not force:
            raise DeviceError(Trouble.FILE_EXISTS, f"{out} exists already; --force replaces it")
        with opened(context) as device:
            fetched = objects.get(kind, device, name)
            if fetched.migrated:
                device.show.note(f"{name} was taken over from a legacy envelope: no device signed it; put it again")
            data: dict[str, object] = {
                "cap_digest": hex_encode(fetched.cap_digest),
                "migrated": fetched.migrated,
                "name": name,
                "store": hex_encode(fetched.store),
                "stored_at": fetched.stored_at,
            }
            if out is not None:
                write_new_file(out, fetched.value, replace=force)
                device.show.result({**data, "file": str(out)}, [f"{name}: {len(fetched.value)} bytes in {out}"])
            else:
                _print_value(device.show, data, fetched.value)

    @app.command("list", help=words.list)
    def list_command(context: typer.Context) -> None:
        with opened(context) as device:
            entries = list(objects.listed(kind, device))
            data = {"names": [{"name": name, "store": hex_encode(store)} for name, store in entries]}
            device.show.table(data, ("name", "current store"), [(name, hex_encode(store)) for name, store in entries])

    @app.command("rm", help=words.rm, short_help=words.rm)
    def rm_command(context: typer.Context, name: NameArgument) -> None:
        with opened(context) as device:
            device.show.confirm(f"Delete {name} for ever?")
            removed = objects.remove(kind, device, name)
            data = {"name": name, "deleted": True, "row_hash": hex_encode(removed.row.row_hash)}
            device.show.result(data, [f"deleted {name}, row {removed.row.seq}"])

    return app


def _value(kind: ObjectKind, source: str) -> bytes:
    if source == "-":
        data = sys.stdin.buffer.read(kind.max_bytes + 1)
    else:
        data = read_public_file(Path(source), limit=kind.max_bytes)
    if not 1 <= len(data) <= kind.max_bytes:
        raise DeviceError(Trouble.USAGE, f"a {kind.word} has 1 to {kind.max_bytes} bytes")
    return data


def _print_value(show: Show, data: dict[str, object], value: bytes) -> None:
    if show.as_json:
        show.result({**data, "value": b64u_encode(value)})
    else:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
        if sys.stdout.isatty() and not value.endswith(b"\n"):
            sys.stdout.write("\n")  # the next prompt has a line of its own; a file or pipe gets the bytes alone
