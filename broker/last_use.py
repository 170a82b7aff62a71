"""When each device was last co-signed for, to the minute: what its owner sees, and nothing else rests on.

Every cap passes here, so noting one costs a look into a set; a thread of its own writes what is new, many devices in
one transaction. What is lost when a process dies is a few seconds of a convenience.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final, Self

from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.logs import log_event
from broker.ports import DeviceUse, DeviceUses
from broker.rates import MINUTE_S

#: How long a use waits to be written with others.
WRITE_EVERY_S: Final = 5.0
#: Devices of one minute that are remembered; of more than that, some are told as of an earlier minute.
KEPT: Final = 16_384
_LOG: Final = logging.getLogger("agentkeys.broker")


class LastUse:
    """Notes uses and tells them. Safe for many threads; while entered, a thread writes."""

    def __init__(self, uses: DeviceUses, clock: Callable[[], float], *, every_s: float = WRITE_EVERY_S) -> None:
        self._uses = uses
        self._clock = clock
        self._every_s = every_s
        self._lock = threading.Lock()
        self._minute = 0
        self._noted: set[bytes] = set()  # in this minute
        self._waiting: dict[bytes, DeviceUse] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="last-use", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End the thread, after it wrote what waits."""
        self._ended.set()
        self._thread.join()

    def note(self, device: bytes, operator: bytes) -> None:
        """Take down that this device of this operator was used now. Never raises, never waits for the database."""
        minute = int(self._clock()) // MINUTE_S * MINUTE_S
        if minute == self._minute and device in self._noted:  # without the lock: at worst it is noted twice
            return
        with self._lock:
            if minute != self._minute:
                self._noted = set()  # first: whoever looks in between finds too little rather than too much
                self._minute = minute
            if len(self._noted) < KEPT and (device in self._waiting or len(self._waiting) < KEPT):
                self._noted.add(device)
                self._waiting[device] = DeviceUse(device, operator, minute)

    def of_operator(self, operator: bytes) -> Mapping[bytes, int]:
        """The last use of each of a user's devices that was ever used: Unix seconds by key hash.

        Raises:
            KeyServiceError: `overloaded` where the database does not answer.
        """
        found = dict(self._uses.of_operator(operator))
        with self._lock:
            waiting = [use for use in self._waiting.values() if use.operator == operator]
        return found | {use.device: max(use.used_at, found.get(use.device, 0)) for use in waiting}

    def write(self) -> None:
        """Write what waits. Where the database does not answer, it waits on."""
        with self._lock:
            uses = list(self._waiting.values())
        try:
            self._uses.keep(uses)
        except KeyServiceError as error:
            log_event(_LOG, "last_use_not_written", level=logging.WARNING, reason=str(error.reason))
            return
        with self._lock:
            for use in uses:
                if self._waiting.get(use.device) == use:  # else it was used again meanwhile
                    del self._waiting[use.device]

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.write()
        self.write()
