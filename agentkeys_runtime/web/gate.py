"""How many requests run at once, and in which threads: those that wait for servers that are not ours, apart."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import anyio
from anyio.to_thread import run_sync

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.endpoints import Call, Endpoint, Events, Page
from agentkeys_runtime.web.reading import Readers

THREADS: Final = 40
#: Threads of handlers that wait for servers that are not ours; nothing queues for them.
WAITING_THREADS: Final = 16
#: What one sender may have of them.
WAITING_PER_SENDER: Final = 3
#: Requests that wait for a thread or run. Beyond this they are refused at once instead of piling up.
MAX_IN_FLIGHT: Final = 256


class Gate:
    """Counts requests in flight, and holds the threads that they run in. Used on the event loop's thread only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._waiting: Counter[str] = Counter()  # by sender
        self.readers = Readers()
        self._threads: anyio.CapacityLimiter | None = None

    async def run(self, endpoint: Endpoint, call: Call) -> Mapping[str, object] | Page | Events:
        """Run the handler in a thread. Raises `overloaded` where too many run, or wait, already."""
        if endpoint.waits:
            return await self._run_waiting(endpoint, call)
        if self._count >= self._limit:
            raise KeyServiceError(Reason.OVERLOADED, "too many requests at once")
        self._count += 1
        try:
            if self._threads is None:  # can be made inside an event loop only
                self._threads = anyio.CapacityLimiter(THREADS)
            return await run_sync(endpoint.handler, call, limiter=self._threads)
        finally:
            self._count -= 1

    async def _run_waiting(self, endpoint: Endpoint, call: Call) -> Mapping[str, object] | Page | Events:
        sender = call.client
        if self._waiting.total() >= WAITING_THREADS or self._waiting[sender] >= WAITING_PER_SENDER:
            raise KeyServiceError(Reason.OVERLOADED, "too many requests wait for other servers")
        self._waiting[sender] += 1
        try:
            return await run_sync(endpoint.handler, call, limiter=anyio.CapacityLimiter(1))
        finally:
            self._waiting[sender] -= 1
            self._waiting += Counter()  # forgets whoever has none
