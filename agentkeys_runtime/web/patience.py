"""HTTP connections that must bring their requests in time: silent and dribbling ones would take up all there may be."""

import asyncio
import time
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.problems import MEDIA_TYPE, problem_of

#: Connections, idle ones included; the application refuses earlier and by name.
MAX_CONNECTIONS: Final = 1024
#: From the connection to the end of its first request's head; the body has a time of its own.
HEAD_S: Final = 10.0


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request's head is not whole in time, whatever bytes of it have come.

    The library times only the silence between two requests, and only until the first byte of the second.
    """

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the library has it
        """A connection begins, and the time for its first head with it."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.app = _overloaded  # the library would say so in words that no client of ours reads
        self._await_head(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Bytes came: a request that began is waited for elsewhere."""
        super().handle_events()
        if self._is_answering():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer went out: the next request may come for as long as the connection may be idle."""
        super().on_response_complete()
        if not self._is_answering():  # the next request may have come already
            self._await_head(self.timeout_keep_alive + HEAD_S)

    def _is_answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)  # before the first request there is no cycle

    def _await_head(self, limit_s: float) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self._limit = self.loop.call_later(limit_s, self.transport.abort)  # a TLS farewell would wait for theirs

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    problem = problem_of(KeyServiceError(Reason.OVERLOADED, "too many connections"), now=time.time())
    headers = {**problem.headers, "Connection": "close"}
    refused = JSONResponse(problem.body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
    await refused(scope, receive, send)
