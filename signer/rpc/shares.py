"""Who is refused when too many calls wait: whoever has more than a fair share of those that came last."""

import threading
from collections import Counter, deque
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

#: So many calls are remembered; only those that came while too many were waiting.
REMEMBERED: Final = 256


class Shares:
    """Counts the last callers under overload. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[str] = deque()
        self._count: Counter[str] = Counter()

    def check(self, caller: str) -> None:
        """Count one more call of this certificate, and return where it has less than a fair share of the last ones.

        A caller who is alone has all of them, and is refused. Raises overloaded.
        """
        with self._lock:
            self._last.append(caller)
            self._count[caller] += 1
            if len(self._last) > REMEMBERED:
                oldest = self._last.popleft()
                self._count[oldest] -= 1
                if not self._count[oldest]:
                    del self._count[oldest]
            fair = len(self._last) / len(self._count)
            if self._count[caller] >= fair:
                raise KeyServiceError(Reason.OVERLOADED, "too many calls are waiting")
