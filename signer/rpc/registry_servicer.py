"""The `Registry` service: reads, changes and their stream. Parses, calls the registry once, translates its answer."""

from collections.abc import Iterator
from typing import Final, Protocol

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from agentkeys_core.signed_change import SignedChange
from agentkeys_runtime.identity import CallerIdentity
from agentkeys_runtime.registry_wire import operator_to_message
from signer.adapters.journal_watch import JournalWatch
from signer.adapters.registry_embedded import EmbeddedRegistry
from signer.journal import StreamHead
from signer.ports import Clock
from signer.registry_head import AppliedChange, RegistryHead

#: A stream that has nothing to say says so this often, in seconds.
BEAT_S: Final = 1.0
#: How soon a stream notices that its client went away, in seconds.
_SLICE_S: Final = 0.2
#: SQLite's largest integer; no sequence gets there.
_MAX_SEQUENCE: Final = 2**63 - 1


class CallContext(Protocol):
    """What these methods ask of a call's context (see `rpc.guard`)."""

    @property
    def caller(self) -> CallerIdentity:
        """Whose certificate it is."""
        ...

    def is_active(self) -> bool:
        """Whether the client still waits."""
        ...


class RefusalCounter(Protocol):
    """Counts refused changes for the journal."""

    def early(self, *, caller: str, method: str, reason: Reason) -> None:
        """Count one refusal."""
        ...


class RegistryServicer:
    """Thin: no rule, no cryptography. Refusals leave as `KeyServiceError`; the guard turns them into statuses."""

    def __init__(
        self, registry: EmbeddedRegistry, journal: JournalWatch, clock: Clock, refusals: RefusalCounter | None = None
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._refusals = refusals

    def GetStatus(self, _request: pb.GetStatusRequest, _context: CallContext) -> pb.GetStatusResponse:  # noqa: N802
        """The registry's own counters and its head."""
        status = self._registry.status()
        return pb.GetStatusResponse(
            registry_id=status.registry_id,
            k3_epoch=status.k3_epoch,
            incarnation=status.incarnation,
            server_time=int(self._clock.now()),
            head=_head_message(self._registry.head()),
        )

    def GetOperator(self, request: pb.GetOperatorRequest, _context: CallContext) -> pb.OperatorResponse:  # noqa: N802
        """State of one operator."""
        omni = _sized(request.operator_omni, Reason.INVALID_OMNI)
        sequence = self._registry.sequence()  # before the read: what is read is at least as new
        return _operator_response(self._registry.operator(omni), sequence)

    def GetDevice(self, request: pb.GetDeviceRequest, _context: CallContext) -> pb.OperatorResponse:  # noqa: N802
        """State of the operator to which a device belongs."""
        key_hash = _sized(request.device_key_hash, Reason.INVALID_ENCODING)
        sequence = self._registry.sequence()
        return _operator_response(self._registry.lookup_device(key_hash), sequence)

    def ApplyChange(self, request: pb.ApplyChangeRequest, context: CallContext) -> pb.ApplyChangeResponse:  # noqa: N802
        """Apply one signed change."""
        try:
            row = self._registry.apply(SignedChange.parse(request.change), caller=context.caller.fingerprint)
        except KeyServiceError as error:
            if self._refusals is not None:
                self._refusals.early(caller=context.caller.fingerprint, method="ApplyChange", reason=error.reason)
            raise
        return pb.ApplyChangeResponse(row=row)

    def WatchChanges(self, request: pb.WatchChangesRequest, context: CallContext) -> Iterator[pb.ChangeEvent]:  # noqa: N802
        """All changes beyond `after`, then each as it happens; a beat at once and every second."""
        self._registry.check_known(_known_head(request.known), caller=context.caller.fingerprint)
        self._journal.check_known(_known_journal(request.known_journal), caller=context.caller.fingerprint)
        after = min(request.after, _MAX_SEQUENCE)
        while context.is_active():
            changes = self._registry.changes_after(after)
            head = self._registry.head()  # after the changes, so that it never is older than they are
            for change in changes:
                yield self._event(head, change)
                after = change.sequence
            if not changes:
                beat = self._event(head, None)
                yield beat
                self._wait(after, beat.k3_epoch, context)

    def _wait(self, after: int, epoch: int, context: CallContext) -> None:
        """Return at the next change or epoch, when a beat is due, or soon after the client went away."""
        for _ in range(round(BEAT_S / _SLICE_S)):
            if self._registry.wait_for_change(_SLICE_S, after=after) or not context.is_active():
                return
            if self._registry.status().k3_epoch != epoch:
                return

    def _event(self, head: RegistryHead, change: AppliedChange | None) -> pb.ChangeEvent:
        status = self._registry.status()
        return pb.ChangeEvent(
            head=_head_message(head),
            server_time=int(self._clock.now()),
            k3_epoch=status.k3_epoch,
            incarnation=status.incarnation,
            change=None
            if change is None
            else pb.Change(
                sequence=change.sequence,
                operator_omni=change.operator_omni,
                digest=change.digest,
                type=change.type,
            ),
            journal=_journal_message(self._journal.head()),
        )


def _operator_response(state: OperatorState | None, sequence: int) -> pb.OperatorResponse:
    operator = None if state is None else operator_to_message(state)
    return pb.OperatorResponse(found=state is not None, operator=operator, sequence=sequence)


def _head_message(head: RegistryHead) -> pb.RegistryHead:
    return pb.RegistryHead(sequence=head.sequence, hash=head.hash, mac=head.mac, epoch=head.epoch)


def _known_head(message: pb.RegistryHead) -> RegistryHead:
    return RegistryHead(sequence=message.sequence, hash=message.hash, mac=message.mac, epoch=message.epoch)


def _journal_message(head: StreamHead) -> pb.JournalHead:
    return pb.JournalHead(
        sequence=head.sequence, hash=head.hash, mac=head.mac, epoch=head.epoch, incarnation=head.incarnation
    )


def _known_journal(message: pb.JournalHead) -> StreamHead:
    return StreamHead(
        sequence=min(message.sequence, _MAX_SEQUENCE),
        hash=message.hash,
        mac=message.mac,
        epoch=message.epoch,
        incarnation=message.incarnation,
    )


def _sized(value: bytes, reason: Reason) -> bytes:
    if len(value) != 32:  # noqa: PLR2004  (omnis and key hashes alike)
        raise KeyServiceError(reason, f"{len(value)} bytes instead of 32")
    return value
