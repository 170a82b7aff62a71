"""Keeps the tree of all audit rows and has its checkpoints signed; answers who asks for a proof.

Nothing is believed that does not fit what was seen before: a signer whose rows became fewer or others gets no
checkpoint published any more, and says so in the log.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from agentkeys_core.checkpoint import Checkpoint
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.merkle import consistency_proof, inclusion_proof, root_of
from agentkeys_runtime.logs import log_event
from worker.ports import HashPage, KeptNote, Tree

#: What the signer gives and takes at once (docs/spec/signer-protocol.md).
PAGE: Final = 8_192
MAX_STEP: Final = 65_536
_STOP_S: Final = 1.0
_LOG: Final = logging.getLogger("agentkeys.checkpoints")


class CheckpointSigner(Protocol):
    """The signer, as far as checkpoints need it."""

    def row_hashes(self, *, after: int, limit: int) -> HashPage:
        """Hashes of all rows in the order of writing, after the first `after`."""

    def sign_checkpoint(self, *, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        """The signed note over the first `size` rows."""


class Notary:
    """The audit worker's part: `step` brings the tree up to date and has it signed; the rest reads."""

    def __init__(self, *, signer: CheckpointSigner, tree: Tree, registry_id: str) -> None:
        self._signer = signer
        self._tree = tree
        self._registry_id = registry_id

    def step(self) -> int:
        """Fetch what is new, have a checkpoint signed over it, and return how many rows the last one covers.

        Raises:
            KeyServiceError: registry_rolled_back where rows that were seen are gone; else the signer's refusal.
        """
        page = self._catch_up()
        size = min(self._tree.size(), page.checkpoint_size + MAX_STEP)
        last = self._tree.last_note()
        if size and (last is None or last.size < size):
            old = page.checkpoint_size
            proof = consistency_proof(self._tree.node, old, size) if old else []
            root = root_of(self._tree.node, size)
            note = self._signer.sign_checkpoint(size=size, root=root, proof=proof)
            if not note.startswith(Checkpoint(registry_id=self._registry_id, size=size, root=root).text() + b"\n"):
                raise KeyServiceError(Reason.INTERNAL, "the signer signed another checkpoint")
            self._tree.keep_note(KeptNote(size=size, root=root, note=note))
            return size
        return 0 if last is None else last.size

    def _catch_up(self) -> HashPage:
        while True:
            size = self._tree.size()
            page = self._signer.row_hashes(after=size, limit=PAGE)
            if page.total < size or (not page.hashes and page.total > size):
                raise KeyServiceError(
                    Reason.REGISTRY_ROLLED_BACK, f"the signer has {page.total} rows, {size} were seen"
                )
            if page.hashes:
                self._tree.extend(page.hashes)
            if self._tree.size() >= page.total:
                return page

    def latest(self) -> bytes:
        """The last signed note. Raises not_found before the first."""
        found = self._tree.last_note()
        if found is None:
            raise KeyServiceError(Reason.NOT_FOUND, "no checkpoint was signed yet")
        return found.note

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof from one size to a later one that was signed. Raises invalid_body."""
        self._check_size(new)
        if not 1 <= old <= new:
            raise KeyServiceError(Reason.INVALID_BODY, "not an earlier size")
        return consistency_proof(self._tree.node, old, new)

    def inclusion(self, row_hash: bytes, size: int) -> tuple[int, list[bytes]] | None:
        """Position and proof of a row in the tree of that size, None where it is not in it. Raises invalid_body."""
        self._check_size(size)
        position = self._tree.position_of(row_hash)
        if position is None or position >= size:
            return None
        return position, inclusion_proof(self._tree.node, position, size)

    def _check_size(self, size: int) -> None:
        last = self._tree.last_note()
        if last is None or not 1 <= size <= last.size:
            raise KeyServiceError(Reason.INVALID_BODY, "no signed checkpoint is that large")


class Periodic:
    """Calls `notary.step` now and then, on a thread of its own, until it is closed."""

    def __init__(self, notary: Notary, every_s: float) -> None:
        self._notary = notary
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def start(self) -> None:
        """Begin, at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop. A step that waits for the signer ends with its channel."""
        self._stopping.set()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        while True:
            try:
                self._notary.step()
            except KeyServiceError as error:
                log_event(_LOG, "no_checkpoint", level=logging.WARNING, reason=str(error.reason), detail=error.detail)
            except Exception:  # noqa: BLE001  # whatever broke, the next step may not
                if not self._stopping.is_set():  # else the channel was closed
                    _LOG.exception("a checkpoint failed")
            if self._stopping.wait(self._every_s):
                return
