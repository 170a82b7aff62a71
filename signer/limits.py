"""Token buckets: how many calls one certificate, and one device, may make a second.

A device's bucket is charged only after its signature was verified, so that nobody can lock out a victim by naming it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

#: Buckets kept at once; the least recently used goes first. An attacker who could fill this many holds as many devices.
_CAPACITY: Final = 65_536
#: Requests that were charged, remembered so that none is charged twice.
_CHARGED: Final = 32_768
_NAME_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`per_s` calls a second on average, `burst` at once."""

    per_s: float
    burst: float


class TokenBuckets:
    """One bucket a key, full at first. Safe to use from several threads; `monotonic` gives seconds."""

    def __init__(self, rate: Rate, monotonic: Callable[[], float], *, capacity: int = _CAPACITY) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._capacity = capacity
        self._lock = threading.Lock()
        self._buckets: OrderedDict[bytes | str, tuple[float, float]] = OrderedDict()

    def allows(self, key: bytes | str) -> bool:
        """Take one token of `key`'s bucket; False when it is empty, and nothing was taken."""
        return self.take(key, 1) == 1

    def take(self, key: bytes | str, wanted: int) -> int:
        """Take up to `wanted` tokens of `key`'s bucket; how many there were."""
        now = self._monotonic()
        with self._lock:
            tokens, since = self._buckets.pop(key, (self._rate.burst, now))
            tokens = min(self._rate.burst, tokens + max(0.0, now - since) * self._rate.per_s)
            taken = min(wanted, int(tokens))
            self._buckets[key] = (tokens - taken, now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        return taken

    def charge(self, key: bytes | str) -> None:
        """Take one token of `key`'s bucket. Raises rate_limited when it is empty."""
        if not self.allows(key):
            raise KeyServiceError(Reason.RATE_LIMITED, "too many calls")


class Recent:
    """The last so many SHA-256 digests, and up to as many before them. Safe for many threads.

    Only 8 bytes of each are kept, for a third of the memory. Whoever finds two requests of their own that share these
    has one call for nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._now: set[int] = set()
        self._before: set[int] = set()

    def has(self, digest: bytes) -> bool:
        """Whether the digest is among them."""
        name = int.from_bytes(digest[:_NAME_BYTES])
        return name in self._now or name in self._before

    def add(self, digest: bytes) -> None:
        """Remember one more; the oldest are forgotten."""
        with self._lock:
            self._now.add(int.from_bytes(digest[:_NAME_BYTES]))
            if len(self._now) >= self._capacity:
                self._before, self._now = self._now, set()


class Limits:
    """The two buckets of a call: the caller's certificate first, the device once it has proved itself."""

    def __init__(self, *, certificate: Rate, device: Rate, monotonic: Callable[[], float]) -> None:
        self._certificates = TokenBuckets(certificate, monotonic)
        self._devices = TokenBuckets(device, monotonic)
        self._charged = Recent(_CHARGED)

    def charge_certificate(self, fingerprint: str) -> None:
        """Count one call of this certificate. Raises rate_limited."""
        self._certificates.charge(fingerprint)

    def charge_certificate_for(self, fingerprint: str, calls: int) -> int:
        """Count up to so many calls of this certificate at once; how many it may make."""
        return self._certificates.take(fingerprint, calls)

    def charge_device(self, device_key_hash: bytes, cap_digest: bytes) -> None:
        """Count one request of this device, once, and only after its signature was verified. Raises rate_limited.

        A worker that sends the same request again and again uses up its own certificate's tokens, not the device's.
        """
        if not self._charged.has(cap_digest):
            self._devices.charge(device_key_hash)
            self._charged.add(cap_digest)
