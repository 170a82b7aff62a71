"""`GetRowHashes` and `SignCheckpoint` of the backend: it holds every row, so it knows each proof that is right."""

import base64
import hashlib
from typing import Final

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.errors import Reason
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.refused import refuse

PAGE: Final = 8192
STEP: Final = 65_536
MAX_PROOF: Final = 64


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


class Tree:
    """RFC 9162 over the hashes of all rows; `_signed` is (size, root, note) of the last checkpoint."""

    def __init__(self, keys: Keys, memory: Memory, registry_id: str, broken: Broken) -> None:
        self._keys = keys
        self._memory = memory
        self._origin = f"{registry_id}/audit"
        self._broken = broken
        self._signed = (0, b"", b"")

    def hashes(self, asked: pb.GetRowHashesRequest, peer: Peer) -> pb.GetRowHashesResponse:
        """Leaves in the order of writing."""
        self._audit(peer)
        if not 1 <= asked.limit <= PAGE:
            refuse(Reason.INVALID_BODY)
        rows = self._memory.log[asked.after : asked.after + asked.limit] if asked.after < len(self._memory.log) else []
        return pb.GetRowHashesResponse(
            hashes=b"".join(row.row_hash for _, row in rows),
            total=len(self._memory.log),
            checkpoint_size=self._signed[0],
        )

    def sign(self, asked: pb.SignCheckpointRequest, peer: Peer) -> pb.SignCheckpointResponse:
        """The note over a root that is that of these rows, and goes on from the last."""
        self._audit(peer)
        proof, size = list(asked.consistency_proof), asked.tree_size
        if any(len(part) != 32 for part in (asked.root, *proof)) or len(proof) > MAX_PROOF:
            refuse(Reason.INVALID_ENCODING)
        last, root, note = self._signed
        if not max(last, 1) <= size <= len(self._memory.log):
            refuse(Reason.INVALID_BODY)
        leaves = [_hash(b"\x00", row.row_hash) for _, row in self._memory.log[:size]]
        good = asked.root == self._root(leaves) and proof == self._proof(leaves, last)
        if not good and "any-root" not in self._broken:
            refuse(Reason.INVALID_BODY)
        if size == last:
            return pb.SignCheckpointResponse(checkpoint=note)
        if size - last > STEP:
            refuse(Reason.TOO_LARGE)
        root, note = asked.root, self._note(size, asked.root)
        self._signed = (size, root, note)
        return pb.SignCheckpointResponse(checkpoint=note)

    def _audit(self, peer: Peer) -> None:
        if peer.kind != "audit":
            refuse(Reason.CLASS_MISMATCH)

    def _root(self, leaves: list[bytes]) -> bytes:
        """Pairs level by level; what is left alone goes up as it is."""
        while len(leaves) > 1:
            paired = [_hash(b"\x01", *leaves[place : place + 2]) for place in range(0, len(leaves) - 1, 2)]
            leaves = paired + leaves[2 * len(paired) :]
        return leaves[0]

    def _proof(self, leaves: list[bytes], first: int, *, whole: bool = True) -> list[bytes]:
        if first == 0:
            return []
        if first == len(leaves):
            return [] if whole else [self._root(leaves)]
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        if first <= split:
            return [*self._proof(leaves[:split], first, whole=whole), self._root(leaves[split:])]
        return [*self._proof(leaves[split:], first - split, whole=False), self._root(leaves[:split])]

    def _note(self, size: int, root: bytes) -> bytes:
        epoch = self._keys.current
        key = self._keys.public(epoch, "audit")
        text = f"{self._origin}\n{size}\n{base64.b64encode(root).decode()}\n"
        named = _hash(self._origin.encode(), b"\x0a\xffagentkeys-es256\x04", key.x, key.y)[:4]
        signed = named + self._keys.es256_sign(epoch, "audit", text.encode())
        return f"{text}\n— {self._origin} {base64.b64encode(signed).decode()}\n".encode()
