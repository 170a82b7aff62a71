"""Changes inside the committer's transaction: decided on the state there, recorded with row, head and line."""

import logging
from dataclasses import dataclass, replace
from typing import Final

from agentkeys_core.audit import AuditEnvelope, OpBody, OpKind, OpResult
from agentkeys_core.changes import Enrol
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import canonical_json, hex_encode
from agentkeys_core.registry import OperatorState
from agentkeys_core.signed_change import SignedChange
from signer.adapters import registry_attestations, registry_lasting
from signer.adapters import registry_store as store
from signer.adapters.committer import Tx
from signer.attesting import Attestation
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ports import RegistryStatus
from signer.registry_effects import Claims, Effects, Terms
from signer.registry_head import GENESIS, AppliedChange, StoredHead, chained, event_digest, mac_message
from signer.registry_proofs import Proofs
from signer.registry_rules import annul, check_free, claims, decide, due_rotation

#: Rotations that are carried out in one transaction; the rest follow in the next.
_DUE_AT_ONCE: Final = 64
ROTATION_DUE: Final = "RotationDue"
ANNULMENT: Final = "Annulment"
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One line of the registry's history.

    `digest` names it there, `change` is what its audit row names: of what the signer does for a change that was signed
    earlier, that one's digest. `body` is kept for a replay.
    """

    operator_omni: bytes
    type: str
    digest: bytes
    change: bytes
    body: bytes
    caller: str
    line: LineKind


class ChangeWriter:
    """Writes what the rules decide; of a change that they refuse nothing is kept, since the committer undoes it."""

    def __init__(self, keyring: Keyring, domain: Domain, *, software_k11: bool) -> None:
        self._keyring = keyring
        self._domain = domain
        self._software_k11 = software_k11

    def write(self, tx: Tx, signed: SignedChange, proofs: Proofs, *, caller: str) -> bytes:
        """Apply the change; returns the canonical JSON of its signed audit row. Raises what `decide` raises."""
        conn, change = tx.conn, signed.change
        digest = signed.digest(self._domain)
        if (applied := store.read_row(conn, digest)) is not None:  # by another process, a moment ago
            return applied
        self.settle(tx, operator_omni=change.operator_omni)  # what was due before this change came
        status = store.read_status(conn)
        state = self._state(tx, change.operator_omni, status)
        terms = Terms(incarnation=status.incarnation, now=tx.now, allow_software_k11=self._software_k11)
        taken = store.read_taken(conn, change.operator_omni, claims(change))
        if isinstance(change, Enrol):
            taken = replace(taken, attested=registry_attestations.read_attested(conn, digest))
        effects = decide(change, proofs, state=state, taken=taken, terms=terms)
        _warn_of_counters(state, effects)
        entry = _Entry(
            operator_omni=change.operator_omni,
            type=change.type,
            digest=digest,
            change=digest,
            body=signed.encode(),
            caller=caller,
            line=LineKind.CHANGE,
        )
        return self._record(tx, status, entry, effects)

    def settle(self, tx: Tx, *, operator_omni: bytes | None = None) -> None:
        """Carry out the rotations that are due, of one operator or of all. Each leaves a row and a line of its own."""
        for due in registry_lasting.read_due(tx.conn, now=tx.now, operator_omni=operator_omni, limit=_DUE_AT_ONCE):
            status = store.read_status(tx.conn)
            # With software keys too: what the host forbids now must not be lost for good.
            state = store.read_operator(tx.conn, due.operator_omni, status, software_k11=True)
            if state is None:  # the tables refer to each other: there is no rotation without its operator
                raise LookupError("a rotation of no operator")
            entry = _Entry(
                operator_omni=due.operator_omni,
                type=ROTATION_DUE,
                digest=event_digest(ROTATION_DUE, due.digest),
                change=due.digest,
                body=canonical_json({"change": hex_encode(due.digest), "type": ROTATION_DUE}),
                caller="signer",
                line=LineKind.CHANGE,
            )
            self._record(tx, status, entry, due_rotation(state.rotations[due.device], state, now=tx.now))

    def write_annulment(self, tx: Tx, operator_omni: bytes) -> bytes:
        """Annul a first bind on the host's word; returns the signed row. Raises what `annul` raises."""
        status = store.read_status(tx.conn)
        state = self._state(tx, operator_omni, status)
        taken = store.read_taken(tx.conn, operator_omni, Claims())
        released = tx.count_rows(operator_omni) > store.count_changes(tx.conn, operator_omni)
        effects = annul(state, annulled=taken.annulled, released=released)
        digest = event_digest(ANNULMENT, operator_omni + effects.nonce.to_bytes(8, "big"))
        entry = _Entry(
            operator_omni=operator_omni,
            type=ANNULMENT,
            digest=digest,
            change=digest,
            body=canonical_json({"operator_omni": hex_encode(operator_omni), "type": ANNULMENT}),
            caller="host",
            line=LineKind.HOST,
        )
        return self._record(tx, status, entry, effects)

    def attest(self, tx: Tx, attestation: Attestation, *, caller: str) -> None:
        """Remember that a first bind was attested, with its line in the journal: the signature is a release.

        Raises:
            KeyServiceError: already_bound; invalid_evidence for evidence that was used up; stale_epoch, future_epoch.
        """
        conn, change, digest = tx.conn, attestation.change, attestation.digest
        attestation.check_epoch(tx.epoch)
        taken = store.read_taken(conn, change.operator_omni, claims(change))
        bound = self._state(tx, change.operator_omni, store.read_status(conn)) is not None
        check_free(change, bound=bound, taken=taken)
        registry_attestations.use_up(conn, attestation.marks, digest=digest, keep_until=attestation.keep_until)
        registry_attestations.write_attested(conn, digest, attestation.attested, keep_until=change.deadline, now=tx.now)
        tx.journal(
            JournalLine(at=tx.now, kind=LineKind.RELEASE, method="AttestEnrol", caller=caller, cap_digest=digest)
        )

    def _state(self, tx: Tx, operator_omni: bytes, status: RegistryStatus) -> OperatorState | None:
        return store.read_operator(tx.conn, operator_omni, status, software_k11=self._software_k11)

    def _record(self, tx: Tx, status: RegistryStatus, entry: _Entry, effects: Effects) -> bytes:
        """Carry out `effects` and record them; returns the canonical JSON of the signed row."""
        head = self._next_head(tx, status, entry)
        store.write_effects(
            tx.conn, entry.operator_omni, effects, sequence=head.sequence, digest=entry.change, k3_epoch=tx.epoch
        )
        row = tx.append_row(_envelope(tx.now, entry.operator_omni, effects.kind, entry.change))
        encoded = row.encode()
        applied = AppliedChange(
            sequence=head.sequence, operator_omni=entry.operator_omni, digest=entry.digest, type=entry.type
        )
        store.append_change(tx.conn, applied, head, body=entry.body, row=encoded, now=tx.now)
        tx.journal(
            JournalLine(
                at=tx.now,
                kind=entry.line,
                method=entry.type,
                caller=entry.caller,
                cap_digest=entry.change,
                row_hash=row.row_hash,
            )
        )
        return encoded

    def _next_head(self, tx: Tx, status: RegistryStatus, entry: _Entry) -> StoredHead:
        last = store.read_head(tx.conn)
        sequence, previous = (1, GENESIS) if last is None else (last.sequence + 1, last.hash)
        head = chained(previous, sequence=sequence, operator_omni=entry.operator_omni, digest=entry.digest)
        message = mac_message(status.registry_id, incarnation=status.incarnation, sequence=sequence, head=head)
        return StoredHead(
            sequence=sequence,
            hash=head,
            mac=self._keyring.journal_mac(tx.epoch, message),
            epoch=tx.epoch,
            incarnation=status.incarnation,
        )


def _envelope(now: int, operator_omni: bytes, kind: OpKind, digest: bytes) -> AuditEnvelope:
    return AuditEnvelope(
        ts_unix=now,
        actor_omni=operator_omni,
        operator_omni=operator_omni,
        op_kind=kind,
        op_body=OpBody(change=digest),
        result=OpResult.SUCCESS,
    )


def _warn_of_counters(state: OperatorState | None, effects: Effects) -> None:
    """A K11 counter that falls may mean a cloned authenticator. It warns and refuses nothing (design §6)."""
    if state is None:
        return
    for key_hash, count in effects.sign_counts.items():
        known = state.devices.get(key_hash)
        if known is not None and count < known.sign_count:
            _log.warning("K11 counter of device %s fell to %d", hex_encode(key_hash), count)
