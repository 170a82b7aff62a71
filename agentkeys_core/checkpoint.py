"""Checkpoints over all audit rows: RFC 9162 tree hashing, and the signed note that carries a root (wire.md, Audit)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.hashes import sha256
from agentkeys_core.keys import ES256PublicKey

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_KEY_TYPE: Final = b"\x0a\xffagentkeys-es256"
_UNCOMPRESSED: Final = b"\x04"


def leaf_hash(row_hash: bytes) -> bytes:
    """The 32-byte leaf of one row."""
    return sha256(_LEAF + row_hash)


def node_hash(left: bytes, right: bytes) -> bytes:
    """The 32-byte parent of two nodes."""
    return sha256(_NODE + left + right)


def merkle_root(row_hashes: Sequence[bytes]) -> bytes:
    """The 32-byte root over rows in order (RFC 9162 §2.1.1); of no rows the hash of nothing."""
    # One pass with a stack of complete subtrees, whose sizes are the bits of the count: log2(n) hashes are held, not n.
    stack: list[bytes] = []
    for index, row_hash in enumerate(row_hashes):
        node, position = leaf_hash(row_hash), index
        while position & 1:
            node, position = node_hash(stack.pop(), node), position >> 1
        stack.append(node)
    if not stack:
        return sha256(b"")
    root = stack.pop()
    while stack:
        root = node_hash(stack.pop(), root)
    return root


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`root` (32 bytes) over the first `size` rows of the registry's audit log."""

    registry_id: str
    size: int
    root: bytes

    @property
    def origin(self) -> str:
        """The note's first line, and the name in its signature line."""
        return f"{self.registry_id}/audit"

    def text(self) -> bytes:
        """The three lines that the audit key signs."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    def key_id(self, key: ES256PublicKey) -> bytes:
        """The 4 bytes that point a verifier to the key."""
        return sha256(self.origin.encode() + _KEY_TYPE + _UNCOMPRESSED + key.x + key.y)[:4]

    def note(self, key: ES256PublicKey, signature: bytes) -> bytes:
        """The whole signed note: text, empty line, signature line. `signature` is r || s, 64 bytes."""
        signed = base64.b64encode(self.key_id(key) + signature).decode()
        return self.text() + f"\n— {self.origin} {signed}\n".encode()
