"""What `SignAuditRow` does: it acknowledges stores, records failures, and authorises deletes (design section 5).

The first outcome of a cap stands: the same result again gets the same bytes, another one `cap_replayed` with that row.
"""

from dataclasses import replace
from typing import Final

from agentkeys_core.audit import OpResult
from agentkeys_core.captoken import CapRequest
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Effect, owner_of
from signer.admission import Admitted, Attempt, recheck
from signer.holds import check_still_held
from signer.ledger import Burn, CapRecord, ObjectRef, Transaction
from signer.releases import KEEP_OUTCOME_S, record, write_line
from signer.versions import check_acknowledgement, check_expect

_RELEASED: Final = Burn.DERIVE_CRED_KEK | Burn.STS_CREDENTIALS | Burn.READ


def is_known(known: CapRecord | None, effect: Effect) -> bool:
    """Whether a cap digest was released or burned here, so that nothing but class and digest is checked again.

    A delete counts only once it was authorised by this very call: a cloud session for it does not close its salts.
    """
    if known is None:
        return False
    return known.outcome is not None or (effect is not Effect.DELETE and bool(known.burned & _RELEASED))


def acknowledge(
    tx: Transaction, attempt: Attempt, request: CapRequest, admitted: Admitted | None, *, result: OpResult
) -> bytes:
    """The row that stands for this cap and result.

    `admitted` is None where the caller found the digest known; a digest forgotten since then has expired long ago.

    Raises:
        KeyServiceError: cap_replayed, version_not_current, invalid_body, stale_epoch, cap_expired, sealed.
    """
    known = tx.ledger.cap(request.digest)
    if known is not None and is_known(known, request.rule.effect):
        return _of_known(tx, attempt, request, known, result)
    if admitted is None:
        raise KeyServiceError(Reason.CAP_EXPIRED, "the cap was forgotten")
    return _of_new(tx, attempt, admitted, known, result)


def _of_known(tx: Transaction, attempt: Attempt, request: CapRequest, known: CapRecord, result: OpResult) -> bytes:
    ledger = tx.ledger
    if known.outcome is not None and known.outcome_row_id is not None:
        row = ledger.row(known.outcome_row_id)
        if known.outcome != result:
            raise KeyServiceError(Reason.CAP_REPLAYED, "another result was recorded", row=row)
        if result is OpResult.SUCCESS:
            _end_hold(tx, request, known)  # a delete that was carried out
        return row
    if result is not OpResult.SUCCESS:
        if Burn.DERIVE_CRED_KEK not in known.burned:  # without a key nothing was written that could still arrive
            _end_hold(tx, request, known)
        record(tx, attempt, request, result=result)
        ledger.put_cap(replace(known, outcome=int(result), outcome_row_id=tx.last_row_id))
        return ledger.row(tx.last_row_id)
    if known.row_id is None:
        raise KeyServiceError(Reason.INVALID_BODY, "nothing was released for this cap")
    if request.rule.effect is Effect.WRITE:
        _make_current(tx, request, known)  # which fixes the outcome as well
        _end_hold(tx, request, known)
    else:
        ledger.put_cap(replace(known, outcome=int(result), outcome_row_id=known.row_id))
    write_line(tx, attempt, request.digest)
    return ledger.row(known.row_id)


def _make_current(tx: Transaction, request: CapRequest, known: CapRecord) -> None:
    """The version rule at acknowledgement: the store still follows the one that its body expected."""
    if known.salt is None:
        raise KeyServiceError(Reason.INVALID_BODY, "no key was released for this store")
    ledger = tx.ledger
    if Burn.STS_CREDENTIALS in known.burned:
        check_still_held(ledger.hold(_ref(request)), request.digest)
    versions, issued = ledger.version(_ref(request), known.salt)
    object_id, issued = check_acknowledgement(versions, issued, digest=request.digest)
    check_expect(versions, known.expect)
    ledger.make_current(object_id, issued)


def _end_hold(tx: Transaction, request: CapRequest, known: CapRecord) -> None:
    if known.burned & (Burn.STS_CREDENTIALS | Burn.DERIVE_CRED_KEK):
        tx.ledger.end_hold(_ref(request), request.digest)


def _of_new(tx: Transaction, attempt: Attempt, admitted: Admitted, known: CapRecord | None, result: OpResult) -> bytes:
    """A delete before its effect, or the failure of a request for which nothing was ever released."""
    request = admitted.request
    recheck(tx, admitted)
    check_can_be_new(request, result)
    if result is OpResult.SUCCESS:
        tx.ledger.drop(admitted.ref)
    row = record(tx, attempt, request, result=result)
    tx.ledger.put_cap(
        CapRecord(
            digest=request.digest,
            burned=Burn.SIGN_AUDIT_ROW | (Burn.NONE if known is None else known.burned),
            keep_until=request.expires_at + KEEP_OUTCOME_S,
            row_id=tx.last_row_id,
            outcome=int(result),
            outcome_row_id=tx.last_row_id,
        )
    )
    return row.encode()


def check_can_be_new(request: CapRequest, result: OpResult) -> None:
    """Return unless success is claimed of something that was never released. Raises invalid_body."""
    if result is OpResult.SUCCESS and request.rule.effect is not Effect.DELETE:
        raise KeyServiceError(Reason.INVALID_BODY, "nothing was released for this cap")


def _ref(request: CapRequest) -> ObjectRef:
    """The object of a store that was released: its request was authorised then, so its own words count."""
    rule = request.rule
    if rule.object_class is None:
        raise KeyServiceError(Reason.INVALID_CAP, "the op names no object")
    owner = owner_of(rule, request.operator_omni, request.actor_omni)
    return ObjectRef(owner=owner, object_class=rule.object_class, service=request.service.text)
