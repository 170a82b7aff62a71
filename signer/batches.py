"""Batches of one RPC: what they may look like, and how their items are answered each by itself.

An item is charged, checked, recorded and refused exactly as the single call would be; what it shares with the others is
the way here and the commit. Spec: design section 5, docs/spec/signer-protocol.md ("Batches").
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from agentkeys_core.errors import KeyServiceError, Reason
from signer.ledger import Journalist, Transaction
from signer.ports import Clock

MAX_ITEMS: Final = 256
MAX_ITEM_BYTES: Final = 64 * 1024
MAX_BATCH_BYTES: Final = 1024 * 1024
#: What was admitted is committed after this many seconds at the latest: admissions of 0.5 s ago are worth nothing.
_MAX_AGE_S: Final = 0.1
_LOG: Final = logging.getLogger("agentkeys.signer.batches")

T = TypeVar("T")
R = TypeVar("R")

Outcome: TypeAlias = R | KeyServiceError
"""What one item is answered with: its response, or the refusal that the single call would have ended with."""

Unit: TypeAlias = Callable[[Transaction], R]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T]):
    """Items in order, the size of each in bytes, and for how many of them the process has room."""

    items: Sequence[T]
    sizes: Sequence[int]
    room: int

    def check(self) -> None:
        """Return unless the batch as a whole is no good. Raises invalid_encoding (empty), too_large."""
        if not self.items:
            raise KeyServiceError(Reason.INVALID_ENCODING, "a batch has at least one item")
        if len(self.items) > MAX_ITEMS:
            raise KeyServiceError(Reason.TOO_LARGE, f"{len(self.items)} items, at most {MAX_ITEMS}")
        if sum(self.sizes) > MAX_BATCH_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, f"{sum(self.sizes)} bytes, at most {MAX_BATCH_BYTES}")

    def faults(self) -> list[KeyServiceError | None]:
        """Each item's own refusal, `overloaded` beyond the room or `too_large`; None for the sound ones."""
        return [self._fault(number, size) for number, size in enumerate(self.sizes)]

    def _fault(self, number: int, size: int) -> KeyServiceError | None:
        if number >= self.room:
            return KeyServiceError(Reason.OVERLOADED, "too many calls are waiting")
        if size > MAX_ITEM_BYTES:
            return KeyServiceError(Reason.TOO_LARGE, f"an item has at most {MAX_ITEM_BYTES} bytes")
        return None


def answered(work: Callable[[T], R], item: T) -> Outcome[R]:
    """What `work` returns for an item, or the refusal that it raises; any other error is logged, and `internal`."""
    try:
        return work(item)
    except KeyServiceError as refusal:
        return refusal
    except Exception as error:  # noqa: BLE001  # whatever broke, the other items are answered
        return _internal(error)


class Gathering(Generic[R]):
    """Units of a batch on their way to one commit, each under the number of its item."""

    def __init__(self, journalist: Journalist, clock: Clock) -> None:
        self._journalist = journalist
        self._clock = clock
        self._units: list[tuple[int, Unit[R]]] = []
        self._digests: set[bytes] = set()
        self._since = 0.0
        self.outcomes: dict[int, Outcome[R]] = {}
        """Answers by number, complete after `commit`."""

    def add(self, number: int, unit: Outcome[Unit[R]]) -> None:
        """Have the unit committed with the others; at once where the first of them was admitted a while ago.

        What came to a refusal instead of a unit is answered with that.
        """
        if isinstance(unit, KeyServiceError):
            self.outcomes[number] = unit
            return
        if not self._units:
            self._since = self._clock.now()
        self._units.append((number, unit))
        if self._clock.now() - self._since > _MAX_AGE_S:
            self.commit()

    def settle(self, digest: bytes) -> None:
        """Commit what was gathered if it is about this cap too: what comes next must see what became of it."""
        if digest in self._digests:
            self.commit()
        self._digests.add(digest)

    def commit(self) -> None:
        """Commit all units that were added, by one hand-over."""
        numbers, units = [number for number, _ in self._units], [unit for _, unit in self._units]
        self._units = []
        self._digests.clear()
        for number, found in zip(numbers, self._journalist.run_all(units), strict=True):
            if isinstance(found, Exception) and not isinstance(found, KeyServiceError):
                self.outcomes[number] = _internal(found)
            else:
                self.outcomes[number] = found


def _internal(error: Exception) -> KeyServiceError:
    _LOG.error("internal", exc_info=error)
    return KeyServiceError(Reason.INTERNAL, type(error).__name__)
