"""What `Rewrap` does: an envelope of a held epoch, or a legacy one, comes back under the current epoch. No key leaves.

No device signature stands behind it, so it opens only what K3 itself authenticates for that very owner and name, only
while the host's window is open, and never revives anything: the version rule holds for what comes in and what goes out.
An envelope that is shown again under the current epoch is thereby acknowledged, and older ones close.
Spec: design section 5, docs/adr/0025.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core import legacy_envelope
from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind, OpResult
from agentkeys_core.bodies import BLIND_BYTES, StoreBody
from agentkeys_core.envelope import Envelope, ObjectPlaintext, seal_envelope
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.legacy_envelope import LegacyEnvelope
from agentkeys_core.ops import OPS, ObjectClass, Service, WorkerClass
from agentkeys_core.secret import Secret
from signer.admission import Attempt
from signer.gate import Gate
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ledger import Journalist, ObjectRef, Snapshot, Transaction
from signer.ports import RegistryReader
from signer.releases import SALT_LENGTH
from signer.versions import check_legacy, check_rewrap

_OMNI_LENGTH: Final = 32
_MIGRATED: Final = b"agentkeys.migrated.v1\x00"
_KINDS: Final = {ObjectClass.CREDENTIALS: OpKind.CRED_REWRAP, ObjectClass.MEMORY: OpKind.MEMORY_REWRAP}
_WORKERS: Final = {ObjectClass.CREDENTIALS: WorkerClass.CREDENTIALS, ObjectClass.MEMORY: WorkerClass.MEMORY}
_PREFIXES: Final = {rule.object_class: rule.prefix for rule in OPS.values() if rule.object_class is not None}
_RESERVED: Final = frozenset({"cred:list", "memory:list"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    """A new salt that was recorded, and what goes into the envelope under it."""

    salt: bytes
    epoch: int
    plaintext: bytes = field(repr=False)


class Rewrapping:
    """Re-wraps envelopes while the gate's window is open."""

    def __init__(
        self, *, keyring: Keyring, journalist: Journalist, snapshot: Snapshot, registry: RegistryReader, gate: Gate
    ) -> None:
        self._keyring = keyring
        self._journalist = journalist
        self._snapshot = snapshot
        self._registry = registry
        self._gate = gate

    def rewrap(self, attempt: Attempt, *, object_class: int, owner: bytes, service: str, envelope: bytes) -> bytes:
        """The envelope under the current epoch; one that is there already comes back as it is.

        Raises:
            KeyServiceError: class_mismatch; window_closed; invalid_body, invalid_omni; policy_refused for a class that
                was torn down; then as wire.md opens an envelope; version_not_current, operator_frozen (legacy),
                stale_epoch, too_large.
        """
        kind = _class_of(attempt, object_class)
        self._gate.check_window()
        name = _service(service, kind)
        if len(owner) != _OMNI_LENGTH:
            raise KeyServiceError(Reason.INVALID_OMNI, f"an omni has {_OMNI_LENGTH} bytes")
        ref = ObjectRef(owner=owner, object_class=kind, service=name.text)
        self._refuse_torn_down(ref)
        if kind is ObjectClass.CREDENTIALS and envelope[:1] == bytes((legacy_envelope.VERSION,)):
            issued = self._legacy(attempt, ref, name, LegacyEnvelope.parse(envelope), sha256(envelope))
        else:
            found = self._present(attempt, ref, name, envelope)
            if found is None:
                return envelope
            issued = found
        return self._sealed(ref, name, issued)

    def _refuse_torn_down(self, ref: ObjectRef) -> None:
        """An owner's keys of a class that was torn down are refused for ever, here as well (design section 6)."""
        with self._snapshot() as ledger:
            found = ref.owner if ref.object_class is ObjectClass.CREDENTIALS else ledger.operator_of(ref.owner)
        operator = None if found is None else self._registry.operator(found)
        if operator is not None and operator.is_torn_down(ref.owner, ref.object_class):
            raise KeyServiceError(Reason.POLICY_REFUSED, "torn down")

    def _present(self, attempt: Attempt, ref: ObjectRef, name: Service, data: bytes) -> _Issued | None:
        envelope = Envelope.parse(data)
        envelope.expect_class(ref.object_class)
        key = self._keyring.object_key(envelope.epoch, ref.object_class, ref.owner, name, envelope.salt)
        with Secret.copy_of(key.key) as secret:
            plaintext = envelope.decrypt(secret, key.commitment, owner=ref.owner, service=name)

        def unit(tx: Transaction) -> _Issued | None:
            known, version = check_rewrap(*tx.ledger.version(ref, envelope.salt), epoch=envelope.epoch)
            if envelope.epoch == tx.epoch:
                if version.number != known.current:
                    tx.ledger.make_current(known.object_id, version)
                    _write_line(tx, attempt, version.store)
                return None
            operator = ref.owner if ref.object_class is ObjectClass.CREDENTIALS else tx.ledger.operator_of(ref.owner)
            if operator is None:  # what is current was stored by an actor with a chain
                raise KeyServiceError(Reason.VERSION_NOT_CURRENT, "the object's actor has no audit chain")
            salt = _new_salt(tx, ref, store=version.store, expect=version.store)
            _record(tx, attempt, ref, operator=operator, store=version.store, salt=salt)
            return _Issued(salt=salt, epoch=tx.epoch, plaintext=plaintext)

        return self._journalist.run(unit)

    def _legacy(
        self, attempt: Attempt, ref: ObjectRef, name: Service, envelope: LegacyEnvelope, digest: bytes
    ) -> _Issued:
        value = self._open_legacy(envelope, ref.owner, name)
        body = StoreBody(blind=secrets.token_bytes(BLIND_BYTES), expect=None, value=value).encode()
        operator = self._registry.operator(ref.owner)
        if operator is None:
            raise KeyServiceError(Reason.INVALID_OMNI, "no operator with this omni is registered")
        if operator.frozen:
            raise KeyServiceError(Reason.OPERATOR_FROZEN, "nothing new is stored for a frozen operator")
        store = sha256(_MIGRATED + ref.owner + name.sha256 + digest)

        def unit(tx: Transaction) -> _Issued:
            check_legacy(tx.ledger.versions(ref), dropped=tx.ledger.was_dropped(ref))
            salt = _new_salt(tx, ref, store=store, expect=None)
            row = _record(tx, attempt, ref, operator=ref.owner, store=store, salt=salt, req=sha256(body))
            return _Issued(salt=salt, epoch=tx.epoch, plaintext=ObjectPlaintext(body=body, row=row).encode())

        return self._journalist.run(unit)

    def _open_legacy(self, envelope: LegacyEnvelope, owner: bytes, name: Service) -> bytes:
        """The credential. Neither the epoch nor how the writer spelt the name is authenticated, so each is tried."""
        for epoch in self._epochs(envelope.epoch):
            for spelling in (name.name, name.text):
                with self._keyring.legacy_key(epoch, owner) as key:
                    try:
                        return envelope.decrypt(key, omni=owner, service=spelling)
                    except KeyServiceError:
                        continue
        if not self._keyring.holds(envelope.epoch):
            raise KeyServiceError(Reason.EPOCH_NOT_HELD, f"epoch {envelope.epoch} is not held")
        raise KeyServiceError(Reason.INVALID_ENVELOPE, "tag")

    def _epochs(self, told: int) -> Iterator[int]:
        """All held epochs, the one that the header tells of first."""
        yield from sorted(self._keyring.epochs, key=lambda epoch: (epoch != told, epoch))

    def _sealed(self, ref: ObjectRef, name: Service, issued: _Issued) -> bytes:
        key = self._keyring.object_key(issued.epoch, ref.object_class, ref.owner, name, issued.salt)
        with Secret.copy_of(key.key) as secret:
            return seal_envelope(
                secret,
                epoch=issued.epoch,
                object_class=ref.object_class,
                salt=issued.salt,
                commitment=key.commitment,
                owner=ref.owner,
                service=name,
                plaintext=issued.plaintext,
            )


