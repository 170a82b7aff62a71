"""Bodies that are being read: so many at once, and where there are more, the one that takes longest gives way.

A body of the usual size is here in a moment. Slow ones may take their time as long as nobody needs their place.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

MAX_READING: Final = 256


class Readers:
    """Used on the event loop's thread only."""

    def __init__(self, limit: int = MAX_READING) -> None:
        self._limit = limit
        self._reading: dict[int, asyncio.Timeout] = {}  # in the order of their beginning

    @asynccontextmanager
    async def one(self, within_s: float) -> AsyncIterator[None]:
        """Read one body.

        Raises:
            KeyServiceError: invalid_body for one that is not here in time, overloaded for one that gave way.
        """
        gave_way = False
        if len(self._reading) >= self._limit:
            oldest = next(iter(self._reading))
            self._reading.pop(oldest).reschedule(0)  # a time that is past
        try:
            async with asyncio.timeout(within_s) as timeout:
                self._reading[id(timeout)] = timeout
                try:
                    yield
                finally:
                    gave_way = self._reading.pop(id(timeout), None) is None
        except TimeoutError as error:
            if gave_way:
                raise KeyServiceError(Reason.OVERLOADED, "the body came too slowly while others waited") from error
            raise KeyServiceError(Reason.INVALID_BODY, f"no whole body in {within_s:.0f} s") from error
