"""Proofs over the tree of all audit rows (RFC 9162, section 2.1): made from complete subtrees, checked from hashes.

A node is known by level and index: it stands for the rows index * 2^level up to (index + 1) * 2^level.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.checkpoint import leaf_hash, node_hash
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256

HASH_BYTES: Final = 32
#: A proof of a tree of 2^63 rows has this many hashes at most.
MAX_PROOF: Final = 64

#: Gives the hash of the complete subtree at (level, index).
Nodes = Callable[[int, int], bytes]


def root_of(nodes: Nodes, size: int) -> bytes:
    """The 32-byte root over the first `size` rows; of no rows the hash of nothing."""
    return _subtree(nodes, 0, size) if size else sha256(b"")


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """The hashes that lead from row number `index` (from 0) to the root over `size` rows (2.1.3.1)."""
    path: list[bytes] = []
    start = 0
    while size > 1:
        left = _left(size)
        if index < left:
            path.append(_subtree(nodes, start + left, size - left))
            size = left
        else:
            path.append(_subtree(nodes, start, left))
            start, index, size = start + left, index - left, size - left
    return path[::-1]


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """The hashes that show the first `old` rows (from 1) to be those of the tree of `new` rows (2.1.4.1)."""
    path: list[bytes] = []
    start, size, whole = 0, new, True
    while old != size:
        left = _left(size)
        if old <= left:
            path.append(_subtree(nodes, start + left, size - left))
            size = left
        else:
            path.append(_subtree(nodes, start, left))
            start, old, size, whole = start + left, old - left, size - left, False
    if not whole:
        path.append(_subtree(nodes, start, size))
    return path[::-1]


def check_inclusion(row_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return when the row is number `index` of the tree of `size` rows with this root (2.1.3.2).

    Raises:
        KeyServiceError: invalid_encoding.
    """
    if not 0 <= index < size:
        raise _wrong("inclusion")
    node, last, found = index, size - 1, leaf_hash(row_hash)
    for step in proof:
        if last == 0:
            raise _wrong("inclusion")
        if node & 1 or node == last:
            found = node_hash(step, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, step)
        node, last = node >> 1, last >> 1
    if last or found != root:
        raise _wrong("inclusion")


def check_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Return when the tree of `new` rows begins with the tree of `old` rows, 1 or more (2.1.4.2).

    Raises:
        KeyServiceError: invalid_encoding.
    """
    if not 1 <= old <= new:
        raise _wrong("consistency")
    if old == new:
        if proof or old_root != new_root:
            raise _wrong("consistency")
        return
    steps = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not steps or _consistent_roots(old, new, steps) != (old_root, new_root):
        raise _wrong("consistency")


def _consistent_roots(old: int, new: int, steps: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Both roots as the proof gives them; None for a proof of another length."""
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, step)
        node, last = node >> 1, last >> 1
    return None if last else (first, second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """What is enough of a tree to go on with it: the roots of its complete subtrees, largest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extended(self, row_hashes: Iterable[bytes]) -> Self:
        """The frontier with these rows after the others."""
        size, peaks = self.size, list(self.peaks)
        for row_hash in row_hashes:
            node, position = leaf_hash(row_hash), size
            while position & 1:
                node, position = node_hash(peaks.pop(), node), position >> 1
            peaks.append(node)
            size += 1
        return type(self)(size=size, peaks=tuple(peaks))

    def root(self) -> bytes:
        """The root over all rows so far."""
        if not self.peaks:
            return sha256(b"")
        found = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            found = node_hash(peak, found)
        return found

    def encode(self) -> bytes:
        """All peaks, one after the other."""
        return b"".join(self.peaks)

    @classmethod
    def parse(cls, size: int, data: bytes) -> Self:
        """Read what `encode` wrote of a tree of this size. Raises invalid_encoding."""
        if len(data) != HASH_BYTES * size.bit_count():
            raise KeyServiceError(Reason.INVALID_ENCODING, "frontier")
        peaks = tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))
        return cls(size=size, peaks=peaks)


def _left(size: int) -> int:
    """The largest power of two below `size`, 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _subtree(nodes: Nodes, start: int, size: int) -> bytes:
    """The hash over `size` rows from `start` on; where it is no complete subtree, it falls into some."""
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, start >> level)
    left = _left(size)
    return node_hash(_subtree(nodes, start, left), _subtree(nodes, start + left, size - left))


def _wrong(what: str) -> KeyServiceError:
    return KeyServiceError(Reason.INVALID_ENCODING, f"the {what} proof does not hold")