def _class_of(attempt: Attempt, number: int) -> ObjectClass:
    try:
        found = ObjectClass(number)
    except ValueError as exc:
        raise KeyServiceError(Reason.INVALID_BODY, "no class of objects") from exc
    if attempt.caller.worker_class is not _WORKERS[found]:
        raise KeyServiceError(Reason.CLASS_MISMATCH, "objects of another class than the caller's")
    return found


def _service(text: str, object_class: ObjectClass) -> Service:
    try:
        found = Service.parse(text)
    except KeyServiceError as exc:
        raise KeyServiceError(Reason.INVALID_BODY, "not a service name") from exc
    if found.prefix != _PREFIXES[object_class] or text in _RESERVED:
        raise KeyServiceError(Reason.INVALID_BODY, "no object of this class has that name")
    return found


def _new_salt(tx: Transaction, ref: ObjectRef, *, store: bytes, expect: bytes | None) -> bytes:
    salt = secrets.token_bytes(SALT_LENGTH)
    tx.ledger.add_salt(ref, salt=salt, epoch=tx.epoch, store=store, expect=expect, rewrap=True)
    return salt


def _record(
    tx: Transaction,
    attempt: Attempt,
    ref: ObjectRef,
    *,
    operator: bytes,
    store: bytes,
    salt: bytes,
    req: bytes | None = None,
) -> AuditRow:
    """Append the owner's row. `req` only for what a legacy envelope held: a device takes such a row for a store's.

    What a 0x05 envelope holds was sealed by a worker under a key that it was given, so no row of the signer's may vouch
    for it: the store's own row inside goes on to do that.
    """
    row = tx.append_row(
        AuditEnvelope(
            ts_unix=tx.now,
            actor_omni=ref.owner,
            operator_omni=operator,
            op_kind=_KINDS[ref.object_class],
            op_body=OpBody(cap=store, req=req, svc=ref.service, epoch=tx.epoch, salt=salt),
            result=OpResult.SUCCESS,
        )
    )
    _write_line(tx, attempt, store, row_hash=row.row_hash)
    return row


def _write_line(tx: Transaction, attempt: Attempt, store: bytes, *, row_hash: bytes | None = None) -> None:
    tx.journal(
        JournalLine(
            at=tx.now,
            kind=LineKind.RELEASE,
            method=attempt.method,
            caller=attempt.name,
            cap_digest=store,
            row_hash=row_hash,
        )
    )
