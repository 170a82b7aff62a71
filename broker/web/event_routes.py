"""Server-sent events: what changes in the registry about the user of a session, as long as that session lasts."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from anyio.to_thread import run_sync

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.endpoints import Call, Endpoint, always
from broker.change_feed import Caught, ChangeFeed
from broker.sessions import SessionDesk, Visitor
from broker.web.session_routes import claim_of, known_by_proof

#: How often a silent stream beats, and its session is looked at again.
BEAT_S: Final = 15.0
_LAST: Final = "last-event-id"
_DIGITS: Final = 16  # of 2^53


class UserEvents:
    """Implements `agentkeys_runtime.web.endpoints.Events` for one visitor."""

    def __init__(
        self,
        *,
        feed: ChangeFeed,
        sessions: SessionDesk,
        visitor: Visitor,
        after: int | None,
        head: Callable[[], int],
        beat_s: float,
    ) -> None:
        """Raises as `ChangeFeed.watch`."""
        self._feed = feed
        self._sessions = sessions
        self._visitor = visitor
        self._head = head
        self._after = head() if after is None else after
        self._beat_s = beat_s
        device = visitor.device
        self._watch = feed.watch(visitor.operator.operator_omni, device.device_key_hash, is_master=device.is_master)

    def close(self) -> None:
        """See the port."""
        self._watch.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        """Changes as they come. A bare `id` is the beat; the last event is `end`, with the reason why."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: so is the stream
                loop.call_soon_threadsafe(woken.set)

        self._watch.wake = wake
        upto = self._after
        while True:
            woken.clear()
            try:
                caught = await run_sync(self._look, upto)
            except KeyServiceError as error:
                yield _event("end", {"reason": str(error.reason)})
                return
            upto = caught.upto
            if caught.missed:
                yield _event("missed", {"sequence": upto})
            for change in caught.changes:
                told = {"digest": change.digest.hex(), "sequence": change.sequence, "type": change.type}
                yield _event("change", told, change.sequence)
            yield f"id: {upto}\n\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await woken.wait()

    def _look(self, after: int) -> Caught:
        """In a thread: the database and the registry are asked."""
        self._sessions.check(self._visitor.session)
        return self._feed.since(self._watch.operator, after, head=self._head())


def event_endpoints(
    *, feed: ChangeFeed, sessions: SessionDesk, head: Callable[[], int], beat_s: float = BEAT_S
) -> tuple[Endpoint, ...]:
    """Return the route of events; `head` tells the newest sequence that the feed's follower knows."""

    def events(call: Call) -> UserEvents:
        after = _last_event_id(call.headers.get(_LAST))
        visitor = sessions.visitor(claim_of(call))
        return UserEvents(feed=feed, sessions=sessions, visitor=visitor, after=after, head=head, beat_s=beat_s)

    return (
        Endpoint(
            method="GET",
            path="/v1/events",
            summary="Registry changes of the session's user as server-sent events; Last-Event-ID catches up.",
            handler=events,
            proof="request",
            session=True,
            given_back=always,
            known=known_by_proof(sessions, "request"),
            events=True,
        ),
    )


def _last_event_id(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise KeyServiceError(Reason.INVALID_ENCODING, "Last-Event-ID is none of ours")
    return int(text)


def _event(name: str, data: object, event_id: int | None = None) -> str:
    named = "" if event_id is None else f"id: {event_id}\n"
    return f"{named}event: {name}\ndata: {json.dumps(data, sort_keys=True)}\n\n"
