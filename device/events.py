"""The broker's live changes as this device hears them: hints, of which nothing is believed but that one may look."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.transport import Stream

PATH: Final = "/v1/events"
#: The broker beats every 15 s; a stream that is silent for three beats is dead.
SILENCE_S: Final = 45.0
#: Of one event; ours have a few hundred bytes.
MAX_EVENT_BYTES: Final = 8192
_ID_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Event:
    """One block of the stream. A beat has no `kind`; `id` is the sequence that it reaches, where it says so."""

    kind: str
    data: str
    id: int | None


class Events:
    """The events of one connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Event]:
        """Yield each event as it comes. Raises `answer_not_trusted` for what is none; as `Channel.stream`."""
        held = b""
        for chunk in self._stream.chunks():
            *blocks, held = (held + chunk).split(b"\n\n")
            for block in blocks:
                yield _event(block)
            if len(held) > MAX_EVENT_BYTES:
                raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "an event without end")

    def cut(self) -> None:
        """End the stream at once, from any thread."""
        self._stream.cut()


@contextmanager
def listening(session: BrokerSession, *, after: int | None) -> Iterator[Events]:
    """Open the stream; `after` is the last id that was heard. Raises as `BrokerSession.stream`."""
    headers = {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    with session.stream(PATH, silence_s=SILENCE_S, headers=headers) as stream:
        yield Events(stream)


def _event(block: bytes) -> Event:
    if len(block) > MAX_EVENT_BYTES:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "an event without end")
    found = {"event": "", "data": "", "id": ""}
    for line in block.decode(errors="replace").split("\n"):
        name, _, value = line.partition(":")
        if name in found:
            found[name] = value.removeprefix(" ")
    text = found["id"]
    known = text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS
    return Event(found["event"], found["data"], int(text) if known else None)
