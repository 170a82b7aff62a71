"""Follows the broker's hints in a thread, for as long as a program wants to show what is so.

A hint makes us read the registry, and what was read is what counts. Whatever may have been missed is made good the same
way: each new connection begins with a look.
"""

import json
import random
import threading
import time
from typing import Final, Protocol

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from device.agents import state_now
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.events import Event, Events, listening
from device.session import Device
from device.signed_in import SignedIn

FIRST_PAUSE_S: Final = 1.0
#: A broker that is away for long, or wants no more of our streams, is asked no more often than this.
LONGEST_PAUSE_S: Final = 60.0
#: However often a broker hints, the registry is read no more often than this.
LOOK_PAUSE_S: Final = 0.5
_PATIENCE_S: Final = 2.0
_GONE: Final = frozenset({Reason.DEVICE_REVOKED, Reason.DEVICE_UNKNOWN})


class Listener(Protocol):
    """Is told by the thread; must return soon and not raise."""

    def saw(self, state: OperatorState) -> object:
        """The state of this operator was read."""

    def hears(self) -> None:
        """Changes are heard of from now on."""

    def deaf(self, reason: str) -> None:
        """Changes are not heard of; `reason` by name. It is tried again."""


class Following:
    """One stream, opened again and again. `device` is for this thread alone; the session may be shared."""

    def __init__(
        self, device: Device, session: BrokerSession, listener: Listener, *, pause_s: float = FIRST_PAUSE_S
    ) -> None:
        self._device = device
        self._session = session
        self._listener = listener
        self._pause_s = pause_s
        self._after: int | None = None
        self._followed: SignedIn | None = None
        self._behind = False
        self._looked_at = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._open: Events | None = None
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """End it. Its thread ends with it; where it is just connecting, it is not waited for long."""
        with self._lock:
            self._ended.set()
            if self._open is not None:
                self._open.cut()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        pause = self._pause_s
        while not self._ended.is_set():
            heard, reason = self._listen()
            if self._ended.is_set():
                return
            self._listener.deaf(reason)
            pause = self._pause_s if heard else min(2 * pause, LONGEST_PAUSE_S)
            self._ended.wait(pause * random.uniform(0.75, 1.25))  # noqa: S311 - so that not all come back at once

    def _listen(self) -> tuple[bool, str]:
        """Follow one stream to its end: whether anything came, and why it ended."""
        heard = False
        try:
            with listening(self._session, after=self._after) as events:
                with self._lock:
                    if self._ended.is_set():
                        return heard, ""
                    self._open = events
                self._followed = self._session.signed_in
                for event in events:
                    if event.kind == "end":
                        return heard, self._end(event)
                    if not heard:
                        heard = True
                        self._look()
                        self._listener.hears()
                    elif event.kind or self._behind:
                        self._look()
                    if event.id is not None:
                        self._after = event.id
        except (DeviceError, KeyServiceError) as exc:
            return heard, str(exc.reason)
        except Exception:  # noqa: BLE001 - a convenience must not die of an answer that nobody foresaw
            return heard, str(Trouble.INTERNAL)
        finally:
            with self._lock:
                self._open = None
        return heard, str(Trouble.UNREACHABLE)

    def _look(self) -> None:
        self._ended.wait(max(0.0, self._looked_at + LOOK_PAUSE_S - time.monotonic()))
        self._looked_at = time.monotonic()
        try:
            self._listener.saw(state_now(self._device))
            self._behind = False
        except (DeviceError, KeyServiceError):
            self._behind = True  # looked at again with the next beat

    def _end(self, event: Event) -> str:
        """Why the broker ended the stream, as it says."""
        try:
            reason = Reason(json.loads(event.data)["reason"])
        except (ValueError, TypeError, KeyError):
            return str(Trouble.UNREACHABLE)
        if reason is Reason.SESSION_INVALID:
            self._session.forget(self._followed)
        if reason in _GONE:
            self._look()
        return str(reason)
