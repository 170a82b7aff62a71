"""A registry change with the signatures that carry it: the body of `POST /v1/registry/changes` (wire.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.change_message import Change
from agentkeys_core.change_types import Pair, parse_change
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import (
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_decode,
    hex_encode,
    strict_json,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.shapes import sequence

#: Room for the longest change and the assertions of many masters.
MAX_CHANGE_BYTES: Final = 64 * 1024
#: r || s || v over EIP-712.
SIGNATURE_BYTES: Final = 65
_BAD: Final = Reason.INVALID_CHANGE


def _signature(value: object) -> bytes:
    return b64u_decode(value, length=SIGNATURE_BYTES, reason=_BAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class K11OfDevice:
    """An assertion and the 32-byte key hash of the master device whose K11 made it."""

    device: bytes
    assertion: K11Assertion

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read one entry of `k11`. Raises `unknown_fields` or `invalid_change`."""
        if not isinstance(obj, dict) or "device" not in obj:
            raise KeyServiceError(_BAD, "a k11 entry names no device")
        rest = {name: value for name, value in obj.items() if name != "device"}
        return cls(
            device=hex_decode(obj["device"], length=32, reason=_BAD),
            assertion=K11Assertion.parse(rest, malformed=_BAD, encoding=_BAD),
        )

    def to_json(self) -> dict[str, str]:
        """One entry of `k11`."""
        return {"device": hex_encode(self.device), **self.assertion.encode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPair:
    """A new device's `Pair` and its 65-byte signature over that message's digest."""

    message: Pair
    signature: bytes

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `pair`. Raises `unknown_fields` or `invalid_change`."""
        members = fields(obj, required=("message", "signature"), reason=_BAD)
        return cls(message=Pair.from_message(members["message"]), signature=_signature(members["signature"]))

    def to_json(self) -> dict[str, object]:
        """The `pair` object."""
        return {"message": self.message.to_message(), "signature": b64u_encode(self.signature)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSignatures:
    """What was signed over one change's digest; which of these it needs is the registry's rule, not the format's."""

    k10: bytes
    k11: tuple[K11OfDevice, ...] = ()
    new_device: bytes | None = None
    pair: SignedPair | None = None
    wallet: bytes | None = None

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `signatures`. Raises `unknown_fields` or `invalid_change`."""
        members = fields(obj, required=("k10", "k11"), optional=("new_device", "pair", "wallet"), reason=_BAD)
        return cls(
            k10=_signature(members["k10"]),
            k11=tuple(K11OfDevice.from_json(entry) for entry in sequence(members["k11"], "k11", reason=_BAD)),
            new_device=_signature(members["new_device"]) if "new_device" in members else None,
            pair=SignedPair.from_json(members["pair"]) if "pair" in members else None,
            wallet=_signature(members["wallet"]) if "wallet" in members else None,
        )

    def to_json(self) -> dict[str, object]:
        """The `signatures` object; what is absent is left out, not null."""
        optional: Mapping[str, object] = {
            "new_device": None if self.new_device is None else b64u_encode(self.new_device),
            "pair": None if self.pair is None else self.pair.to_json(),
            "wallet": None if self.wallet is None else b64u_encode(self.wallet),
        }
        return {
            "k10": b64u_encode(self.k10),
            "k11": [entry.to_json() for entry in self.k11],
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedChange:
    """A change and its signatures; nothing has been verified."""

    change: Change
    signatures: ChangeSignatures

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an HTTP body.

        Raises:
            KeyServiceError: `too_large`, `unknown_fields`, else `invalid_change`.
        """
        return cls.from_json(strict_json(data, limit=MAX_CHANGE_BYTES, reason=_BAD))

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `to_json`'s object. Raises `unknown_fields`, else `invalid_change`."""
        members = fields(obj, required=("change", "signatures"), reason=_BAD)
        named = fields(members["change"], required=("message", "type"), reason=_BAD)
        if named["type"] == Pair.struct.name:
            raise KeyServiceError(_BAD, "a Pair is no change")
        return cls(
            change=parse_change(named["type"], named["message"]),
            signatures=ChangeSignatures.from_json(members["signatures"]),
        )

    def encode(self) -> bytes:
        """The HTTP body, as canonical JSON."""
        return canonical_json(self.to_json())

    def to_json(self) -> dict[str, object]:
        """The object of the HTTP body."""
        return {
            "change": {"message": self.change.to_message(), "type": self.change.type},
            "signatures": self.signatures.to_json(),
        }

    def digest(self, domain: Domain) -> bytes:
        """The change's EIP-712 digest."""
        return self.change.digest(domain)
