"""How devices came to be registered, and the evidence for a first bind as it travels (docs/spec/formats.md)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.mailbox import check_email
from agentkeys_core.shapes import text

#: Room for an ID token with many claims.
MAX_EVIDENCE_BYTES: Final = 32 * 1024
#: So that its evidence, which has few members more, stays within that.
MAX_ID_TOKEN_BYTES: Final = MAX_EVIDENCE_BYTES - 256
#: One family each of what issuers sign ID tokens with, for broker and signer alike: what one believes the other does.
#: Nothing symmetric: whoever knows a client secret, or the public key, must not be able to sign.
ID_TOKEN_ALGORITHMS: Final = ("ES256", "RS256", "EdDSA")
_BAD: Final = Reason.INVALID_EVIDENCE


class Evidence(StrEnum):
    """What stood behind a device when it was registered. `MASTER`: a master of the same operator let it in."""

    WALLET = "wallet"
    OIDC = "oidc"
    PASSKEY = "passkey"
    EMAIL = "email"
    MASTER = "master"


class Assurance(StrEnum):
    """How far that evidence reaches: `LOW` rests on the broker's word. Devices inherit it from who let them in."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcEvidence:
    """An ID token (compact JWS) whose nonce binds K10 and K11, and the 32-byte blind of that nonce."""

    id_token: str
    blind: bytes

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {"blind": b64u_encode(self.blind), "id_token": self.id_token, "type": Evidence.OIDC.value}
        )

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read the object. Raises `unknown_fields` or `invalid_evidence`."""
        members = fields(obj, required=("blind", "id_token", "type"), reason=_BAD)
        token = text(members["id_token"], "id_token", reason=_BAD)
        return cls(id_token=token, blind=b64u_decode(members["blind"], length=32, reason=_BAD))


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyEvidence:
    """A passkey's public coordinates (32 bytes each) and its assertion, whose challenge is the Enrol digest."""

    x: bytes
    y: bytes
    assertion: K11Assertion

    def encode(self) -> bytes:
        """Canonical JSON."""
        members = {"assertion": self.assertion.encode(), "type": Evidence.PASSKEY.value}
        return canonical_json({**members, "x": b64u_encode(self.x), "y": b64u_encode(self.y)})

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read the object. Raises `unknown_fields` or `invalid_evidence`."""
        members = fields(obj, required=("assertion", "type", "x", "y"), reason=_BAD)
        return cls(
            x=b64u_decode(members["x"], length=32, reason=_BAD),
            y=b64u_decode(members["y"], length=32, reason=_BAD),
            assertion=K11Assertion.parse(members["assertion"], malformed=_BAD, encoding=_BAD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailEvidence:
    """An address of which the broker says that its holder answered. Nothing in it can be checked."""

    address: str

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({"address": self.address, "type": Evidence.EMAIL.value})

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read the object. Raises `unknown_fields` or `invalid_evidence`."""
        members = fields(obj, required=("address", "type"), reason=_BAD)
        address = text(members["address"], "address", reason=_BAD)
        check_email(address, reason=_BAD)
        return cls(address=address)


BindEvidence = OidcEvidence | PasskeyEvidence | EmailEvidence


def parse_evidence(data: bytes) -> BindEvidence:
    """Read the evidence for a first bind; nothing in it is verified.

    Raises:
        KeyServiceError: `too_large`, `unknown_fields`, else `invalid_evidence`.
    """
    obj = strict_json(data, limit=MAX_EVIDENCE_BYTES, reason=_BAD)
    kind = obj.get("type") if isinstance(obj, dict) else None
    match kind:
        case Evidence.OIDC:
            return OidcEvidence.from_json(obj)
        case Evidence.PASSKEY:
            return PasskeyEvidence.from_json(obj)
        case Evidence.EMAIL:
            return EmailEvidence.from_json(obj)
        case _:
            raise KeyServiceError(_BAD, "evidence of no type that is known here")
