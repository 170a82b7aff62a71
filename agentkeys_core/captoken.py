"""Caps: a device's signed request, with K11 assertion and the broker's co-signature (wire.md, Capability request)."""

from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.caprequest import CapRequest
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.shapes import text

__all__ = ["MAX_CAP_BYTES", "Cap", "CapRequest", "UncosignedCap", "cosign_message"]

MAX_CAP_BYTES: Final = 16 * 1024

_COSIGN_TAG: Final = b"agentkeys.cosign.v2\x00"
_DEVICE_NAMES: Final = ("device_public_key", "device_signature", "k11", "request")
_CAP_NAMES: Final = ("cosign", "kid", *_DEVICE_NAMES)
_BAD: Final = Reason.INVALID_CAP


def cosign_message(
    cap_digest: bytes, device_public_key: bytes, device_signature: bytes, k11: K11Assertion | None
) -> bytes:
    """Return the bytes that K1 signs with ES256 (and SHA-256, as ES256 does)."""
    k11_hash = sha256(b"" if k11 is None else k11.canonical())
    return _COSIGN_TAG + cap_digest + device_public_key + device_signature + k11_hash


def _bytes(members: dict[str, object], name: str) -> bytes:
    return b64u_decode(text(members[name], name, reason=_BAD))


def _k11(members: dict[str, object]) -> K11Assertion | None:
    value = members["k11"]
    return None if value is None else K11Assertion.parse(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncosignedCap:
    """What a device sends to the broker: its request, signed. Nothing is verified yet.

    Keys and signatures are carried in whatever length they came: each is refused by the check that it fails
    (`device_signature_invalid`, `broker_signature_invalid`), as the vectors have it.
    """

    request: CapRequest
    device_public_key: bytes
    device_signature: bytes
    k11: K11Assertion | None

    @property
    def digest(self) -> bytes:
        """The cap digest, 32 bytes."""
        return self.request.digest

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical JSON, at most 16 KiB, of a cap without `cosign` and `kid`.

        Raises:
            KeyServiceError: `too_large`, `invalid_encoding`, `non_canonical_cap`, `unknown_fields`, `invalid_cap`, then
                whatever `CapRequest.parse` raises.
        """
        return cls.from_json(parse_canonical(data, limit=MAX_CAP_BYTES, not_canonical=Reason.NON_CANONICAL_CAP))

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a cap that stands inside another document; raises as `parse` does."""
        members = fields(obj, required=_DEVICE_NAMES, reason=_BAD)
        return cls(
            device_public_key=_bytes(members, "device_public_key"),
            device_signature=_bytes(members, "device_signature"),
            k11=_k11(members),
            request=CapRequest.parse(_bytes(members, "request")),
        )

    def to_json(self) -> dict[str, object]:
        """The object of wire.md."""
        return {
            "device_public_key": b64u_encode(self.device_public_key),
            "device_signature": b64u_encode(self.device_signature),
            "k11": None if self.k11 is None else self.k11.encode(),
            "request": b64u_encode(self.request.raw),
        }

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.to_json())

    def cosigned(self, signature: bytes, kid: str) -> "Cap":
        """Return the cap with the broker's co-signature (64 bytes) put to it."""
        return Cap(
            request=self.request,
            device_public_key=self.device_public_key,
            device_signature=self.device_signature,
            k11=self.k11,
            cosign=signature,
            kid=kid,
        )

    def cosign_message(self) -> bytes:
        """The bytes that the broker's key signs for this cap."""
        return cosign_message(self.digest, self.device_public_key, self.device_signature, self.k11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap(UncosignedCap):
    """A cap as workers and the signer get it. `kid` names the co-signing key; nothing is verified yet."""

    cosign: bytes
    kid: str

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a cap that stands inside another document; raises as `parse` does."""
        members = fields(obj, required=_CAP_NAMES, reason=_BAD)
        kid = text(members["kid"], "kid", reason=_BAD)
        if not kid.isascii():
            raise KeyServiceError(Reason.INVALID_ENCODING, "kid is not ASCII")
        return cls(
            cosign=_bytes(members, "cosign"),
            device_public_key=_bytes(members, "device_public_key"),
            device_signature=_bytes(members, "device_signature"),
            k11=_k11(members),
            kid=kid,
            request=CapRequest.parse(_bytes(members, "request")),
        )

    def to_json(self) -> dict[str, object]:
        """The object of wire.md."""
        return {
            "cosign": b64u_encode(self.cosign),
            "device_public_key": b64u_encode(self.device_public_key),
            "device_signature": b64u_encode(self.device_signature),
            "k11": None if self.k11 is None else self.k11.encode(),
            "kid": self.kid,
            "request": b64u_encode(self.request.raw),
        }
