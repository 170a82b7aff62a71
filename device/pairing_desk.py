"""Pairing through the broker, which carries everything and is believed nothing.

The machine begins, shows its code and pairing hash, learns who claims it, and signs a `Pair` for an operator that its
person agreed to. The master claims by the code, and holds on to the key that it was told then: its hash is what people
compare, and the `Pair` that comes later must be that key's.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from agentkeys_core.changes import SignedPair, pairing_hash
from agentkeys_core.encoding import b64u_decode, b64u_encode, fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import check_label
from agentkeys_core.ops import Service
from agentkeys_core.shapes import sequence, text
from device.broker_session import BrokerSession, Prover
from device.change_desk import views_of
from device.errors import DeviceError, Trouble
from device.identity import Identity, Part
from device.learn import learn_agent, own_record
from device.pairing import Offer, make_offer, shown
from device.pairing_link import PairingLink
from device.session import Device
from device.waiting import Pause, until

#: A pairing at the broker lasts as long.
WAIT_S: Final = 600.0
FINGERPRINT_BYTES: Final = 16
_ID: Final = re.compile("[0-9a-f]{32}")
_CODE: Final = re.compile("[0-9A-Z]{4}-[0-9A-Z]{4}")
_NAMES: Final = (
    *("device", "expires_at", "id", "label", "operator_omni", "pair", "profile_hash"),
    *("public_key", "services", "state"),
)
_BAD: Final = Reason.INVALID_ENCODING

T = TypeVar("T")


def fingerprint(operator: bytes) -> str:
    """The first 128 bits of an operator omni, as both machines show them."""
    return shown(operator[:FINGERPRINT_BYTES])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldPairing:
    """A pairing as the broker tells it; well-formed, and no more than that. `code` is empty but for who begins."""

    id: str
    public_key: bytes
    profile_hash: bytes
    label: str | None
    services: tuple[str, ...]
    operator: bytes | None
    pair: SignedPair | None
    code: str = ""

    @classmethod
    def parse(cls, answer: object) -> Self:
        """Raises `answer_not_trusted`."""
        try:
            found = cls._read(fields(answer, required=_NAMES, optional=("code",), reason=_BAD))
        except (KeyServiceError, ValueError) as exc:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells no pairing") from exc
        # These end up in a path and on a terminal.
        if not _ID.fullmatch(found.id) or (found.code and not _CODE.fullmatch(found.code)):
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker's pairing has no id or code")
        return found

    @classmethod
    def _read(cls, members: Mapping[str, object]) -> Self:
        label, operator, pair = (members[name] for name in ("label", "operator_omni", "pair"))
        if label is not None:
            check_label(text(label, "label", reason=_BAD))
        names = [text(name, "service", reason=_BAD) for name in sequence(members["services"], "services", reason=_BAD)]
        return cls(
            id=text(members["id"], "id", reason=_BAD),
            public_key=b64u_decode(members["public_key"], length=33),
            profile_hash=b64u_decode(members["profile_hash"], length=32),
            label=None if label is None else str(label),
            services=tuple(sorted({Service.parse(name).text for name in names})),
            operator=None if operator is None else hex_decode(operator, length=32),
            pair=None if pair is None else SignedPair.from_json(pair),
            code=text(members.get("code", ""), "code", reason=_BAD),
        )


def _until(ask: Callable[[], T | None], what: str, pause: Pause) -> T:
    """Ask until there is something. Raises what `ask` raises for good; `pairing_ended` after 600 s."""
    otherwise = DeviceError(Trouble.PAIRING_ENDED, f"{what} within {WAIT_S:.0f} s; begin anew")
    return until(ask, otherwise=otherwise, pause=pause, limit_s=WAIT_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A pairing that this machine began, and the 16 bytes that it shows."""

    id: str
    code: str
    hash: bytes
    link: PairingLink


