"""`SignCheckpoint` and `GetRowHashes`: one tree over all audit rows, of which one history is ever signed.

The audit worker keeps the tree; the signer keeps its frontier and computes each root itself, so that what it signs is
what it holds. Spec: design section 5, docs/adr/0026.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.checkpoint import Checkpoint
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.merkle import HASH_BYTES, MAX_PROOF, Frontier, check_consistency
from agentkeys_core.ops import WorkerClass
from signer.admission import Attempt
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ledger import Journalist, SignedCheckpoint, Snapshot, Transaction
from signer.ports import RegistryReader

#: Rows between two checkpoints, and hashes in one answer: each is read and hashed within one call.
MAX_STEP: Final = 65_536
MAX_HASHES: Final = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class RowHashes:
    """Hashes of rows in the order of writing; how many rows there are, and how many the last checkpoint covers."""

    hashes: tuple[bytes, ...]
    total: int
    checkpoint_size: int


class Checkpoints:
    """What the audit worker may ask. No device signature stands behind it: hashes tell nothing, and roots less."""

    def __init__(
        self, *, keyring: Keyring, journalist: Journalist, snapshot: Snapshot, registry: RegistryReader
    ) -> None:
        self._keyring = keyring
        self._journalist = journalist
        self._snapshot = snapshot
        self._registry = registry

    def hashes(self, attempt: Attempt, *, after: int, limit: int) -> RowHashes:
        """The hashes of up to `limit` rows after the first `after`.

        Raises:
            KeyServiceError: class_mismatch, invalid_body.
        """
        _check_class(attempt)
        if not 1 <= limit <= MAX_HASHES:
            raise KeyServiceError(Reason.INVALID_BODY, f"an answer has 1 to {MAX_HASHES} hashes")
        with self._snapshot() as ledger:
            total, last = ledger.row_count(), ledger.checkpoint()
            found = tuple(ledger.row_hashes(after=after, limit=limit)) if after < total else ()
        return RowHashes(hashes=found, total=total, checkpoint_size=0 if last is None else last.size)

    def sign(self, attempt: Attempt, *, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        """The signed note over the first `size` rows, journalled; that of the last checkpoint again where it is asked.

        Raises:
            KeyServiceError: class_mismatch; invalid_encoding; too_large for too many rows at once; invalid_body for a
                root that is not that of the rows held here, or does not go on from the last checkpoint.
        """
        _check_class(attempt)
        if any(len(part) != HASH_BYTES for part in (root, *proof)) or len(proof) > MAX_PROOF:
            raise KeyServiceError(Reason.INVALID_ENCODING, f"hashes have {HASH_BYTES} bytes, proofs {MAX_PROOF} hashes")
        with self._snapshot() as ledger:
            last, total = ledger.checkpoint(), ledger.row_count()
            known = 0 if last is None else last.size
            if not max(known, 1) <= size <= total:
                raise KeyServiceError(Reason.INVALID_BODY, "not a size from the last checkpoint to the rows there are")
            _check_goes_on(last, size, root, proof)
            if last is not None and size == last.size:
                return last.note
            if size - known > MAX_STEP:
                raise KeyServiceError(Reason.TOO_LARGE, f"at most {MAX_STEP} rows from one checkpoint to the next")
            begun = Frontier() if last is None else Frontier.parse(last.size, last.peaks)
            frontier = begun.extended(ledger.row_hashes(after=known, limit=size - known))
        if frontier.size != size or frontier.root() != root:
            raise KeyServiceError(Reason.INVALID_BODY, "the root is not that of these rows")
        checkpoint = Checkpoint(registry_id=self._registry.status().registry_id, size=size, root=root)
        return self._journalist.run(lambda tx: self._keep(tx, attempt, last, checkpoint, frontier))

    def _keep(
        self, tx: Transaction, attempt: Attempt, last: SignedCheckpoint | None, checkpoint: Checkpoint, grown: Frontier
    ) -> bytes:
        if tx.ledger.checkpoint() != last:
            raise KeyServiceError(Reason.INVALID_BODY, "another checkpoint was signed meanwhile")
        key = self._keyring.public_key("audit", tx.epoch)
        note = checkpoint.note(key, self._keyring.audit_sign(tx.epoch, checkpoint.text()))
        tx.ledger.put_checkpoint(
            SignedCheckpoint(size=checkpoint.size, root=checkpoint.root, peaks=grown.encode(), note=note)
        )
        tx.journal(
            JournalLine(
                at=tx.now,
                kind=LineKind.RELEASE,
                method=attempt.method,
                caller=attempt.name,
                reason=f"{checkpoint.size} rows, root {checkpoint.root.hex()}",
            )
        )
        return note


def _check_class(attempt: Attempt) -> None:
    if attempt.caller.worker_class is not WorkerClass.AUDIT:
        raise KeyServiceError(Reason.CLASS_MISMATCH, "checkpoints are the audit worker's")


def _check_goes_on(last: SignedCheckpoint | None, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    if last is None:
        if proof:
            raise KeyServiceError(Reason.INVALID_BODY, "the first checkpoint goes on from nothing")
        return
    try:
        check_consistency(last.size, size, last.root, root, proof)
    except KeyServiceError as exc:
        raise KeyServiceError(Reason.INVALID_BODY, exc.detail) from exc
