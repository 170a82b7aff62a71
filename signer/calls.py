"""One call, or each item of a batch: charged, its clock checked, worked on, and recorded where it is refused."""

from collections.abc import Callable, Sequence
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

    def one(self, caller: CallerIdentity, method: str, work: Callable[[Attempt], T]) -> T:
        """What `work` returns; a refusal is recorded before it goes on to the caller."""
        attempt = Attempt(caller=caller, method=method)
        try:
            self._enter(caller)
            return work(attempt)
        except KeyServiceError as exc:
            self._record(attempt, exc.reason)
            raise

    def each(
        self, caller: CallerIdentity, method: str, batch: Batch[T], work: Callable[[Attempt, T], R]
    ) -> list[Outcome[R]]:
        """The answer to each item, in order, of work that leaves nothing behind.

        Raises:
            KeyServiceError: as `Batch.check`.
        """
        self._check(caller, method, batch)
        attempts = [Attempt(caller=caller, method=method) for _ in batch.items]

        def answer(number: int, item: T) -> R:
            batch.check_item(number)
            self._enter(caller)
            return work(attempts[number], item)

        found = [answered(answer, number, item) for number, item in enumerate(batch.items)]
        return self._recorded(attempts, found)

    def together(
        self, caller: CallerIdentity, method: str, batch: Batch[T], prepare: Callable[[Attempt, T, Settle], Unit[R]]
    ) -> list[Outcome[R]]:
        """The answer to each item, in order, once the units that `prepare` gave for them went through one commit.

        An item that settles a cap digest which an earlier one has settled waits for that one's commit.

        Raises:
            KeyServiceError: as `Batch.check`.
        """
        self._check(caller, method, batch)
        gathering: Gathering[R] = Gathering(self._journalist, self._clock)
        attempts = [Attempt(caller=caller, method=method) for _ in batch.items]

        def add(number: int, item: T) -> None:
            batch.check_item(number)
            self._enter(caller)
            gathering.add(number, prepare(attempts[number], item, gathering.settle))

        for number, item in enumerate(batch.items):
            refusal = answered(add, number, item)
            if refusal is not None:
                gathering.outcomes[number] = refusal
        gathering.commit()
        return self._recorded(attempts, [gathering.outcomes[number] for number in range(len(attempts))])

    def _check(self, caller: CallerIdentity, method: str, batch: Batch[T]) -> None:
        """Refuse a batch that is none; that costs its caller one call, and is recorded as one."""
        try:
            batch.check()
        except KeyServiceError:
            self.one(caller, f"{method}Batch", lambda _: batch.check())

    def _enter(self, caller: CallerIdentity) -> None:
        self._limits.charge_certificate(caller.fingerprint)
        self._journalist.check_clock(self._clock.now())

    def _recorded(self, attempts: Sequence[Attempt], outcomes: list[Outcome[R]]) -> list[Outcome[R]]:
        for attempt, outcome in zip(attempts, outcomes, strict=True):
            if isinstance(outcome, KeyServiceError):
                self._record(attempt, outcome.reason)
        return outcomes

    def _record(self, attempt: Attempt, reason: Reason) -> None:
        if reason in _UNRECORDABLE:
            return
        digest = attempt.device_verified
        if digest is None:
            self._refusals.early(caller=attempt.name, method=attempt.method, reason=reason)
        else:
            self._refusals.late(caller=attempt.name, method=attempt.method, reason=reason, cap_digest=digest)
