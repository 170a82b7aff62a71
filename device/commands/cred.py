"""`cred put | get | list | rm`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import b64u_encode, hex_encode
from device.commands.context import opened
from device.credentials import MAX_VALUE_BYTES, get, listed, put, remove
from device.errors import DeviceError, Trouble
from device.home import read_public_file, write_new_file

app = typer.Typer(no_args_is_help=True, help="Credentials: store, read, list, delete.")
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="For example openrouter: a-z, 0-9, and . _ - inside, at most 64.")
]


def _value(source: str) -> bytes:
    if source == "-":
        data = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
    else:
        data = read_public_file(Path(source), limit=MAX_VALUE_BYTES)
    if not 1 <= len(data) <= MAX_VALUE_BYTES:
        raise DeviceError(Trouble.USAGE, f"a credential has 1 to {MAX_VALUE_BYTES} bytes")
    return data


@app.command("put", short_help="Store a credential. Replacing one needs K11.")
def put_command(
    context: typer.Context,
    name: NameArgument,
    source: Annotated[
        str, typer.Option("--file", metavar="FILE", help="Where the value is; - is standard input.")
    ] = "-",
) -> None:
    """Store a credential, byte for byte, never from the command line. Replacing one needs K11."""
    value = _value(source)
    with opened(context) as device:
        stored = put(device, name, value)
        replaced = None if stored.replaced is None else hex_encode(stored.replaced)
        data = {
            "name": name,
            "replaced": replaced,
            "row_hash": hex_encode(stored.row.row_hash),
            "store": hex_encode(stored.cap_digest),
        }
        device.show.result(
            data, [f"{'replaced' if replaced else 'stored'} {name} ({len(value)} bytes), row {stored.row.seq}"]
        )


@app.command("get", short_help="Read a credential: its very bytes. On a master it needs K11.")
def get_command(
    context: typer.Context,
    name: NameArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it to this file (mode 0600) instead of standard output."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Read a credential: its very bytes, after store and fetch were verified. On a master it needs K11.

    With --json its value is base64url without padding.
    """
    if out is not None and out.exists() and not force:
        raise DeviceError(Trouble.FILE_EXISTS, f"{out} exists already; --force replaces it")
    with opened(context) as device:
        fetched = get(device, name)
        data: dict[str, object] = {
            "cap_digest": hex_encode(fetched.cap_digest),
            "name": name,
            "store": hex_encode(fetched.store),
            "stored_at": fetched.stored_at,
        }
        if out is not None:
            write_new_file(out, fetched.value, replace=force)
            device.show.result({**data, "file": str(out)}, [f"{name}: {len(fetched.value)} bytes in {out}"])
        elif device.show.as_json:
            device.show.result({**data, "value": b64u_encode(fetched.value)})
        else:
            sys.stdout.buffer.write(fetched.value)
            sys.stdout.buffer.flush()
            if sys.stdout.isatty() and not fetched.value.endswith(b"\n"):
                sys.stdout.write("\n")  # the next prompt has a line of its own; a file or pipe gets the bytes alone


@app.command("list")
def list_command(context: typer.Context) -> None:
    """List the names that this device may see."""
    with opened(context) as device:
        entries = list(listed(device))
        data = {"names": [{"name": name, "store": hex_encode(store)} for name, store in entries]}
        device.show.table(data, ("name", "current store"), [(name, hex_encode(store)) for name, store in entries])


@app.command("rm", short_help="Delete a credential for ever. Needs K11.")
def rm_command(context: typer.Context, name: NameArgument) -> None:
    """Delete a credential for ever. Needs K11."""
    with opened(context) as device:
        device.show.confirm(f"Delete {name} for ever?")
        removed = remove(device, name)
        data = {"name": name, "deleted": True, "row_hash": hex_encode(removed.row.row_hash)}
        device.show.result(data, [f"deleted {name}, row {removed.row.seq}"])
