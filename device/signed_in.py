"""A session at the broker, as the broker tells of it: to be shown and ended, never to be relied on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from agentkeys_core.encoding import fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import integer

_BAD: Final = Reason.INVALID_ENCODING
_ID_BYTES: Final = 16
_NAMES: Final = ("created_at", "device", "expires_at", "id", "method", "operator_omni")


class SignInMethod(StrEnum):
    """What signed a device in."""

    DEVICE = "device"
    WALLET = "wallet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A session. `id` has 16 bytes, `device` and `operator` 32; times in Unix seconds."""

    id: bytes
    device: bytes
    operator: bytes
    method: SignInMethod
    created_at: int
    expires_at: int

    @classmethod
    def parse(cls, obj: object) -> Self:
        """Read what the broker tells. Raises `unknown_fields` or `invalid_encoding`."""
        members = fields(obj, required=_NAMES, reason=_BAD)
        if members["method"] not in tuple(SignInMethod):
            raise KeyServiceError(_BAD, "method")
        return cls(
            id=hex_decode(members["id"], length=_ID_BYTES),
            device=hex_decode(members["device"], length=32),
            operator=hex_decode(members["operator_omni"], length=32),
            method=SignInMethod(str(members["method"])),
            created_at=integer(members["created_at"], "created_at", reason=_BAD),
            expires_at=integer(members["expires_at"], "expires_at", reason=_BAD),
        )
