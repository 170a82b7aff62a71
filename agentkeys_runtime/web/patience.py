"""HTTP connections with bounds on patience: a client that begins and does not go on gives way to those that do.

The library waits for ever for the first request of a connection, for the rest of a head that has begun, and for a
client that reads its answer. Here each of them has its time, and where connections run out, the one that has been
silent for longest is cut off.
"""

import asyncio
import time
from typing import Final, Protocol, cast

import h11
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.headers import HEADERS
from agentkeys_runtime.web.problems import MEDIA_TYPE, problem_of
from agentkeys_runtime.web.strict_http import StrictConnection

#: Connections that are through with TLS, idle ones included; the application refuses earlier and by name.
MAX_CONNECTIONS: Final = 1024
MAX_HEAD_BYTES: Final = 16_384
#: Seconds for the TLS handshake, for a whole head once it may come, and for an answer to be read.
HANDSHAKE_S: Final = 5.0
HEAD_S: Final = 10.0
READ_S: Final = 30.0


class Aborting(Protocol):
    """A transport that can be cut off."""

    def abort(self) -> None:
        """Close at once, whatever is left to be sent."""
        ...


class PatientProtocol(H11Protocol):
    """One connection of a server."""

    _awaited_since: float | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for it, then wait for its first head."""
        super().connection_made(cast("asyncio.Transport", transport))
        self.conn = StrictConnection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._await_head(HEAD_S)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget its timers."""
        self._head_is_here()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As the library does; a request under way has its whole head."""
        super().data_received(data)
        if self._answers():
            self._head_is_here()

    def on_response_complete(self) -> None:
        """As the library does, which may at once begin with a request that was sent ahead."""
        self._await_head(self.timeout_keep_alive + HEAD_S)
        super().on_response_complete()
        if self._answers():
            self._head_is_here()

    def pause_writing(self) -> None:
        """The client does not read: for so long, and no longer."""
        super().pause_writing()
        self._stop_read_timer()
        self._read_timer = self.loop.call_later(READ_S, self._cut_off)

    def resume_writing(self) -> None:
        """It reads on."""
        super().resume_writing()
        self._stop_read_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - for people who debug the library
        """Refuse what is no HTTP as everything else is refused, and hang up."""
        problem = problem_of(KeyServiceError(Reason.INVALID_ENCODING, "not HTTP/1.1"), now=time.time())
        headers = {**HEADERS, "Connection": "close", "Content-Type": MEDIA_TYPE}
        for event in (
            h11.Response(status_code=problem.status, headers=list(headers.items())),
            h11.Data(data=canonical_json(problem.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def awaited_since(self) -> float:
        """When this connection last had something to say; infinity while it is answered."""
        return float("inf") if self._awaited_since is None else self._awaited_since

    def _answers(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request, whatever its stub says
        return cycle is not None and not cycle.response_complete

    def _await_head(self, limit_s: float) -> None:
        self._head_is_here()
        self._awaited_since = self.loop.time()
        self._head_timer = self.loop.call_later(limit_s, self._cut_off)

    def _head_is_here(self) -> None:
        self._awaited_since = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _make_room(self) -> None:
        """Cut off the connection that has been silent for longest; where all are answered just now, refuse by name."""
        others = [known for known in self.connections if isinstance(known, PatientProtocol) and known is not self]
        longest = min(others, key=lambda known: known.awaited_since, default=self)
        if longest is self or longest.awaited_since == float("inf"):
            self.app = _overloaded  # the library would say so in words that no client of ours reads
        else:
            longest._cut_off()  # noqa: SLF001  # of this very class

    def _cut_off(self) -> None:
        cast("Aborting", self.transport).abort()


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    problem = problem_of(KeyServiceError(Reason.OVERLOADED, "too many connections"), now=time.time())
    headers = {**HEADERS, **problem.headers, "Connection": "close"}
    refused = JSONResponse(problem.body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
    await refused(scope, receive, send)