class MachineSide:
    """The machine that wants to become an agent."""

    def __init__(self, device: Device, *, pause: Pause = time.sleep) -> None:
        self._device = device
        self._prover = Prover(device)
        self._pause = pause

    def begin(self, *, label: str | None, services: Sequence[str]) -> Begun:
        """Begin a pairing, which binds this machine to nobody yet.

        Raises:
            DeviceError: `already_initialised` on a master's machine; `answer_not_trusted`, `unreachable`.
            KeyServiceError: the broker's refusal.
        """
        device = self._device
        identity = Identity.load(device.home)
        if identity is not None and identity.part is not Part.AGENT:
            raise DeviceError(Trouble.ALREADY_INITIALISED, f"{device.home.path} is a master's; use another --home")
        profile = device.profile
        asked = {"label": label, "profile_hash": b64u_encode(profile.hash()), "services": list(services)}
        told = ToldPairing.parse(self._prover.begin("/v1/pairings", asked))
        if not told.code:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells no code")
        # From our own key: what the broker tells of it is not looked at.
        value = pairing_hash(device_public_key=device.k10.public_key, profile_hash=profile.hash())
        return Begun(
            id=told.id,
            code=told.code,
            hash=value,
            link=PairingLink(broker=profile.broker, code=told.code, hash=value),
        )

    def claimed_by(self, begun: Begun) -> bytes:
        """Wait until somebody claims the pairing, and return that operator's omni: the broker's word.

        Raises:
            KeyServiceError: `ceremony_ended`, and the broker's other refusals.
            DeviceError: `pairing_ended`, `answer_not_trusted`.
        """
        return _until(lambda: self._told(begun).operator, "nobody claimed it", self._pause)

    def agree(self, begun: Begun, operator: bytes) -> Offer:
        """Sign the `Pair` for an operator that the person agreed to, and hand it to the broker.

        Raises:
            DeviceError: `already_initialised` for a machine that serves another operator.
            KeyServiceError: the broker's refusal.
        """
        offer = make_offer(self._device, operator, label=None)
        pair = offer.pair.to_json()

        def hand_over() -> bool:
            try:
                self._prover.ask("request", "POST", f"/v1/pairings/{begun.id}", {"pair": pair})
            except KeyServiceError as exc:
                # Its first answer may have been lost.
                if exc.reason is not Reason.CEREMONY_ENDED or self._told(begun).pair != offer.pair:
                    raise
            return True

        _until(hand_over, "the broker did not answer", self._pause)
        return offer

    def registered(self) -> Identity:
        """Wait until the registry knows this device, and return what it is there.

        Raises:
            DeviceError: `pairing_ended` where no master added it meanwhile; as `learn_agent`.
        """

        def known() -> Identity | None:
            try:
                views = views_of(self._device, self._device.identity().operator_omni)
            except DeviceError as exc:
                if exc.reason is not Trouble.NOT_REGISTERED:
                    raise
                return None
            return None if own_record(self._device, views) is None else learn_agent(self._device, views)

        return _until(known, "no master added this device", self._pause)

    def _told(self, begun: Begun) -> ToldPairing:
        return ToldPairing.parse(self._prover.ask("request", "GET", f"/v1/pairings/{begun.id}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A pairing that this master claimed. Label and services are proposals, and told by the broker alone."""

    id: str
    public_key: bytes
    label: str | None
    services: tuple[str, ...]
    hash: bytes


class MasterSide:
    """The master that lets a machine in."""

    def __init__(self, device: Device, *, session: BrokerSession | None = None, pause: Pause = time.sleep) -> None:
        self._device = device
        self._session = session or BrokerSession(device)
        self._pause = pause

    def claim(self, code: str) -> Claimed:
        """Claim the pairing of a code. Its hash is computed here, from the key that was told and our own profile.

        Raises:
            KeyServiceError: `ceremony_ended` for a code that is over or never was; `rate_limited`; other refusals.
            DeviceError: `pair_invalid` for a machine with another profile; `answer_not_trusted`.
        """
        told = ToldPairing.parse(self._session.ask("POST", "/v1/pairings/claim", {"code": code}))
        profile = self._device.profile.hash()
        if told.profile_hash != profile:
            raise DeviceError(Trouble.PAIR_INVALID, "its machine has another profile than this one")
        return Claimed(
            id=told.id,
            public_key=told.public_key,
            label=told.label,
            services=told.services,
            hash=pairing_hash(device_public_key=told.public_key, profile_hash=profile),
        )

    def offer(self, claimed: Claimed) -> Offer:
        """Wait for the machine's `Pair` and return it, checked against the key that was compared.

        Raises:
            DeviceError: `pair_invalid` for any other; `pairing_ended`, `answer_not_trusted`.
            KeyServiceError: `ceremony_ended`, and the broker's other refusals.
        """
        path = f"/v1/pairings/claimed/{claimed.id}"
        pair = _until(
            lambda: ToldPairing.parse(self._session.ask("GET", path)).pair,
            "the machine did not agree",
            self._pause,
        )
        offer = Offer(public_key=claimed.public_key, pair=pair, label=claimed.label)
        offer.check(self._device)
        return offer
