"""A proof of identity at the broker: begun, shown to the person, and waited for. The broker is believed nothing here.

What was begun is kept in the folder, so that an init that was interrupted goes on with the same page or mail. The code
that its page asks for is told here and nowhere else: whoever was sent somebody else's page has none to type.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from agentkeys_core.encoding import canonical_json, fields, hex_decode, hex_encode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.shapes import integer, text
from device.broker_session import Prover
from device.errors import DeviceError, Trouble
from device.home import Home
from device.pairing import shown
from device.session import Device
from device.waiting import WAIT_S, Pause, until

CEREMONY_FILE: Final = "pending-ceremony.json"
#: How much of its key hash a device and the broker's page show for people to compare.
FINGERPRINT_BYTES: Final = 8
_STATUS_PATH: Final = "/v1/identity/ceremonies/"
_ID: Final = re.compile("[0-9a-f]{32}")
_SECRET: Final = re.compile("[A-Za-z0-9_-]{16,128}")
_CODE: Final = re.compile("[0-9A-Z]{3}-[0-9A-Z]{3}")
_BAD: Final = Reason.INVALID_ENCODING
_VERSION: Final = 2
#: Files of a version before codes: their ceremonies are over.
_WITHOUT_CODE: Final = 1
_LIMIT: Final = 4096
#: What the broker says of a ceremony that it no longer has: another one may be begun.
_OVER: Final = frozenset({Reason.CEREMONY_ENDED, Reason.NOT_FOUND})


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the person needs to go on: the address of the page (empty where a mail has it), and the code to type there.

    `code` is empty where the page asks for none; `again` says that page or mail are of an earlier run.
    """

    page: str = field(repr=False)
    code: str = field(repr=False)
    again: bool


Invite = Callable[[Invitation], None]


def fingerprint(device: Device) -> str:
    """What the broker's page must show of this device; from its own key, never from an answer."""
    return shown(device.k10.key_hash[:FINGERPRINT_BYTES])


