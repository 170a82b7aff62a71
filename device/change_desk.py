"""Registry changes: composed, shown, signed, sent to broker and workers, and done only on a signed receipt."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.audit import AuditRow
from agentkeys_core.changes import Change, ChangeSignatures, K11OfDevice, SignedChange, SignedPair
from agentkeys_core.encoding import fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from device.errors import DeviceError, Trouble
from device.identity import remember
from device.intent import change_intent
from device.keys import SignedDigest
from device.problems import check_refusal
from device.registry import AUDIT, BROKER, CREDENTIALS, TIMEOUT_S, View, operator_path, same_view, state_of
from device.session import Device
from device.transport import Answer
from device.trust import check_change_row

#: Short, though the registry would take an hour: a change that somebody held back dies soon.
CHANGE_LIFE_S: Final = 300
#: Broker and workers follow the registry by a stream; this is far more than it lags.
CATCH_UP_S: Final = 0.5
CHANGES_PATH: Final = "/v1/registry/changes"
#: Of broker and two workers one may lie, or be cut off: what nobody signs counts where two of them say the same.
QUORUM: Final = 2
#: What the registry says of a change that it will never take. An unfreeze uses the nonce of whatever was frozen out.
_FOR_GOOD: Final = frozenset(
    {
        Reason.ALREADY_BOUND,
        Reason.CHANGE_NOT_AUTHORISED,
        Reason.DEVICE_REVOKED,
        Reason.DEVICE_UNKNOWN,
        Reason.INVALID_CHANGE,
        Reason.INVALID_EVIDENCE,
        Reason.OPERATOR_FROZEN,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A change that the registry has applied: its EIP-712 digest, the verified row, and who brought it."""

    change: Change
    digest: bytes
    row: AuditRow
    source: str


def views_of(device: Device, operator: bytes) -> list[View]:
    """Return what broker and worker say of an operator.

    Raises:
        DeviceError: `not_registered` where they know none; otherwise as `Routes.agreed`.
    """
    for left in (1, 0):
        views = device.routes.agreed(operator_path(operator), state_of(operator))
        if not views:
            raise DeviceError(Trouble.NOT_REGISTERED, "the registry does not know this operator")
        if same_view(views):
            break
        if left:  # one of them may just be a moment behind the other
            time.sleep(CATCH_UP_S)
    else:
        device.show.warn("Broker and worker tell different things of the registry; one of them is wrong or behind.")
    return views


def send_change(device: Device, body: bytes, change: Change, digest: bytes, *, everywhere: bool) -> Receipt:
    """Send a signed change until its signed row came back.

    With `everywhere` broker and workers get it at once, so that neither can hold it up; otherwise one after the other
    until one brings the row. Sending it twice is harmless: the registry answers a change that it knows with the same
    row.

    Raises:
        KeyServiceError: the registry's refusal, as a part told it.
        DeviceError: `row_not_trusted` where a part answered with something else than the row; `unreachable`.
    """
    found = _brought(device, body, change, digest, everywhere=everywhere)
    if isinstance(found, Receipt):
        return found
    raise _most_telling(found)


def settled(device: Device, signed: SignedChange) -> Receipt | KeyServiceError:
    """Send a change that is kept here, again or for the first time: its receipt, or its refusal for good.

    The registry gives the row of a change that it has applied whatever became of it since, so one honest part is enough
    to bring it. Refusals are signed by nobody: only where `QUORUM` parts say that the registry will never take the
    change, and none brings its row, may it be forgotten.

    Raises:
        DeviceError, KeyServiceError: as `send_change`, where it is open whether the registry has it or will take it.
    """
    change = signed.change
    found = _brought(device, signed.encode(), change, change.digest(device.profile.domain), everywhere=True)
    if isinstance(found, Receipt):
        return found
    final = [exc for exc in found if isinstance(exc, KeyServiceError) and exc.reason in _FOR_GOOD]
    if len(final) < QUORUM:
        raise _most_telling([exc for exc in found if exc not in final])
    return final[-1]


