"""Checkpoints over all audit rows: RFC 9162 tree hashing, and the signed note that carries a root (wire.md, Audit)."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import ES256PublicKey

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_KEY_TYPE: Final = b"\x0a\xffagentkeys-es256"
_UNCOMPRESSED: Final = b"\x04"
_KEY_ID_BYTES: Final = 4
_BAD: Final = Reason.INVALID_ENCODING
MAX_NOTE_BYTES: Final = 1024
_NOTE: Final = re.compile(
    rb"[^\n]+\n(?P<size>0|[1-9][0-9]{0,15})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    rb"\n\xe2\x80\x94 [^\n]+ (?P<signed>[A-Za-z0-9+/]{91}=)\n"
)


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

    @classmethod
    def verify(cls, note: bytes, registry_id: str, keys: Iterable[ES256PublicKey]) -> Self:
        """The checkpoint of this registry that a note carries, once one of the keys is proven to have signed it.

        Exactly the bytes that `note` writes are taken.

        Raises:
            KeyServiceError: too_large, invalid_encoding.
        """
        if len(note) > MAX_NOTE_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, "checkpoint")
        found = _NOTE.fullmatch(note)
        if found is None:
            raise KeyServiceError(_BAD, "not a checkpoint")
        try:
            root, signed = (base64.b64decode(found[name], validate=True) for name in ("root", "signed"))
        except ValueError as exc:
            raise KeyServiceError(_BAD, "base64") from exc
        checkpoint = cls(registry_id=registry_id, size=int(found["size"]), root=root)
        key_id, signature = signed[:_KEY_ID_BYTES], signed[_KEY_ID_BYTES:]
        for key in keys:
            if key_id == checkpoint.key_id(key) and key.verify(checkpoint.text(), signature):
                if note != checkpoint.note(key, signature):
                    raise KeyServiceError(_BAD, "not the checkpoint of this registry, or in other words")
                return checkpoint
        raise KeyServiceError(_BAD, "signed by none of the keys")
