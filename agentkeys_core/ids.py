"""Who is who: omnis, addresses and device key hashes (wire.md, Names and derivations)."""

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from agentkeys_core.encoding import MAX_SAFE_INTEGER, address_decode, address_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256
from agentkeys_core.secp256k1 import address_of

__all__ = [
    "OMNI_BYTES",
    "IdentityType",
    "address_of",
    "child_omni",
    "device_key_hash",
    "device_of",
    "identity_omni",
    "normalise_identity",
    "oidc_value",
    "operator_omni",
    "parse_generation",
    "passkey_value",
]

OMNI_BYTES: Final = 32
_CACHED_DEVICES: Final = 8192

_LABEL: Final = re.compile(r"[a-z0-9-]{1,32}")
_GENERATION: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_PASSKEY: Final = re.compile(r"[0-9a-f]{64}")
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class IdentityType(StrEnum):
    """How a user proved who he is at the first bind."""

    EVM = "evm"
    EMAIL = "email"
    OAUTH2_GOOGLE = "oauth2_google"
    OIDC = "oidc"
    PASSKEY = "passkey"


def oidc_value(iss: str, sub: str) -> str:
    """Join issuer and subject as received; `invalid_evidence` for an issuer with a bar, so that no two pairs meet."""
    if "|" in iss or not iss or not sub:
        raise KeyServiceError(Reason.INVALID_EVIDENCE, "issuer or subject")
    return f"{iss}|{sub}"


def passkey_value(x: bytes, y: bytes) -> str:
    """Return the identity value of a passkey with these 32-byte coordinates."""
    return sha256(x + y).hex()


def normalise_identity(kind: IdentityType, value: str) -> str:
    """Return the text that is hashed: `evm` and `email` with A-Z lowered, all others as received.

    Raises:
        KeyServiceError: `invalid_evidence` for a value that is none of its type.
    """
    if kind in (IdentityType.EVM, IdentityType.EMAIL):
        value = value.translate(_LOWER)  # str.lower() would also touch letters beyond ASCII
    if kind is IdentityType.EVM:
        address_decode(value, reason=Reason.INVALID_EVIDENCE)
    elif kind is IdentityType.PASSKEY and not _PASSKEY.fullmatch(value):
        raise KeyServiceError(Reason.INVALID_EVIDENCE, "not a passkey's hash")
    elif kind is IdentityType.OIDC:
        oidc_value(*value.partition("|")[::2])
    if not value:
        raise KeyServiceError(Reason.INVALID_EVIDENCE, "empty")
    return value


def identity_omni(kind: IdentityType, value: str) -> bytes:
    """Return the 32-byte omni of an identity, after `normalise_identity`, whose errors it raises."""
    text = f"agentkeys{kind}{normalise_identity(kind, value)}"
    try:
        return sha256(text.encode())
    except UnicodeEncodeError as exc:
        raise KeyServiceError(Reason.INVALID_EVIDENCE, "a lone surrogate") from exc


def operator_omni(wallet: bytes) -> bytes:
    """Return the 32-byte omni of the operator whose initial wallet has these 20 address bytes."""
    return identity_omni(IdentityType.EVM, address_encode(wallet))


def parse_generation(text: object) -> int:
    """Read a generation: plain decimal, 0…2^53-1, no sign or leading zeros; `invalid_omni` for anything else."""
    if not isinstance(text, str) or not _GENERATION.fullmatch(text) or int(text) > MAX_SAFE_INTEGER:
        raise KeyServiceError(Reason.INVALID_OMNI, "not a generation")
    return int(text)


def check_label(label: str) -> None:
    """Return for a label that an agent may have. Raises `invalid_omni`."""
    if not _LABEL.fullmatch(label):
        raise KeyServiceError(Reason.INVALID_OMNI, "a label has 1 to 32 of a-z, 0-9 and -")


def child_omni(operator: bytes, label: str, generation: int) -> bytes:
    """Return the 32-byte actor omni of the operator's child `//label/generation`.

    Raises:
        KeyServiceError: `invalid_omni` for an operator that is not 32 bytes, a bad label or generation.
    """
    if len(operator) != OMNI_BYTES or not _LABEL.fullmatch(label):
        raise KeyServiceError(Reason.INVALID_OMNI, "operator or label")
    if type(generation) is not int or not 0 <= generation <= MAX_SAFE_INTEGER:
        raise KeyServiceError(Reason.INVALID_OMNI, "generation")
    return sha256(b"agentkeys-hdkd-v1" + operator + f"//{label}/{generation}".encode("ascii"))


def device_key_hash(address: bytes) -> bytes:
    """Return the name of a device: keccak256 of the 20 address bytes of its K10 key."""
    return keccak256(address)


@lru_cache(maxsize=_CACHED_DEVICES)
def device_of(public_key: bytes) -> bytes:
    """Return the name of the device with this 33-byte K10 key; `invalid_encoding` for a key that is none."""
    return device_key_hash(address_of(public_key))
