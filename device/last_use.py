"""When each device was last used: the broker's word, which people may find useful and nothing decides by."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.encoding import fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import integer, sequence
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.intent import moment

PATH: Final = "/v1/devices/uses"
_BAD: Final = Reason.INVALID_ENCODING
#: The broker tells minutes; more digits would pretend to more.
_MINUTE: Final = len("2026-01-01 00:00")


def last_uses(session: BrokerSession) -> Mapping[bytes, int] | None:
    """When each device was last co-signed for: Unix seconds by key hash, or None where the broker does not say.

    A device that is missing was never used, as far as the broker knows.
    """
    try:
        return _parsed(session.ask("GET", PATH))
    except (DeviceError, KeyServiceError):  # a page or list is complete without
        return None


def use_words(uses: Mapping[bytes, int] | None, device: bytes) -> str:
    """The same for people, about one device."""
    if uses is None:
        return "not told"
    return moment(uses[device])[:_MINUTE] + " UTC" if device in uses else "never"


def _parsed(answer: object) -> Mapping[bytes, int]:
    found: dict[bytes, int] = {}
    try:
        for entry in sequence(fields(answer, required=("uses",), reason=_BAD)["uses"], "uses", reason=_BAD):
            members = fields(entry, required=("device", "used_at"), reason=_BAD)
            found[hex_decode(members["device"], length=32)] = integer(members["used_at"], "used_at", reason=_BAD)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"last uses: {exc}") from exc
    return found