def _brought(
    device: Device, body: bytes, change: Change, digest: bytes, *, everywhere: bool
) -> Receipt | list[DeviceError | KeyServiceError]:
    """The first receipt, or what each part said instead."""
    rounds: Sequence[Sequence[str]] = (
        ((BROKER, CREDENTIALS), (AUDIT,)) if everywhere else ((BROKER,), (CREDENTIALS,), (AUDIT,))
    )
    failed: list[DeviceError | KeyServiceError] = []
    for names in rounds:
        receipts = []
        for name, answer in device.routes.each(
            names, lambda channel: channel.post(CHANGES_PATH, body, timeout_s=TIMEOUT_S)
        ).items():
            try:
                receipts.append(_receipt(device, name, answer, change, digest))
            except (DeviceError, KeyServiceError) as exc:
                device.show.note(f"{name}: {exc.reason}")
                failed.append(exc)
        if receipts:
            return receipts[0]
    return failed


def _receipt(device: Device, source: str, answer: Answer | DeviceError, change: Change, digest: bytes) -> Receipt:
    if isinstance(answer, DeviceError):
        raise answer
    obj = check_refusal(answer).json()
    try:
        row = AuditRow.from_json(fields(obj, required=("row",), reason=Reason.INVALID_ENCODING)["row"])
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ROW_NOT_TRUSTED, f"no signed row in the answer: {exc}") from exc
    check_change_row(device.keys, row, change, digest)
    remember(device.home, row)
    return Receipt(change=change, digest=digest, row=row, source=source)


def _most_telling(failed: Sequence[DeviceError | KeyServiceError]) -> DeviceError | KeyServiceError:
    """Pick a refusal by name rather than a part that could not be reached, and a worker's rather than the broker's."""
    named = [exc for exc in failed if isinstance(exc, KeyServiceError)]
    untrusted = [exc for exc in failed if isinstance(exc, DeviceError) and exc.reason is not Trouble.UNREACHABLE]
    return (named or untrusted or list(failed))[-1]


def apply_change(
    device: Device,
    build: Callable[[OperatorState, int], Change],
    *,
    k11: bool,
    everywhere: bool = False,
    pair: SignedPair | None = None,
) -> Receipt:
    """Compose a change for the registry's state, have it approved, send it, and return its receipt.

    Where broker and worker tell different counters, the lower ones are tried first, and the higher only after a
    refusal: a change signed for a nonce that is yet to come could be kept and played later.

    Args:
        device: the master that signs.
        build: makes the change from a state and a deadline (Unix seconds).
        k11: whether it needs K11 beside K10.
        everywhere: see `send_change`.
        pair: the new device's own word, for AddAgent.

    Raises:
        DeviceError, KeyServiceError: as `views_of`, `send_change` and the authenticator do.
    """
    views = views_of(device, device.identity().operator_omni)
    states = {view.counters: view.state for view in views}
    refusal: KeyServiceError | None = None
    for counters in sorted(states):
        change = build(states[counters], device.now() + CHANGE_LIFE_S)
        try:
            return _sign_and_send(device, change, k11=k11, everywhere=everywhere, pair=pair)
        except KeyServiceError as exc:
            if exc.reason is not Reason.CHANGE_NOT_AUTHORISED:
                raise
            refusal = exc
    if refusal is None:
        raise DeviceError(Trouble.NOT_REGISTERED, "the registry does not know this operator")
    raise refusal


def _sign_and_send(device: Device, change: Change, *, k11: bool, everywhere: bool, pair: SignedPair | None) -> Receipt:
    signed, assertions = approved(device, change, question="Sign this and send it?", k11=k11)
    signatures = ChangeSignatures(k10=signed.signature, k11=assertions, pair=pair)
    body = SignedChange(change=change, signatures=signatures).encode()
    return send_change(device, body, change, signed.digest, everywhere=everywhere)


def approved(
    device: Device, change: Change, *, question: str, k11: bool = True, note: str | None = None
) -> tuple[SignedDigest, tuple[K11OfDevice, ...]]:
    """Show a change, and have this device's K10 sign it and its K11 approve it.

    Raises:
        DeviceError: `declined`, or as the authenticator does.
    """
    signed = device.k10.sign_change(change, device.profile.domain)
    intent = change_intent(change, signed.name)
    device.show.signing(intent)
    if note is not None:
        device.show.warn(note)
    device.show.confirm(question)
    if not k11:
        return signed, ()
    authenticator, record = device.k11()
    assertion = authenticator.approve(record, signed, intent)
    return signed, (K11OfDevice(device=device.k10.key_hash, assertion=assertion),)
