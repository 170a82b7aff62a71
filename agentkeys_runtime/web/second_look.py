"""Whoever is known passes although their address has no tokens left: a neighbour's flood holds up nobody (ADR 0044).

Looked at is only what an empty bucket would refuse, so that the ordinary path costs nothing more. The look itself is
bounded: short bodies that come soon, few threads, few that wait for them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.to_thread import run_sync

from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.web.allowance import Allowance
from agentkeys_runtime.web.endpoints import Call, Endpoint, Known
from agentkeys_runtime.web.reading import Readers

#: The longest body that is looked at, in bytes: any change of the registry. A larger value waits until the flood ends.
MAX_BODY: Final = 64 * 1024
#: Seconds for a body to come, and bodies that are read at once: the one that takes longest gives way.
BODY_S: Final = 5.0
READING: Final = 128
THREADS: Final = 2
#: Looks that wait or run. A look takes a fraction of a millisecond: less than what brought the request this far.
LOOKING: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rate:
    """See `allowance.Rate`."""

    per_second: float
    burst: float
    remembered: int = 16_384


#: What one device may ask for while its address has nothing left; the prices are those of the routes.
OF_A_DEVICE: Final = _Rate(per_second=1.0, burst=60.0)
#: The same signed change, cap or proof again: a lost answer is asked for again, after 10 s.
OF_AN_ACT: Final = _Rate(per_second=0.1, burst=1.0)


class SecondLook:
    """Used on the event loop's thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.readers = Readers(READING)
        self._devices = Allowance(OF_A_DEVICE, clock)
        self._acts = Allowance(OF_AN_ACT, clock)
        self._looking = 0
        self._threads: anyio.CapacityLimiter | None = None

    async def lets_in(self, endpoint: Endpoint, call: Call) -> bool:
        """Whether somebody known sent this, who has tokens of their own: these are taken then."""
        known = await self._known(endpoint, call)
        return known is not None and (not known.who or self._pays(known, endpoint.price))

    async def _known(self, endpoint: Endpoint, call: Call) -> Known | None:
        if endpoint.known is None or self._looking >= LOOKING:
            return None
        self._looking += 1
        try:
            if self._threads is None:  # can be made inside an event loop only
                self._threads = anyio.CapacityLimiter(THREADS)
            return await run_sync(endpoint.known, call, limiter=self._threads)
        except KeyServiceError:
            return None
        finally:
            self._looking -= 1

    def _pays(self, known: Known, price: float) -> bool:
        """The act first: who sends it again takes nothing from the device that signed it."""
        try:
            self._acts.put_down(known.act, 1)
            self._devices.put_down(known.who, price)
        except KeyServiceError:
            return False
        return True
