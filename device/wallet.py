"""Which wallet is this actor's: what the device expects to find in every signature, and how it knows."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from agentkeys_core.encoding import address_decode, address_encode, canonical_json, fields, hex_encode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import operator_omni
from device.change_desk import views_of
from device.errors import DeviceError, Trouble
from device.home import Home
from device.learn import actor_of
from device.problems import check_refusal
from device.session import Device

WALLET_FILE: Final = "wallet.json"
_PATH: Final = "/v1/derive-address"
_BAD: Final = Reason.INVALID_ENCODING
_LIMIT: Final = 4096


class Ground(StrEnum):
    """How an address is known.

    The operator omni is a hash of its master's wallet. A signed row names the wallet of a sign-in. What a broker says
    is only what a broker says, until then.
    """

    OPERATOR_OMNI = "operator_omni"
    SIGNED_ROW = "signed_row"
    BROKER = "broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """The address (20 bytes) of this actor's wallet."""

    address: bytes
    ground: Ground

    @property
    def proven(self) -> bool:
        """Whether it rests on more than a broker's word."""
        return self.ground is not Ground.BROKER

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({"address": address_encode(self.address), "ground": self.ground.value, "ver": 1})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `encode`'s bytes. Raises `unknown_fields` or `invalid_encoding`."""
        members = fields(
            parse_canonical(data, limit=_LIMIT, not_canonical=_BAD), required=("address", "ground", "ver"), reason=_BAD
        )
        if members["ver"] != 1 or members["ground"] not in tuple(Ground):
            raise KeyServiceError(_BAD, "ver or ground")
        return cls(address=address_decode(members["address"]), ground=Ground(str(members["ground"])))


def wallet_of(device: Device) -> Wallet:
    """The wallet that this device's signatures must be of.

    Raises:
        DeviceError: `answer_not_trusted` where a broker names another wallet than before; otherwise as its requests.
        KeyServiceError: the broker's refusal.
    """
    if device.is_master():
        return _masters(device)
    known = _kept(device.home)
    if known is not None and known.proven:
        return known
    told = Wallet(address=_told(device, actor_of(device)), ground=Ground.BROKER)
    if known is not None and known.address != told.address:
        raise DeviceError(
            Trouble.ANSWER_NOT_TRUSTED,
            f"the broker names another wallet than before; if it lied then, remove {device.home.path / WALLET_FILE}",
        )
    if known is None:
        device.home.write(WALLET_FILE, told.encode())
    return told


def prove(device: Device, address: bytes) -> None:
    """Keep an address that a verified row has named."""
    if not device.is_master():
        device.home.write(WALLET_FILE, Wallet(address=address, ground=Ground.SIGNED_ROW).encode())


def _masters(device: Device) -> Wallet:
    identity = device.identity()
    address = identity.wallet or views_of(device, identity.operator_omni)[0].state.wallet
    if operator_omni(address) != identity.operator_omni:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the wallet that is named is not the operator's")
    return Wallet(address=address, ground=Ground.OPERATOR_OMNI)


def _kept(home: Home) -> Wallet | None:
    data = home.read(WALLET_FILE)
    try:
        return None if data is None else Wallet.parse(data)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{home.path / WALLET_FILE}: {exc}") from exc


def _told(device: Device, actor: bytes) -> bytes:
    body = canonical_json({"omni": hex_encode(actor), "wallet": True})
    answer = check_refusal(device.channel(None).post(_PATH, body))
    try:
        return address_decode(fields(answer.json(), required=("address", "epoch"), reason=_BAD)["address"])
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the wallet's address: {exc}") from exc
