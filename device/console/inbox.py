"""What somebody brought to this console and is not decided yet: a claimed code, an offer, or others' approvals.

One thing at a time, so that what is decided is what was shown.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from device.approvals import behind
from device.collected import Collected
from device.console.forms import Form
from device.errors import DeviceError, Trouble
from device.identity import Part
from device.local_web import MAX_POST_BYTES
from device.pairing import Offer
from device.pairing_desk import Claimed, MasterSide
from device.pairing_link import SCHEME, PairingLink
from device.session import Device

_OFFER: Final = "agentkeys-pair"

#: Reads the registry.
State = Callable[[], OperatorState]


@dataclass(frozen=True, slots=True)
class Brought:
    """What lies here. `id` names it; `by_link` says that the text of a QR code named the pairing hash."""

    id: str
    found: Claimed | Offer | Collected
    by_link: bool = False


class Inbox:
    """At most one thing: a form that names another one decides nothing. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._brought: Brought | None = None

    @property
    def brought(self) -> Brought | None:
        """What lies here just now."""
        return self._brought

    def claim(self, device: Device, master: MasterSide, code: str) -> str:
        """Claim the pairing of a code, or of the text of a QR code; the page that shows it. Raises as `claim`."""
        link = None
        if code.startswith(SCHEME):
            link = PairingLink.parse(code)
            if link.broker != device.profile.broker:
                raise DeviceError(Trouble.PAIR_INVALID, "That machine asks at another broker than this one.")
        claimed = master.claim(code if link is None else link.code)
        if link is not None and not secrets.compare_digest(link.hash, claimed.hash):
            raise DeviceError(Trouble.PAIRING_HASH_MISMATCH, "That key was not made on that machine.")
        self._take(claimed, by_link=link is not None)
        return "pair"

    def hand_in(self, device: Device, text: str, state: State) -> str:
        """Read a file's text: a machine's offer or a change that masters sign together; the page that shows it.

        Raises:
            DeviceError: `bad_file`, `pair_invalid`, `approval_invalid`; as `state`.
        """
        data = text.encode()
        if _kind(data) == _OFFER:
            offer = Offer.parse(data)
            offer.check(device, part=Part.AGENT if offer.k11 is None else Part.MASTER)
            self._take(offer)
            return "pair"
        collected = Collected.parse(data)
        behind(device, collected, state())
        self._take(collected)
        return "changes"

    def named(self, form: Form) -> Brought:
        """What a form decides. Raises `usage` where it was shown something else than lies here."""
        brought = self._brought
        if brought is None or form.one("id") != brought.id:
            raise DeviceError(Trouble.USAGE, "That is not what is shown; begin anew.")
        return brought

    def forget(self, decided: Brought) -> None:
        """Make room, unless something else was brought meanwhile."""
        with self._lock:
            if self._brought is decided:
                self._brought = None

    def _take(self, found: Claimed | Offer | Collected, *, by_link: bool = False) -> None:
        with self._lock:
            self._brought = Brought(secrets.token_hex(16), found, by_link)


def _kind(data: bytes) -> object:
    try:
        found = strict_json(data, limit=MAX_POST_BYTES, reason=Reason.INVALID_BODY)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, "That is no file of agentkeys.") from exc
    return found.get("kind") if isinstance(found, dict) else None
