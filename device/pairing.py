"""Pairing: a new machine writes an offer naming operator and deployment; a master compares one hash.

An agent's offer holds its K10, a further master's its K11 as well.
"""

import hmac
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.changes import Pair, SignedPair, pairing_hash
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, hex_encode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import address_of
from agentkeys_core.keys import verify_recoverable
from agentkeys_core.pairing import NO_K11
from agentkeys_core.registry import K11Public
from agentkeys_core.shapes import text
from device.errors import DeviceError, Trouble
from device.identity import Identity, Part
from device.intent import change_intent
from device.session import Device

#: Long enough to carry a file to another machine and read it there.
PAIR_LIFE_S: Final = 3600
MAX_OFFER_BYTES: Final = 16 * 1024
_KIND: Final = "agentkeys-pair"
_VERSION: Final = 1
_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the new machine hands to a master. `public_key` has 33 bytes; `label` is a proposal only.

    `k11` is None for agents.
    """

    public_key: bytes
    pair: SignedPair
    k11: K11Public | None = None
    label: str | None = None

    @property
    def hash(self) -> bytes:
        """The 16 bytes that people compare on both machines."""
        return hash_of(self.public_key, self.k11, self.pair.message.profile_hash)

    def encode(self) -> bytes:
        """The file."""
        return canonical_json(
            {
                "device_public_key": b64u_encode(self.public_key),
                "k11": None if self.k11 is None else self.k11.to_json(),
                "kind": _KIND,
                "label": self.label,
                "pair": self.pair.to_json(),
                "ver": _VERSION,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the file. Raises `bad_file`."""
        try:
            names = ("device_public_key", "k11", "kind", "label", "pair", "ver")
            members = fields(strict_json(data, limit=MAX_OFFER_BYTES, reason=_BAD), required=names, reason=_BAD)
            label, k11 = members["label"], members["k11"]
            offer = cls(
                public_key=b64u_decode(members["device_public_key"], length=33),
                pair=SignedPair.from_json(members["pair"]),
                k11=None if k11 is None else K11Public.from_json(k11),
                label=None if label is None else text(label, "label", reason=_BAD),
            )
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"not a pairing offer: {exc}") from exc
        if members["kind"] != _KIND or members["ver"] != _VERSION:
            raise DeviceError(Trouble.BAD_FILE, "not a pairing offer of this version")
        return offer

    def check(self, master: Device, *, part: Part = Part.AGENT) -> None:
        """Raise `pair_invalid` unless it is genuine, current, and made for this master's operator and deployment.

        `part` is what the new device is to become.
        """
        message = self.pair.message
        digest = message.digest(master.profile.domain)
        try:
            address = address_of(self.public_key)
        except (KeyServiceError, ValueError) as exc:
            raise DeviceError(Trouble.PAIR_INVALID, "its key is none") from exc
        named = NO_K11 if self.k11 is None else self.k11.credential_id_hash
        checks = (
            (message.operator_omni == master.identity().operator_omni, "it names another operator"),
            (
                hmac.compare_digest(message.profile_hash, master.profile.hash()),
                "its machine has another profile than this one",
            ),
            (message.device == address, "its key is another device's"),
            (verify_recoverable(self.public_key, digest, self.pair.signature), "its signature is wrong"),
            ((self.k11 is None) == (part is Part.AGENT), f"it is not that of a new {part}"),
            (message.k11_cred_id == named, "its K11 is another device's"),
            (message.expires_at > master.now(), "it has expired; run agentkeys pair again there"),
        )
        for holds, otherwise in checks:
            if not holds:
                raise DeviceError(Trouble.PAIR_INVALID, otherwise)


def hash_of(public_key: bytes, k11: K11Public | None, profile_hash: bytes) -> bytes:
    """The pairing hash of a device with this 33-byte K10 and, for a master, this K11."""
    keys = {} if k11 is None else {"k11_cred_id": k11.credential_id_hash, "k11_x": k11.x, "k11_y": k11.y}
    return pairing_hash(device_public_key=public_key, profile_hash=profile_hash, **keys)


def signed_offer(device: Device, operator: bytes, *, k11: K11Public | None = None, label: str | None = None) -> Offer:
    """Show and sign a `Pair` for this operator."""
    message = Pair(
        operator_omni=operator,
        device=device.k10.address,
        k11_cred_id=NO_K11 if k11 is None else k11.credential_id_hash,
        profile_hash=device.profile.hash(),
        expires_at=device.now() + PAIR_LIFE_S,
    )
    signed = device.k10.sign_change(message, device.profile.domain)
    device.show.signing(change_intent(message, signed.name))
    pair = SignedPair(message=message, signature=signed.signature)
    return Offer(public_key=device.k10.public_key, pair=pair, k11=k11, label=label)


def make_offer(device: Device, operator: bytes, *, label: str | None) -> Offer:
    """Offer this device as an agent, and remember whose it is; may be run again for a fresh offer.

    Raises:
        DeviceError: `already_initialised` for a folder that serves another operator or is a master's.
    """
    identity = Identity.load(device.home)
    if identity is None:
        identity = Identity(part=Part.AGENT, operator_omni=operator, profile_hash=device.profile.hash())
    elif identity.part is not Part.AGENT or identity.operator_omni != operator:
        raise DeviceError(
            Trouble.ALREADY_INITIALISED, f"{device.home.path} serves something else already; use another --home"
        )
    offer = signed_offer(device, operator, label=label)
    identity.save(device.home)
    return offer


def shown(pairing: bytes) -> str:
    """A pairing hash in groups of four digits, as both machines show it."""
    digits = hex_encode(pairing)
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
