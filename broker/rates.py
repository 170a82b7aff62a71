"""So many times in each window of the clock, and then no more until the next: for requests, mails, codes."""

from collections.abc import Callable
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from broker.ports import Counters

MINUTE_S: Final = 60
HOUR_S: Final = 3600


class Rates:
    """Counts by name over all processes of this broker. Windows begin on the clock's own minutes and hours."""

    def __init__(self, counters: Counters, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock

    def charge(self, name: bytes, *, limit: int, window_s: int, what: str) -> None:
        """Count `name` once more in this window; `what` tells people what there were too many of.

        Raises:
            KeyServiceError: `rate_limited` with `retry_after` where it was counted `limit` times; `overloaded`.
        """
        now = int(self._clock())
        wait = window_s - now % window_s
        if not self._counters.count(name, until=now + wait, limit=limit, now=now):
            raise KeyServiceError(
                Reason.RATE_LIMITED, what, metadata={"retry_after": str(wait), "server_time": str(now)}
            )
