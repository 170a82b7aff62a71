"""How many co-signatures a minute a device and a user get. Counted only once the device's signature is verified."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from broker.ports import Counters

MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """Requests in one minute of the clock."""

    device_per_minute: int = 60
    user_per_minute: int = 300

    def __post_init__(self) -> None:
        if min(self.device_per_minute, self.user_per_minute) < 1:
            raise ValueError("limits are at least 1")


class Quota:
    """Charges requests. Names are those that the registry tells, never those that a request claims."""

    def __init__(self, limits: QuotaLimits, counters: Counters, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._counters = counters
        self._clock = clock

    def charge_device(self, device_key_hash: bytes) -> None:
        """Count one request of a device; `rate_limited` when its minute is used up."""
        self._charge(b"device:" + device_key_hash, self._limits.device_per_minute)

    def charge_user(self, operator_omni: bytes) -> None:
        """Count one request of a user; `rate_limited` when the minute is used up."""
        self._charge(b"user:" + operator_omni, self._limits.user_per_minute)

    def _charge(self, name: bytes, limit: int) -> None:
        now = int(self._clock())
        wait = MINUTE_S - now % MINUTE_S
        if not self._counters.count(name, until=now + wait, limit=limit, now=now):
            kind = name.partition(b":")[0].decode()
            raise KeyServiceError(
                Reason.RATE_LIMITED,
                f"a {kind} has {limit} requests a minute",
                metadata={"retry_after": str(wait), "server_time": str(now)},
            )
