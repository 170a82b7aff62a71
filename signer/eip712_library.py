"""A second opinion on typed data: the hashes that a well-known library computes for the very object that was signed.

The library is imported at the first such request: half a second and 30 MiB that most signers never need.
"""

import threading
from dataclasses import dataclass
from typing import Any, Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256
from agentkeys_core.typed_data import TypedData

_IMPORTING: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedDigest:
    """What K4 signs and what it is made of, 32 bytes each."""

    digest: bytes
    domain_separator: bytes
    type_hash: bytes


def agreed_digest(obj: object, typed: TypedData) -> TypedDigest:
    """The digest of `obj`, once two implementations that share no code agree on it; `typed` is our reading of it.

    Raises:
        KeyServiceError: invalid_typed_data where the library does not take it or computes something else.
    """
    digest = typed.digest
    separator, of_library = _by_library(obj)
    if (separator, of_library) != (typed.domain_separator, digest):
        raise KeyServiceError(Reason.INVALID_TYPED_DATA, "two readings of the typed data differ")
    return TypedDigest(digest=digest, domain_separator=separator, type_hash=typed.type_hash)


def _by_library(obj: Any) -> tuple[bytes, bytes]:
    """Domain separator and digest. The library raises whatever its parts raise, so everything it raises is refused."""
    with _IMPORTING:
        from eth_account.messages import encode_typed_data  # noqa: PLC0415  # see above
    try:
        made = encode_typed_data(full_message=obj)
    except Exception as exc:  # see above
        raise KeyServiceError(Reason.INVALID_TYPED_DATA, "the library does not take it") from exc
    return bytes(made.header), keccak256(b"\x19" + made.version + made.header + made.body)
