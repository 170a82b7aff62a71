"""Records refused calls in the journal without letting them fill it (design section 5).

Before a valid device signature, refusals are only counted, per certificate, reason and minute: one line a minute each.
Later ones get a line of their own, rate-limited; what exceeds that is counted too. With little disk left none is
written: the reserve belongs to releases.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from agentkeys_core.errors import Reason
from signer.journal import JournalLine, LineKind
from signer.ledger import Journalist, Transaction
from signer.limits import Rate, TokenBuckets
from signer.ports import Clock

DISK_RESERVE_BYTES: Final = 64 * 1024 * 1024
#: Lines of their own that one certificate can cause.
_LINES: Final = Rate(per_s=5.0, burst=50.0)
#: Different (caller, method, reason) counted in one minute; more are counted together.
_MAX_COUNTERS: Final = 4096
_MINUTE_S: Final = 60
_OTHERS: Final = ("other callers", "", "")

_Counter = tuple[str, str, str]


class Refusals:
    """Counts and writes refusals. `caller` is any text that names the certificate; `free_bytes` probes the disk."""

    def __init__(
        self,
        journalist: Journalist,
        clock: Clock,
        *,
        free_bytes: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._journalist = journalist
        self._clock = clock
        self._free_bytes = free_bytes
        self._lines = TokenBuckets(_LINES, monotonic, capacity=_MAX_COUNTERS)
        self._lock = threading.Lock()
        self._counts: Counter[_Counter] = Counter()
        self._minute = self._this_minute()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Flush each minute's counts from a thread of its own, also when nobody calls. Start it after a fork."""
        self._thread = threading.Thread(target=self._tick, name="refusals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what was counted, and stop. The committer must still be running."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def early(self, *, caller: str, method: str, reason: Reason) -> None:
        """Count a refusal of a call that no valid device signature stands behind."""
        full: Counter[_Counter] | None = None
        key = (caller, method, reason.value)
        with self._lock:
            if self._this_minute() != self._minute:
                full = self._take()
            if key not in self._counts and len(self._counts) >= _MAX_COUNTERS:
                key = _OTHERS
            self._counts[key] += 1
        if full:
            self._write(full)

    def late(self, *, caller: str, method: str, reason: Reason, cap_digest: bytes) -> None:
        """Write a line for a refused request that a device signed; count it where there are too many."""
        if not self._lines.allows(caller):
            self.early(caller=caller, method=method, reason=reason)
            return
        line = JournalLine(
            at=int(self._clock.now()),
            kind=LineKind.REFUSAL,
            method=method,
            caller=caller,
            cap_digest=cap_digest,
            reason=reason.value,
        )
        self._post([line])

    def flush(self) -> None:
        """Write the counts so far, one line each."""
        with self._lock:
            counted = self._take()
        self._write(counted)

    def _take(self) -> Counter[_Counter]:
        counted, self._counts = self._counts, Counter()
        self._minute = self._this_minute()
        return counted

    def _write(self, counted: Counter[_Counter]) -> None:
        at = int(self._clock.now())
        lines = [
            JournalLine(at=at, kind=LineKind.REFUSAL, method=method, caller=caller, reason=reason, count=count)
            for (caller, method, reason), count in counted.items()
        ]
        if lines:
            self._post(lines)

    def _post(self, lines: list[JournalLine]) -> None:
        if self._free_bytes() < DISK_RESERVE_BYTES:
            return

        def unit(tx: Transaction) -> None:
            for line in lines:
                tx.journal(line)

        self._journalist.post(unit)

    def _tick(self) -> None:
        while not self._stop.wait(_MINUTE_S - self._clock.now() % _MINUTE_S):
            self.flush()

    def _this_minute(self) -> int:
        return int(self._clock.now()) // _MINUTE_S