class State(StrEnum):
    """How far a ceremony is: `AUTHENTICATED` when the provider told who it is, and the person has yet to agree."""

    PENDING = "pending"
    AUTHENTICATED = "authenticated"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a ceremony is begun with. `page` is the path below which its page must lie, empty where it has none.

    `coded` says whether somebody must type a code there.
    """

    path: str
    members: Mapping[str, object]
    page: str = ""
    coded: bool = True

    @property
    def digest(self) -> bytes:
        """32 bytes: whether a ceremony that was begun before is this one."""
        return sha256(canonical_json({"members": self.members, "path": self.path}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A ceremony as the broker tells it: well-formed, about this device, and no more than that."""

    id: str
    state: State
    page: str = field(default="", repr=False)
    code: str = field(default="", repr=False)
    id_token: str = field(default="", repr=False)
    passkey: object = None
    evidence: object = None

    @classmethod
    def parse(cls, answer: object, device: Device) -> Self:
        """Raises `answer_not_trusted`."""
        names, more = ("device", "expires_at", "id", "state"), ("code", "evidence", "id_token", "page", "passkey")
        try:
            members = fields(answer, required=names, optional=more, reason=_BAD)
            told = {name: text(members.get(name, ""), name, reason=_BAD) for name in ("code", "id", "id_token", "page")}
            integer(members["expires_at"], "expires_at", reason=_BAD)
            state = State(text(members["state"], "state", reason=_BAD))
        except (KeyServiceError, ValueError) as exc:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells no ceremony") from exc
        if not _ID.fullmatch(told["id"]):  # it ends up in a path
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker's ceremony has no id")
        if members["device"] != fingerprint(device):
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells another device's ceremony")
        return cls(**told, state=state, passkey=members.get("passkey"), evidence=members.get("evidence"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A ceremony that this folder began. `page` has a secret in it; whoever has it can open that page."""

    asked: bytes
    id: str
    page: str = field(repr=False)
    code: str = field(repr=False)

    def encode(self) -> bytes:
        texts = {"code": self.code, "id": self.id, "page": self.page}
        return canonical_json({**texts, "asked": hex_encode(self.asked), "ver": _VERSION})

    @classmethod
    def load(cls, home: Home) -> Self | None:
        data = home.read(CEREMONY_FILE)
        if data is None:
            return None
        try:
            obj = parse_canonical(data, limit=_LIMIT, not_canonical=_BAD)
            if isinstance(obj, dict) and obj.get("ver") == _WITHOUT_CODE:
                return None
            members = fields(obj, required=("asked", "code", "id", "page", "ver"), reason=_BAD)
            integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
            found = {name: text(members[name], name, reason=_BAD) for name in ("code", "id", "page")}
            return cls(asked=hex_decode(members["asked"], length=32), **found)
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"{home.path / CEREMONY_FILE}: {exc}") from exc


class Proving:
    """Takes the person through ceremonies, one after the other."""

    __slots__ = ("_device", "_pause", "_prover")

    def __init__(self, device: Device, *, pause: Pause = time.sleep) -> None:
        self._device = device
        self._prover = Prover(device)
        self._pause = pause

    def confirmed(self, asked: Asked, invite: Invite) -> Told:
        """Return the ceremony once the person has confirmed it; one that was begun for the same before goes on.

        Args:
            asked: what it is begun with.
            invite: tells the person where to go on, before the waiting begins.

        Raises:
            DeviceError: `identity_not_offered`; `answer_not_trusted` for a page elsewhere, or an answer that is none;
                `not_confirmed` after 600 s; `unreachable`, `peer_not_trusted`.
            KeyServiceError: the broker's refusal, `ceremony_ended` among them.
        """
        kept = _Kept.load(self._device.home)
        told = None if kept is None or kept.asked != asked.digest else self._still(kept.id)
        if told is not None and told.state is State.CONFIRMED:
            return told
        again = kept is not None and told is not None
        if kept is None or told is None:
            kept = self._begin(asked)
        invite(Invitation(page=self._checked(asked, kept.page), code=_checked_code(asked, kept.code), again=again))
        ceremony = kept.id
        otherwise = DeviceError(Trouble.NOT_CONFIRMED, f"nobody confirmed it within {WAIT_S:.0f} s")
        return until(lambda: self._done(ceremony), otherwise=otherwise, pause=self._pause, limit_s=WAIT_S)

    def _still(self, ceremony: str) -> Told | None:
        """A ceremony of before, None where the broker no longer has it, or where its page leads on no more.

        After the sign-in at a provider only the page that is open then does, and that may have been closed.
        """
        try:
            told = self._told(ceremony)
        except KeyServiceError as exc:
            if exc.reason not in _OVER:
                raise
            return None
        return None if told.state is State.AUTHENTICATED else told

    def _begin(self, asked: Asked) -> _Kept:
        try:
            told = Told.parse(self._prover.begin(asked.path, asked.members), self._device)
        except KeyServiceError as exc:
            if exc.reason is not Reason.NOT_FOUND:
                raise
            raise DeviceError(Trouble.IDENTITY_NOT_OFFERED, "this deployment's broker does not offer that") from exc
        page, code = self._checked(asked, told.page), _checked_code(asked, told.code)
        kept = _Kept(asked=asked.digest, id=told.id, page=page, code=code)
        self._device.home.write(CEREMONY_FILE, kept.encode())
        return kept

    def _checked(self, asked: Asked, page: str) -> str:
        """Return the page's address. Raises `answer_not_trusted` unless it is one of the profile's own broker."""
        if not asked.page:
            return ""
        head = self._device.profile.broker + asked.page
        if not page.startswith(head) or not _SECRET.fullmatch(page.removeprefix(head)):
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the page that the broker names is not its own")
        return page

    def _told(self, ceremony: str) -> Told:
        told = Told.parse(self._prover.ask("request", "GET", _STATUS_PATH + ceremony), self._device)
        if told.id != ceremony:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells another ceremony")
        return told

    def _done(self, ceremony: str) -> Told | None:
        told = self._told(ceremony)
        return told if told.state is State.CONFIRMED else None


def _checked_code(asked: Asked, code: str) -> str:
    """Return the code to type. Raises `answer_not_trusted` where there must be one and is none."""
    if not asked.coded:
        return ""
    if not _CODE.fullmatch(code):
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker's ceremony has no code")
    return code


def forget_ceremony(home: Home) -> None:
    """The next one is begun anew."""
    home.remove(CEREMONY_FILE)
