"""Buckets of tokens by name: what an address may ask for without a registered device behind it (ADR 0037, 0044).

A request puts its price down before anything is done for it. Where it turns out that somebody known sent it, the price
is given back: so strangers are bounded, and whoever shares an address with a thousand registered devices is not.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from agentkeys_core.errors import KeyServiceError, Reason


class Rate(Protocol):
    """How fast a bucket fills, and how many of them there are."""

    @property
    def per_second(self) -> float:
        """Tokens that come back."""

    @property
    def burst(self) -> float:
        """Tokens of a full bucket."""

    @property
    def remembered(self) -> int:
        """Names that are counted at once; the longest silent is forgotten first."""


class _Bucket(NamedTuple):
    tokens: float
    at: float  # when they were counted


class Allowance:
    """Counts by sender, in this process alone. Used on the event loop's thread only."""

    def __init__(self, limits: Rate | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Without `limits` nobody is counted."""
        self._limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # whoever asked last stands last

    def __len__(self) -> int:
        """How many senders are remembered."""
        return len(self._buckets)

    def put_down(self, sender: str, price: float) -> None:
        """Take `price` tokens of the sender.

        Raises:
            KeyServiceError: `rate_limited` with `retry_after` where it has fewer; nothing is taken then.
        """
        limits, now = self._limits, self._clock()
        if limits is None or not price:
            return
        tokens = self._tokens(sender, limits, now)
        if tokens < price:
            wait = math.ceil((price - tokens) / limits.per_second)
            raise KeyServiceError(
                Reason.RATE_LIMITED,
                "too many requests from this address without a registered device behind them",
                metadata={"retry_after": str(wait)},
            )
        self._keep(sender, limits, _Bucket(tokens - price, now))

    def give_back(self, sender: str, price: float) -> None:
        """Undo `put_down`."""
        limits, now = self._limits, self._clock()
        if limits is None or not price:
            return
        self._keep(sender, limits, _Bucket(self._tokens(sender, limits, now) + price, now))

    def _tokens(self, sender: str, limits: Rate, now: float) -> float:
        """Never more than a burst, whatever was given back and however long it was silent."""
        bucket = self._buckets.get(sender)
        if bucket is None:
            return limits.burst
        return min(limits.burst, bucket.tokens + (now - bucket.at) * limits.per_second)

    def _keep(self, sender: str, limits: Rate, bucket: _Bucket) -> None:
        self._buckets[sender] = bucket
        self._buckets.move_to_end(sender)
        if len(self._buckets) > limits.remembered:
            self._buckets.popitem(last=False)  # who is forgotten has all its tokens again: nobody loses by it
