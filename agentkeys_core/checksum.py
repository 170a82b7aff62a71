"""Addresses as people and EIP-4361 write them: EIP-55, whose capital letters are a checksum."""

from typing import Final

from agentkeys_core.encoding import ADDRESS_BYTES
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256

_HIGH_NIBBLE: Final = 8


def checksum_encode(address: bytes) -> str:
    """Write 20 address bytes as `0x` and 40 hex digits, capital where EIP-55 says so."""
    digits = address.hex()
    marks = keccak256(digits.encode("ascii")).hex()
    return "0x" + "".join(
        digit.upper() if int(mark, 16) >= _HIGH_NIBBLE else digit for digit, mark in zip(digits, marks, strict=False)
    )


def checksum_decode(text: str, *, reason: Reason) -> bytes:
    """Read exactly what `checksum_encode` writes; `reason` for anything else, a wrong capital letter included."""
    try:
        address = bytes.fromhex(text[2:])
    except ValueError as exc:
        raise KeyServiceError(reason, "not an address") from exc
    if len(address) != ADDRESS_BYTES or checksum_encode(address) != text:
        raise KeyServiceError(reason, "not an address with its EIP-55 checksum")
    return address
