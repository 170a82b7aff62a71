"""Bodies and sealed answers of the two operations that sign with a wallet (docs/spec/formats.md)."""

from dataclasses import dataclass, field
from typing import Final, Self

from agentkeys_core.bodies import MAX_BODY_BYTES
from agentkeys_core.encoding import (
    address_decode,
    address_encode,
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_decode,
    parse_canonical,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import MAX_EPOCH, integer, text
from agentkeys_core.typed_data import TypedData

SIGNATURE_BYTES: Final = 65
_MAX_ANSWER_BYTES: Final = 64 * 1024
_BODY: Final = Reason.INVALID_BODY
_ANSWER: Final = Reason.INVALID_ENCODING


def _members(data: bytes, *names: str) -> dict[str, object]:
    value = parse_canonical(data, limit=MAX_BODY_BYTES, not_canonical=_BODY, not_utf8=_BODY)
    return fields(value, required=names, reason=_BODY, unknown=_BODY)


def _encoded(value: dict[str, object]) -> bytes:
    try:
        encoded = canonical_json(value)
    except KeyServiceError as exc:
        raise KeyServiceError(_BODY, "the body has no canonical form") from exc
    if len(encoded) > MAX_BODY_BYTES:
        raise KeyServiceError(Reason.TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes")
    return encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class SiweBody:
    """Body of siwe-sign: the EIP-4361 text, not yet parsed."""

    message: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical body; `too_large` over 1 MiB, else `invalid_body`."""
        return cls(message=text(_members(data, "message")["message"], "message", reason=_BODY))

    def encode(self) -> bytes:
        """Return the canonical body; `too_large`, or `invalid_body` for what is no Unicode text."""
        return _encoded({"message": self.message})


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedDataBody:
    """Body of typed-data-sign. `typed_data` is the JSON object as composed; `content` gives its meaning.

    `wallet_epoch`: an older epoch whose wallet shall sign; None for the one recorded when the actor was registered.
    """

    typed_data: object = field(repr=False)
    wallet_epoch: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical body; `too_large` over 1 MiB, else `invalid_body`. What it would sign is not judged."""
        members = _members(data, "typed_data", "wallet_epoch")
        epoch = members["wallet_epoch"]
        return cls(
            typed_data=members["typed_data"],
            wallet_epoch=None if epoch is None else integer(epoch, "wallet_epoch", low=1, high=MAX_EPOCH, reason=_BODY),
        )

    def content(self) -> TypedData:
        """What would be signed. Raises `invalid_typed_data`."""
        return TypedData.parse(self.typed_data)

    def encode(self) -> bytes:
        """Return the canonical body; `too_large`, or `invalid_body` for what has no canonical form."""
        return _encoded({"typed_data": self.typed_data, "wallet_epoch": self.wallet_epoch})


def _answer(data: bytes, *names: str) -> dict[str, object]:
    return fields(parse_canonical(data, limit=_MAX_ANSWER_BYTES, not_canonical=_ANSWER), required=names, reason=_ANSWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiweAnswer:
    """Answer to siwe-sign: the wallet's address (20 bytes) and r||s||v (65 bytes, v 27 or 28)."""

    address: bytes
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the plaintext; `unknown_fields`, `too_large` or `invalid_encoding`."""
        members = _answer(data, "address", "signature")
        return cls(
            address=address_decode(members["address"]),
            signature=b64u_decode(members["signature"], length=SIGNATURE_BYTES),
        )

    def encode(self) -> bytes:
        """Return the plaintext to be sealed."""
        return canonical_json({"address": address_encode(self.address), "signature": b64u_encode(self.signature)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedDataAnswer:
    """Answer to typed-data-sign: three hashes of 32 bytes, address and signature as `SiweAnswer`, the words or None."""

    address: bytes
    digest: bytes
    domain_separator: bytes
    intent: str | None
    signature: bytes = field(repr=False)
    type_hash: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the plaintext; `unknown_fields`, `too_large` or `invalid_encoding`."""
        members = _answer(data, "address", "digest", "domain_separator", "intent", "signature", "type_hash")
        intent = members["intent"]
        return cls(
            address=address_decode(members["address"]),
            digest=hex_decode(members["digest"], length=32),
            domain_separator=hex_decode(members["domain_separator"], length=32),
            intent=None if intent is None else text(intent, "intent", reason=_ANSWER),
            signature=b64u_decode(members["signature"], length=SIGNATURE_BYTES),
            type_hash=hex_decode(members["type_hash"], length=32),
        )

    def encode(self) -> bytes:
        """Return the plaintext to be sealed."""
        return canonical_json(
            {
                "address": address_encode(self.address),
                "digest": self.digest.hex(),
                "domain_separator": self.domain_separator.hex(),
                "intent": self.intent,
                "signature": b64u_encode(self.signature),
                "type_hash": self.type_hash.hex(),
            }
        )
