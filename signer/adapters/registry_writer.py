"""One change inside the committer's transaction: decided on the state there, recorded with row, head and line."""

import logging
import sqlite3
from typing import Final

from agentkeys_core.audit import AuditEnvelope, OpBody, OpKind, OpResult
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import hex_encode
from agentkeys_core.registry import OperatorState
from agentkeys_core.signed_change import SignedChange
from signer.adapters import registry_store as store
from signer.adapters.committer import Tx
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ports import RegistryStatus
from signer.registry_effects import Effects, Terms
from signer.registry_head import GENESIS, AppliedChange, StoredHead, chained, mac_message
from signer.registry_proofs import Proofs
from signer.registry_rules import claims, decide

_log: Final = logging.getLogger(__name__)


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
        status = store.read_status(conn)
        state = store.read_operator(conn, change.operator_omni, status, software_k11=self._software_k11)
        terms = Terms(incarnation=status.incarnation, now=tx.now, allow_software_k11=self._software_k11)
        taken = store.read_taken(conn, claims(change))
        effects = decide(change, proofs, state=state, taken=taken, terms=terms)
        _warn_of_counters(state, effects)
        head = self._next_head(conn, tx.epoch, status, change.operator_omni, digest)
        store.write_effects(conn, change.operator_omni, effects, sequence=head.sequence, k3_epoch=tx.epoch)
        row = tx.append_row(_envelope(tx.now, change.operator_omni, effects.kind, digest))
        encoded = row.encode()
        line = AppliedChange(
            sequence=head.sequence, operator_omni=change.operator_omni, digest=digest, type=change.type
        )
        store.append_change(conn, line, head, body=signed.encode(), row=encoded, now=tx.now)
        tx.journal(
            JournalLine(
                at=tx.now,
                kind=LineKind.CHANGE,
                method=change.type,
                caller=caller,
                cap_digest=digest,
                row_hash=row.row_hash,
            )
        )
        return encoded

    def _next_head(
        self, conn: sqlite3.Connection, epoch: int, status: RegistryStatus, operator_omni: bytes, digest: bytes
    ) -> StoredHead:
        last = store.read_head(conn)
        sequence, previous = (1, GENESIS) if last is None else (last.sequence + 1, last.hash)
        head = chained(previous, sequence=sequence, operator_omni=operator_omni, digest=digest)
        message = mac_message(status.registry_id, incarnation=status.incarnation, sequence=sequence, head=head)
        return StoredHead(
            sequence=sequence,
            hash=head,
            mac=self._keyring.journal_mac(epoch, message),
            epoch=epoch,
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
        if count < state.devices[key_hash].sign_count:
            _log.warning("K11 counter of device %s fell to %d", hex_encode(key_hash), count)
