"""What somebody brought to this console and is not decided yet: a claimed code, an offer, or others' approvals.

One thing at a time, so that what is decided is what was shown.
"""

import secrets
from collections.abc import Callable
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


class Inbox:
    """At most one thing. `id` names it: a form that names another one decides nothing.

    `by_link` says that the text of a QR code named the pairing hash.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget it."""
        self.id = ""
        self.found: Claimed | Offer | Collected | None = None
        self.by_link = False

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

    def named(self, form: Form) -> Claimed | Offer | Collected:
        """What a form decides. Raises `usage` where it was shown something else than lies here."""
        if self.found is None or form.one("id") != self.id:
            raise DeviceError(Trouble.USAGE, "That is not what is shown; begin anew.")
        return self.found

    def _take(self, found: Claimed | Offer | Collected, *, by_link: bool = False) -> None:
        self.id, self.found, self.by_link = secrets.token_hex(16), found, by_link


def _kind(data: bytes) -> object:
    try:
        found = strict_json(data, limit=MAX_POST_BYTES, reason=Reason.INVALID_BODY)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, "That is no file of agentkeys.") from exc
    return found.get("kind") if isinstance(found, dict) else None
