"""Changes of the registry as this broker hears them, for devices that like to know at once.

A convenience, which nothing rests on: whoever hears of a change asks the registry, and a broker that keeps silent hides
nothing that workers and signer would not refuse anyway.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.registry_client import RegistryChange

#: Changes of all users that are kept for those who come back.
KEPT: Final = 4096
#: Streams that one device may have open here, one user, and all users together. The last `PER_DEVICE` of a user's are
#: kept for masters, so that agents cannot hold all of them. Where few are left, a user may hold only a part of those.
PER_DEVICE: Final = 4
PER_USER: Final = 16
IN_ALL: Final = 256
PART_OF_THE_REST: Final = 4
_RETRY_AFTER_S: Final = 60


class Caught(NamedTuple):
    """What happened since: the changes, up to which sequence they reach, and whether some may be missing."""

    changes: tuple[RegistryChange, ...]
    upto: int
    missed: bool


class Watch:
    """One open stream of a user's device. Its reader says how it wants to be woken."""

    def __init__(self, operator: bytes, device: bytes, close: Callable[["Watch"], None]) -> None:
        self.operator = operator
        self.device = device
        self.wake: Callable[[], object] = lambda: None
        self._close = close

    def close(self) -> None:
        """Make room for another one; closing twice is safe."""
        self._close(self)


class ChangeFeed:
    """Told of each change by the follower's thread, asked by many. `head` tells the newest sequence that it follows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[RegistryChange] = deque()
        self._floor = self._last = -1
        """What `_kept` reaches back to, and up to; -1 before the first."""
        self._watches: set[Watch] = set()

    def publish(self, change: RegistryChange) -> None:
        """Take a change in, and wake those whom it is about. Never raises."""
        with self._lock:
            if change.sequence != self._last + 1:  # the first one, or some were missed: nobody knows what was before
                self._kept.clear()
                self._floor = change.sequence - 1
            self._kept.append(change)
            self._last = change.sequence
            if len(self._kept) > KEPT:
                self._floor = self._kept.popleft().sequence
            woken = [watch for watch in self._watches if watch.operator == change.operator_omni]
        for watch in woken:
            watch.wake()

    def watch(self, operator: bytes, device: bytes, *, is_master: bool) -> Watch:
        """Open a stream of this device (key hash).

        Raises:
            KeyServiceError: `rate_limited` where this device or its user has too many, `overloaded` where all together
                have.
        """
        with self._lock:
            left = IN_ALL - len(self._watches)
            theirs = [watch for watch in self._watches if watch.operator == operator]
            if len(theirs) * PART_OF_THE_REST >= left:
                raise KeyServiceError(Reason.OVERLOADED, "too many streams are open")
            if len(theirs) >= (PER_USER if is_master else PER_USER - PER_DEVICE):
                raise _too_many(f"a user has {PER_USER} streams")
            if sum(watch.device == device for watch in theirs) >= PER_DEVICE:
                raise _too_many(f"a device has {PER_DEVICE} streams")
            made = Watch(operator, device, self._forget)
            self._watches.add(made)
            return made

    def since(self, operator: bytes, after: int, *, head: int) -> Caught:
        """Changes of this user after sequence `after`; `head` is the newest sequence that the follower knows."""
        with self._lock:
            floor, last = (head, head) if self._last < 0 else (self._floor, self._last)
            if not floor <= after <= max(last, head):
                return Caught((), last, missed=True)
            found = (change for change in self._kept if change.sequence > after and change.operator_omni == operator)
            return Caught(tuple(found), max(after, last), missed=False)

    def _forget(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)


def _too_many(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.RATE_LIMITED, detail, metadata={"retry_after": str(_RETRY_AFTER_S)})
