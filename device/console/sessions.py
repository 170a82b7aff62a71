"""The sessions page: who is signed in at the broker, ending that, and signing in with one's own wallet."""

from collections.abc import Sequence

from agentkeys_core.checksum import checksum_encode
from agentkeys_core.encoding import hex_encode
from agentkeys_core.registry import OperatorState
from device.broker_session import BrokerSession
from device.console.forms import Form
from device.console.job import Job, Work
from device.console.pages import Seen
from device.console.render import page
from device.errors import DeviceError, Trouble
from device.intent import moment
from device.local_web import Reply
from device.session import Device
from device.sessions import end_sessions, method_words, others, sessions_of, whose
from device.signed_in import SignedIn, SignInMethod
from device.wallet_page.questions import sign_message
from device.wallet_sign_in import own_wallet, sign_in


def sessions_page(seen: Seen, session: BrokerSession) -> Reply:
    """All sessions of this user, and how this console's own one was begun. Raises as `sessions_of`."""
    found = sessions_of(session)
    own = session.signed_in
    is_own_wallet = seen.state.wallet_epoch == 0
    return page(
        "sessions.html",
        by_wallet=own is not None and own.method is SignInMethod.WALLET,
        others=sum(not _is(entry, own) for entry in found),
        said=seen.said,
        sessions=[_entry(seen.state, entry, is_own=_is(entry, own)) for entry in found],
        wallet=checksum_encode(own_wallet(seen.state)) if is_own_wallet else "",
    )


def end_session_of(form: Form, session: BrokerSession) -> str:
    """End one session or all others, as the form asks; the page to go to. Raises `usage`, and as `end_sessions`."""
    ending, which = others(session), form.one("id")
    if form.one("which") != "others":
        ending = [entry for entry in ending if hex_encode(entry.id) == which]
        if not ending:
            raise DeviceError(Trouble.USAGE, "That session has ended already.")
    end_sessions(session, ending)
    return "sessions"


def signed_in_by_wallet(state: OperatorState, session: BrokerSession) -> Work:
    """Work that begins this console's session anew, by the user's own wallet. Raises `policy_refused` without one."""
    wallet = own_wallet(state)

    def work(job: Job, device: Device) -> Sequence[str]:
        made = sign_in(device, session, wallet, lambda intent, message: sign_message(job.ask_wallet, intent, message))
        return (f"This console is signed in with your wallet until {moment(made.expires_at)}.",)

    return work


def _is(entry: SignedIn, own: SignedIn | None) -> bool:
    return own is not None and entry.id == own.id


def _entry(state: OperatorState, entry: SignedIn, *, is_own: bool) -> dict[str, object]:
    return {
        "device": whose(state, entry),
        "id": hex_encode(entry.id),
        "method": method_words(entry),
        "own": is_own,
        "since": moment(entry.created_at),
        "until": moment(entry.expires_at),
    }
