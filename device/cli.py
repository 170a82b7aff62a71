"""`agentkeys`, the user's side: parses, calls, prints. Exit codes are those of `device.errors.ExitCode`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from agentkeys_core.errors import KeyServiceError
from device.commands import agent, audit, console, cred, devices, init, masters, memory, pair, sessions, sign, whoami
from device.commands.context import DEFAULT_HOME, Options
from device.errors import DeviceError, ExitCode, Trouble, exit_code
from device.k11.port import AskedBy
from device.show import Show

_INTERRUPTED: Final = 130
_EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 refused, 2 wrong arguments or input, 3 denied to this device, 4 not found, "
    "5 unavailable (try again), 6 not trustworthy (nothing was used), 7 conflict."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes leave too little room for words on narrow terminals
    pretty_exceptions_enable=False,
    help="Credentials that only your own devices can use: every request is signed here, every answer is verified here.",
    epilog=_EXIT_CODES,
)


@app.callback()
def _options(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option("--home", metavar="DIR", envvar="AGENTKEYS_HOME", help="This device's folder, mode 0700.")
    ] = DEFAULT_HOME,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; errors as one on stderr.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree beforehand to what will be signed.")] = False,
    approve_with: Annotated[
        AskedBy | None,
        typer.Option(
            "--approve-with",
            envvar="AGENTKEYS_APPROVE_WITH",
            help="How K11 is asked: on this machine's page, or here with a security key over USB. "
            "By default as it was made. The console opens the page.",
        ),
    ] = None,
) -> None:
    context.obj = Options(home=home.expanduser(), show=Show(as_json=as_json, yes=yes, asked_by=approve_with))


app.command("init", short_help="Make this machine the first master of a new tree.")(init.init)
app.command("pair", short_help="On a new machine: make its key, and have a master let it in.")(pair.pair)
app.command("join", short_help="On a new machine: become the master that the others approved.")(masters.join_command)
app.command("whoami", short_help="Show this device, and what the registry holds of it.")(whoami.whoami)
app.add_typer(cred.app, name="cred")
app.add_typer(memory.app, name="memory")
app.add_typer(sign.wallet_app, name="wallet")
app.add_typer(sign.app, name="sign")
app.add_typer(agent.app, name="agent")
app.add_typer(agent.scope_app, name="scope")
app.add_typer(devices.app, name="device")
app.command("freeze", short_help="Stop everything of this operator at once; without K11.")(devices.freeze_command)
app.command("unfreeze")(devices.unfreeze_command)
app.command("teardown")(devices.teardown_command)
app.add_typer(audit.app, name="audit")
app.add_typer(sessions.app, name="sessions")
app.command("console", short_help="This master's own pages, on localhost.")(console.console)


def _globals_first(args: Sequence[str]) -> list[str]:
    """Move --home, --json, --yes and --approve-with before the command, so that they may stand anywhere."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*front, *rest, word, *words]
        if word in ("--json", "--yes", "-y") or word.startswith(("--home=", "--approve-with=")):
            front.append(word)
        elif word in ("--home", "--approve-with"):
            front += [word, *[value for value in [next(words, None)] if value is not None]]
        else:
            rest.append(word)
    return [*front, *rest]


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Nothing but named refusals reaches the terminal: no traceback, no secret.
    """
    as_json = "--json" in args
    show = Show(as_json=as_json)
    try:
        # In json mode even a mistyped option must come as JSON; otherwise the library explains it better.
        result = app(args=_globals_first(args), prog_name="agentkeys", standalone_mode=not as_json)
    except (DeviceError, KeyServiceError) as exc:
        show.error(exc)
        return exit_code(exc)
    except typer.TyperException as exc:
        show.error(DeviceError(Trouble.USAGE, exc.format_message()))
        return ExitCode.USAGE
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else ExitCode.REFUSED
    except Exception as exc:  # noqa: BLE001 - a traceback could show what it must not
        show.error(DeviceError(Trouble.INTERNAL, type(exc).__name__))
        return ExitCode.REFUSED
    return result if isinstance(result, int) else ExitCode.OK


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))
