"""The units of work that release something: burn, version rule, derivation, row and journal line, all or nothing."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Final

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind, OpResult
from agentkeys_core.captoken import CapRequest
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import HOLD_S, Effect, ObjectClass
from signer.admission import Admitted, Attempt, recheck
from signer.holds import Hold, check_free
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ledger import Burn, CapRecord, LedgerReader, ObjectRef, Transaction
from signer.versions import check_expect, check_read

#: Burns outlive the cap by its clock tolerance and as much again.
KEEP_BURN_S: Final = 120
#: A store or delete may be acknowledged late, when a worker comes back: its answer stays the same for a day.
KEEP_OUTCOME_S: Final = 86_400
SALT_LENGTH: Final = 32
_SUCCESS: Final = int(OpResult.SUCCESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRelease:
    """Key (32 bytes, never printed) and commitment of one version of one object, and the row that records it."""

    key: bytes = field(repr=False)
    commitment: bytes
    salt: bytes
    epoch: int
    row: bytes


def record(
    tx: Transaction,
    attempt: Attempt,
    request: CapRequest,
    *,
    result: OpResult = OpResult.SUCCESS,
    epoch: int | None = None,
    salt: bytes | None = None,
    intent: str | None = None,
    payload_digest: bytes | None = None,
) -> AuditRow:
    """Append the actor's audit row of this request and the journal line that names it.

    `intent` are the words for what a wallet signs, which the row commits to together with `payload_digest`.
    """
    kind = request.rule.kind
    if kind is None:
        raise KeyServiceError(Reason.INVALID_CAP, f"{request.op} has no audit row")
    row = tx.append_row(
        AuditEnvelope.compose(
            ts_unix=tx.now,
            actor_omni=request.actor_omni,
            operator_omni=request.operator_omni,
            op_kind=OpKind(kind),
            op_body=OpBody(
                cap=request.digest, req=request.request_hash, svc=request.service.text, epoch=epoch, salt=salt
            ),
            result=result,
            intent_text=intent,
            payload_digest=payload_digest,
        )
    )
    write_line(tx, attempt, request.digest, row_hash=row.row_hash)
    return row


def write_line(tx: Transaction, attempt: Attempt, digest: bytes, *, row_hash: bytes | None = None) -> None:
    """Append the journal line of something released or acknowledged under this cap digest."""
    tx.journal(
        JournalLine(
            at=tx.now,
            kind=LineKind.RELEASE,
            method=attempt.method,
            caller=attempt.name,
            cap_digest=digest,
            row_hash=row_hash,
        )
    )


def replayed(ledger: LedgerReader, known: CapRecord) -> KeyServiceError:
    """The refusal of a cap that was used up; that of an acknowledged store carries its row."""
    row = ledger.row(known.outcome_row_id) if known.outcome == _SUCCESS and known.outcome_row_id is not None else None
    return KeyServiceError(Reason.CAP_REPLAYED, "this cap was used before", row=row)


def check_unburned(ledger: LedgerReader, digest: bytes, burn: Burn, *, final: bool) -> CapRecord | None:
    """What is known of the digest, which must not be burned for `burn`; with `final`, nor have an outcome.

    Raises:
        KeyServiceError: cap_replayed.
    """
    known = ledger.cap(digest)
    if known is not None and (burn in known.burned or (final and known.outcome is not None)):
        raise replayed(ledger, known)
    return known


def release_read(
    tx: Transaction, attempt: Attempt, admitted: Admitted, keyring: Keyring, *, epoch: int, salt: bytes
) -> KeyRelease:
    """The key of the version that this salt names; a version newer than the current one becomes current.

    Raises:
        KeyServiceError: stale_epoch, version_not_current, overloaded, epoch_not_held, sealed.
    """
    recheck(tx, admitted)
    request, ledger = admitted.request, tx.ledger
    known, issued = ledger.version(admitted.ref, salt)
    guarded = admitted.object_class is ObjectClass.CREDENTIALS
    newer = check_read(known, issued, epoch=epoch, holds=keyring.holds, guarded=guarded)
    if newer and known is not None and issued is not None:
        # A store under way expects what is current now; superseded, it would be refused after it was written.
        check_free(ledger.hold(admitted.ref), issued.store, now=tx.at)
        ledger.make_current(known.object_id, issued)
    key = keyring.object_key(epoch, admitted.object_class, admitted.owner, request.service, salt)
    record(tx, attempt, request, epoch=epoch, salt=salt)
    ledger.note_read(request.digest, row_id=tx.last_row_id, keep_until=request.expires_at + KEEP_BURN_S)
    return KeyRelease(key=key.key, commitment=key.commitment, salt=salt, epoch=epoch, row=ledger.row(tx.last_row_id))


def release_write(
    tx: Transaction, attempt: Attempt, admitted: Admitted, keyring: Keyring, *, expect: bytes | None
) -> KeyRelease:
    """The key of a new version, under a salt drawn here; the cap is burned.

    Raises:
        KeyServiceError: stale_epoch, k11_required, cap_replayed, version_not_current, sealed.
    """
    request, ledger, ref = admitted.request, tx.ledger, admitted.ref
    burned = check_unburned(ledger, request.digest, Burn.DERIVE_CRED_KEK, final=True)
    recheck(tx, admitted)  # after the burn: what this very cap has stored must not demand K11 of it
    check_expect(ledger.versions(ref), expect)
    if burned is None or Burn.STS_CREDENTIALS not in burned.burned:
        _keep_reads_out(tx, ref, request.digest)
    salt, epoch = secrets.token_bytes(SALT_LENGTH), tx.epoch
    key = keyring.object_key(epoch, ref.object_class, ref.owner, request.service, salt)
    ledger.add_salt(ref, salt=salt, epoch=epoch, store=request.digest, expect=expect)
    record(tx, attempt, request, epoch=epoch, salt=salt)
    ledger.put_cap(
        CapRecord(
            digest=request.digest,
            burned=Burn.DERIVE_CRED_KEK | (Burn.NONE if burned is None else burned.burned),
            keep_until=request.expires_at + KEEP_OUTCOME_S,
            row_id=tx.last_row_id,
            salt=salt,
            expect=expect,
        )
    )
    return KeyRelease(key=key.key, commitment=key.commitment, salt=salt, epoch=epoch, row=ledger.row(tx.last_row_id))


def _keep_reads_out(tx: Transaction, ref: ObjectRef, digest: bytes) -> None:
    """Until this store is acknowledged no read makes an earlier one current, which this one would overwrite and lose.

    Without a session the worker's own lock keeps other stores out; a hold that stands there is of a store whose worker
    died, unless a session made it.
    """
    hold = tx.ledger.hold(ref)
    if hold is not None and hold.digest != digest and tx.at < hold.until and _made_by_session(tx.ledger, hold):
        return
    tx.ledger.put_hold(ref, Hold(digest=digest, until=tx.at + HOLD_S))


def _made_by_session(ledger: LedgerReader, hold: Hold) -> bool:
    """Whether the hold keeps other sessions out; that of a store without one keeps out reads alone."""
    known = ledger.cap(hold.digest)
    return known is not None and Burn.STS_CREDENTIALS in known.burned


def release_session(tx: Transaction, attempt: Attempt, admitted: Admitted) -> bytes:
    """The row of a cloud session that was exchanged for this cap; one that changes the object holds it from now on.

    Raises:
        KeyServiceError: stale_epoch, k11_required, cap_replayed, version_not_current, overloaded.
    """
    request, ledger, ref = admitted.request, tx.ledger, admitted.ref
    keep_until = request.expires_at + KEEP_BURN_S
    if not request.rule.once:
        recheck(tx, admitted)
        row = record(tx, attempt, request)
        ledger.note_read(request.digest, row_id=tx.last_row_id, keep_until=keep_until)
        return row.encode()
    known = check_session(ledger, request, ref, now=tx.at)
    recheck(tx, admitted)
    row = record(tx, attempt, request)
    if known is None:
        known = CapRecord(
            digest=request.digest, burned=Burn.NONE, keep_until=keep_until, row_id=tx.last_row_id
        )  # a later release of the key replaces row_id: its row is the store's
    ledger.put_cap(replace(known, burned=known.burned | Burn.STS_CREDENTIALS))
    ledger.put_hold(ref, Hold(digest=request.digest, until=tx.at + HOLD_S))
    return row.encode()


def check_session(ledger: LedgerReader, request: CapRequest, ref: ObjectRef, *, now: float) -> CapRecord | None:
    """What is known of a once cap that may have a cloud session now.

    A cap gets one. Only a delete that was authorised gets another, while nothing was stored since: its worker may have
    died before the object was gone, and there is nothing newer that the repeat could remove.

    Raises:
        KeyServiceError: cap_replayed, version_not_current, overloaded.
    """
    known = ledger.cap(request.digest)
    if known is not None and request.rule.effect is Effect.DELETE and known.outcome == _SUCCESS:
        if ledger.versions(ref) is not None:
            raise KeyServiceError(Reason.VERSION_NOT_CURRENT, "something was stored since this delete")
    else:
        final = request.rule.effect is Effect.WRITE
        known = check_unburned(ledger, request.digest, Burn.STS_CREDENTIALS, final=final)
    hold = ledger.hold(ref)
    if hold is not None and _made_by_session(ledger, hold):
        check_free(hold, request.digest, now=now)
    return known


def release_list(tx: Transaction, attempt: Attempt, admitted: Admitted) -> bytes:
    """The row of a list that was read from the inventory. Raises stale_epoch."""
    recheck(tx, admitted)
    request = admitted.request
    row = record(tx, attempt, request)
    tx.ledger.note_read(request.digest, row_id=tx.last_row_id, keep_until=request.expires_at + KEEP_BURN_S)
    return row.encode()
