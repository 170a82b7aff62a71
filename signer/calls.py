"""One call, or each item of a batch: charged, its clock checked, worked on, and recorded where it is refused."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.identity import CallerIdentity
from signer.admission import Attempt
from signer.batches import Batch, Gathering, Outcome, Unit, answered
from signer.ledger import Journalist
from signer.limits import Limits
from signer.ports import Clock
from signer.refusals import Refusals

#: Refusals that say that the journal takes no line now, or that nobody was refused.
_UNRECORDABLE: Final = frozenset({Reason.JOURNAL_UNAVAILABLE, Reason.CLOCK_BEHIND, Reason.SEALED, Reason.INTERNAL})

#: Batches that are checked and committed at the same time: one is checked while the other is being committed. More
#: would take longer each, by as much as they share the interpreter and the committer, until their admissions are old.
_AT_ONCE: Final = 2

T = TypeVar("T")
R = TypeVar("R")

Settle = Callable[[bytes], None]
"""Says which cap digest an item is about, before what is known of it is looked up."""


class Calls:
    """What every use case has in common before and after its own work."""

    def __init__(self, *, journalist: Journalist, clock: Clock, limits: Limits, refusals: Refusals) -> None:
        self._journalist = journalist
        self._clock = clock
        self._limits = limits
        self._refusals = refusals
        self._batches = threading.BoundedSemaphore(_AT_ONCE)

    def one(self, caller: CallerIdentity, method: str, work: Callable[[Attempt], T]) -> T:
        """What `work` returns; a refusal is recorded before it goes on to the caller."""
        attempt = Attempt(caller=caller, method=method)
        try:
            self._enter(caller)
            return work(attempt)
        except KeyServiceError as exc:
            self._record(attempt, exc.reason)
            raise

    def each(self, caller: CallerIdentity, method: str, batch: Batch[T], work: Callable[[T], R]) -> list[Outcome[R]]:
        """The answer to each item, in order, of work that leaves nothing behind.

        Raises:
            KeyServiceError: as `Batch.check`.
        """
        refusals = self._entered(caller, method, batch)
        found = [
            answered(work, item) if refusal is None else refusal
            for refusal, item in zip(refusals, batch.items, strict=True)
        ]
        attempt = Attempt(caller=caller, method=method)  # no device stands behind any of them
        for outcome in found:
            if isinstance(outcome, KeyServiceError):
                self._record(attempt, outcome.reason)
        return found

    def together(
        self, caller: CallerIdentity, method: str, batch: Batch[T], prepare: Callable[[Attempt, Settle, T], Unit[R]]
    ) -> list[Outcome[R]]:
        """The answer to each item, in order, once the units that `prepare` gave for them went through one commit.

        An item that settles a cap digest which an earlier one has settled waits for that one's commit.

        Raises:
            KeyServiceError: as `Batch.check`.
        """
        gathering: Gathering[R] = Gathering(self._journalist, self._clock)
        attempts = []
        with self._batches:
            for number, refusal in enumerate(self._entered(caller, method, batch)):
                attempt = Attempt(caller=caller, method=method)
                attempts.append(attempt)
                if refusal is None:
                    work = partial(prepare, attempt, gathering.settle)
                    gathering.add(number, answered(work, batch.items[number]))
                else:
                    gathering.add(number, refusal)
            gathering.commit()
        found = [gathering.outcomes[number] for number in range(len(attempts))]
        for attempt, outcome in zip(attempts, found, strict=True):
            if isinstance(outcome, KeyServiceError):
                self._record(attempt, outcome.reason)
        return found

    def _entered(self, caller: CallerIdentity, method: str, batch: Batch[T]) -> list[KeyServiceError | None]:
        """What `one` does before its work, for all items: the refusal of each that gets no further, None for others."""
        self._check(caller, method, batch)
        found = batch.faults()
        sound = [number for number, refusal in enumerate(found) if refusal is None]
        allowed = self._limits.charge_certificate_for(caller.fingerprint, len(sound))
        for number in sound[allowed:]:
            found[number] = KeyServiceError(Reason.RATE_LIMITED, "too many calls")
        try:
            self._journalist.check_clock(self._clock.now())
        except KeyServiceError as exc:
            for number in sound[:allowed]:
                found[number] = KeyServiceError(exc.reason, exc.detail)
        return found

    def _check(self, caller: CallerIdentity, method: str, batch: Batch[T]) -> None:
        """Refuse a batch that is none; that costs its caller one call, and is recorded as one."""
        try:
            batch.check()
        except KeyServiceError:
            self.one(caller, f"{method}Batch", lambda _: batch.check())

    def _enter(self, caller: CallerIdentity) -> None:
        self._limits.charge_certificate(caller.fingerprint)
        self._journalist.check_clock(self._clock.now())

    def _record(self, attempt: Attempt, reason: Reason) -> None:
        if reason in _UNRECORDABLE:
            return
        digest = attempt.device_verified
        if digest is None:
            self._refusals.early(caller=attempt.name, method=attempt.method, reason=reason)
        else:
            self._refusals.late(caller=attempt.name, method=attempt.method, reason=reason, cap_digest=digest)
