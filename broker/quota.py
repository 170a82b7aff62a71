"""How many co-signatures a minute a device and a user get. Counted only once the device's signature is verified."""

from collections.abc import Callable
from dataclasses import dataclass

from broker.ports import Counters
from broker.rates import MINUTE_S, Rates


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
        self._rates = Rates(counters, clock)

    def charge_device(self, device_key_hash: bytes) -> None:
        """Count one request of a device; `rate_limited` when its minute is used up."""
        limit = self._limits.device_per_minute
        self._rates.charge(
            b"device:" + device_key_hash, limit=limit, window_s=MINUTE_S, what=f"a device has {limit} requests a minute"
        )

    def charge_user(self, operator_omni: bytes) -> None:
        """Count one request of a user; `rate_limited` when the minute is used up."""
        limit = self._limits.user_per_minute
        self._rates.charge(
            b"user:" + operator_omni, limit=limit, window_s=MINUTE_S, what=f"a user has {limit} requests a minute"
        )
