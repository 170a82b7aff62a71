"""What one follower knows of the registry: cached states, the newest head, and how old all of it may be. No I/O."""

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.registry_cache import StateCache

#: Operators whose last change is remembered one by one; beyond that, one number stands for all of them.
_MAX_CHANGED: Final = 10_000
#: The stream's own times are whole seconds.
_TIME_GRAIN_S: Final = 1.0


class RegistryView:
    """Told of each event by one thread, asked by many. Knowledge counts while it is younger than `max_age_s`."""

    def __init__(self, *, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.cache = StateCache()
        self.seen = StateCache()
        """States as they were last read: kept when they change, to tell who is known, and nothing else."""
        self.fresh = threading.Event()
        """Set once the follower has caught up."""
        self.registry_id = ""
        self.k3_epoch = 0
        self.incarnation = 0
        self.sequence = 0
        """The newest change that was taken into account."""
        self.head = pb.RegistryHead()
        """The newest head seen, to be echoed: a registry that does not know it was rolled back."""
        self.journal = pb.JournalHead()
        """The newest head of the signer's journal, to be echoed likewise."""
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._heard_at = -math.inf
        self._offset = -math.inf
        self._rolled_back = False
        self._changed: dict[bytes, int] = {}
        self._floor = 0

    def check_fresh(self) -> None:
        """Return while what was heard is younger than the bound; raise `registry_stale`, `registry_rolled_back`."""
        if self._rolled_back:
            raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, "the registry is older than it was")
        if self._clock() - self._heard_at > self._max_age_s:
            raise KeyServiceError(Reason.REGISTRY_STALE, f"nothing heard of the registry for {self._max_age_s} s")

    def begin(self, status: pb.GetStatusResponse) -> None:
        """A connection begins: adopt the registry if it is the first, or a new incarnation of the same one.

        Raises:
            KeyServiceError: `registry_rolled_back` for another registry than before.
        """
        with self._lock:
            self._offset = -math.inf
            if self.registry_id not in {"", status.registry_id}:
                raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, "another registry answers")
            if self.registry_id and status.incarnation <= self.incarnation:
                return
            # Nothing is cached yet (or any more), so older changes need not be replayed.
            self._forget()
            self.registry_id, self.incarnation = status.registry_id, status.incarnation
            self.k3_epoch, self.head, self.journal = status.k3_epoch, status.head, pb.JournalHead()
            self.sequence = status.head.sequence
            self._rolled_back = False

    def on_event(self, event: pb.ChangeEvent) -> bool:
        """Take one event of the stream into account; true if everything up to now is known after it.

        Raises:
            KeyServiceError: `registry_rolled_back` where head, epoch or incarnation fell; `registry_stale` where a new
                incarnation begins and the follower must start anew.
        """
        with self._lock:
            if event.incarnation > self.incarnation:
                self._forget()
                raise KeyServiceError(Reason.REGISTRY_STALE, "a new incarnation of the registry")
            if self._fell(event):
                raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, "the registry's head is older than one seen before")
            if event.HasField("change"):
                self._on_change(event.change)
            if event.k3_epoch > self.k3_epoch:
                self.cache.clear()
                self.k3_epoch = event.k3_epoch
            self.head, self.journal = event.head, event.journal
            self._rolled_back = False
            now = self._clock()
            if self._is_late(event.server_time - now) or self.sequence < event.head.sequence:
                return False
            self._heard_at = now
            self.fresh.set()
            return True

    def keep(self, state: OperatorState, sequence: int, device_key_hash: bytes | None) -> bool:
        """Cache a state that was read at `sequence`; false if a newer change of that operator is known already."""
        with self._lock:
            if sequence < max(self._floor, self._changed.get(state.operator_omni, 0)):
                return False
            if (state.incarnation, state.k3_epoch) == (self.incarnation, self.k3_epoch):
                self.cache.put(state, device_key_hash)
                self.seen.put_with_devices(state)
            return True

    def cache_unsure(self) -> None:
        """Forget every state, not how far the stream has come."""
        with self._lock:
            self.cache.clear()

    def rolled_back(self) -> None:
        """Answer nothing until the registry shows a head that is not older again."""
        self._rolled_back = True
        self.forget()

    def forget(self) -> None:
        """Answer nothing until the stream was heard again."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self.cache.clear()
        self.seen.clear()
        self._changed.clear()
        self._floor = self.sequence
        self._heard_at = -math.inf
        self.fresh.clear()

    def _fell(self, event: pb.ChangeEvent) -> bool:
        head, seen = event.head, self.head
        return (
            event.incarnation < self.incarnation
            or event.k3_epoch < self.k3_epoch
            or head.sequence < seen.sequence
            or (head.sequence == seen.sequence and head.hash != seen.hash)
            or event.journal.sequence < self.journal.sequence
            or (event.journal.sequence == self.journal.sequence and event.journal.hash != self.journal.hash)
        )

    def _on_change(self, change: pb.Change) -> None:
        if change.sequence != self.sequence + 1:  # none may be missed; what was, nobody knows
            self.cache.clear()
        self.sequence = max(self.sequence, change.sequence)
        self.cache.drop([change.operator_omni])
        self._changed[change.operator_omni] = change.sequence
        if len(self._changed) > _MAX_CHANGED:
            self._floor = self.sequence
            self._changed.clear()

    def _is_late(self, offset: float) -> bool:
        """Whether an event took much longer to come than the fastest of this connection: it was held up on its way.

        `offset` is the event's own time less the time of its arrival: it falls as the delay grows.
        """
        self._offset = max(self._offset, offset)
        return self._offset - offset > self._max_age_s + _TIME_GRAIN_S
