"""The user's sessions at the broker, as it tells of them: looked at, and ended from any device of the same user."""

from collections.abc import Sequence
from typing import Final

from agentkeys_core.encoding import fields, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from agentkeys_core.shapes import boolean, sequence
from device.agents import device_name
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.signed_in import SignedIn, SignInMethod

_BAD: Final = Reason.INVALID_ENCODING
_METHODS: Final = {SignInMethod.DEVICE: "the device's key", SignInMethod.WALLET: "your wallet and the device's key"}
_SHORT: Final = 8


def sessions_of(session: BrokerSession) -> list[SignedIn]:
    """Return the sessions that have not ended, the newest first; the one that asks is among them.

    Raises:
        KeyServiceError: the broker's refusal.
        DeviceError: `answer_not_trusted`, also for a session of somebody else; `unreachable`.
    """
    answer = session.ask("GET", "/v1/sessions")
    try:
        listed = sequence(fields(answer, required=("sessions",), reason=_BAD)["sessions"], "sessions", reason=_BAD)
        found = [SignedIn.parse(entry) for entry in listed]
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"sessions: {exc}") from exc
    own = session.signed_in
    if own is None or any(entry.operator != own.operator for entry in found):
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells of somebody else's sessions")
    return sorted(found, key=lambda entry: (-entry.created_at, entry.id))


def others(session: BrokerSession) -> list[SignedIn]:
    """The same without the one that asks."""
    found = sessions_of(session)
    own = session.signed_in
    return [entry for entry in found if own is None or entry.id != own.id]


def end_sessions(session: BrokerSession, ending: Sequence[SignedIn]) -> int:
    """Have the broker end these, and return how many it says it ended; the rest had ended already.

    Raises:
        KeyServiceError, DeviceError: as `sessions_of`.
    """
    ended = 0
    for entry in ending:
        answer = session.ask("POST", "/v1/session/end", {"id": hex_encode(entry.id)})
        try:
            told = fields(answer, required=("ended",), reason=_BAD)["ended"]
            ended += boolean(told, "ended", reason=_BAD)
        except KeyServiceError as exc:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the end of a session: {exc}") from exc
    return ended


def whose(state: OperatorState, entry: SignedIn) -> str:
    """Which device it is, by the registry and not by the broker's session."""
    record = state.devices.get(entry.device)
    name = "a device that the registry does not know" if record is None else device_name(record)
    return f"{name} {hex_encode(entry.device)[:_SHORT]}"


def method_words(entry: SignedIn) -> str:
    """What signed the device in."""
    return _METHODS[entry.method]
