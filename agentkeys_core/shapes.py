"""Type and range checks of parsed JSON and CBOR values, shared by the parsers of the core.

Every function returns the value with its narrowed type, or raises `KeyServiceError` with the reason that its caller
names: the same malformed integer is `invalid_change` in a change and `invalid_encoding` in an audit row.
"""

from collections.abc import Sequence
from typing import Final

from agentkeys_core.encoding import MAX_SAFE_INTEGER
from agentkeys_core.errors import KeyServiceError, Reason

#: Epochs are four bytes in an object envelope, and the first is 1.
MAX_EPOCH: Final = 2**32 - 1


def integer(value: object, name: str, *, low: int = 0, high: int = MAX_SAFE_INTEGER, reason: Reason) -> int:
    """Return `value` if it is an integer in low…high. A boolean is none, although Python says so."""
    if type(value) is not int or not low <= value <= high:
        raise KeyServiceError(reason, f"{name} is not an integer from {low} to {high}")
    return value


def text(value: object, name: str, *, reason: Reason) -> str:
    """Return `value` if it is text."""
    if not isinstance(value, str):
        raise KeyServiceError(reason, f"{name} is not text")
    return value


def boolean(value: object, name: str, *, reason: Reason) -> bool:
    """Return `value` if it is true or false."""
    if not isinstance(value, bool):
        raise KeyServiceError(reason, f"{name} is neither true nor false")
    return value


def sequence(value: object, name: str, *, reason: Reason) -> Sequence[object]:
    """Return `value` if it is a JSON array."""
    if not isinstance(value, list):
        raise KeyServiceError(reason, f"{name} is not an array")
    return value


def octets(value: object, name: str, *, length: int, reason: Reason) -> bytes:
    """Return `value` if it is a byte string of `length` bytes."""
    if not isinstance(value, bytes) or len(value) != length:
        raise KeyServiceError(reason, f"{name} is not a byte string of {length} bytes")
    return value
