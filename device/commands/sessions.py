"""`sessions list | end`: who is signed in at the broker."""

from typing import Annotated, Final

import typer

from agentkeys_core.encoding import hex_encode
from device.agents import state_now
from device.broker_session import BrokerSession
from device.commands.context import opened
from device.errors import DeviceError, Trouble
from device.intent import moment
from device.sessions import end_sessions, method_words, others, whose
from device.signed_in import SignedIn

app = typer.Typer(
    no_args_is_help=True, help="Who is signed in at the broker. Sessions open its pages; they release nothing."
)
_MIN_DIGITS: Final = 8


@app.command("list", short_help="List the sessions that have not ended.")
def list_command(context: typer.Context) -> None:
    """List the sessions of this user that have not ended, as the broker tells of them."""
    with opened(context) as device:
        session = BrokerSession(device)
        try:
            found, state = others(session), state_now(device)
        finally:
            session.end()  # the one of this command
        rows = [
            (
                hex_encode(entry.id),
                whose(state, entry),
                method_words(entry),
                moment(entry.created_at),
                moment(entry.expires_at),
            )
            for entry in found
        ]
        data = {"sessions": [_json(entry) for entry in found]}
        device.show.table(data, ("session", "device", "signed in by", "since", "until"), rows)


@app.command("end")
def end_command(
    context: typer.Context,
    session_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A session, or at least the first 8 digits of it.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All sessions of all devices.")] = False,
) -> None:
    """End a session at once. The device may sign in again: to keep it out, revoke it."""
    if every == (session_id is not None):
        raise DeviceError(Trouble.USAGE, "name a session, or --all")
    with opened(context) as device:
        session = BrokerSession(device)
        try:
            found = others(session)
            ended = end_sessions(session, found if session_id is None else [_named(found, session_id)])
        finally:
            session.end()
        device.show.result({"ended": ended})


def _named(found: list[SignedIn], text: str) -> SignedIn:
    digits = text.strip().lower()
    fitting = [entry for entry in found if hex_encode(entry.id).startswith(digits)]
    if len(digits) < _MIN_DIGITS:
        raise DeviceError(Trouble.USAGE, "a session is named by its id, or the first 8 digits of it or more")
    if len(fitting) != 1:
        reason = Trouble.AMBIGUOUS if fitting else Trouble.NO_SUCH_SESSION
        raise DeviceError(reason, f"{len(fitting)} sessions begin like that")
    return fitting[0]


def _json(entry: SignedIn) -> dict[str, object]:
    return {
        "created_at": entry.created_at,
        "device": hex_encode(entry.device),
        "expires_at": entry.expires_at,
        "id": hex_encode(entry.id),
        "method": entry.method.value,
    }
