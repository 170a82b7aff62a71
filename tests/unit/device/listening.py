"""Somebody who follows live changes, and can be waited for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentkeys_core.registry import OperatorState
from device.broker_session import BrokerSession
from device.home import Home
from device.live import Following
from device.session import Device
from device.show import Show

PATIENCE_S = 20.0


class Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.states: list[OperatorState] = []
        self.reasons: list[str] = []
        self.hearing = 0
        self._changed = threading.Condition()

    def saw(self, state: OperatorState) -> None:
        self._note(lambda: self.states.append(state))

    def hears(self) -> None:
        def more() -> None:
            self.hearing += 1

        self._note(more)

    def deaf(self, reason: str) -> None:
        self._note(lambda: self.reasons.append(reason))

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def until(self, holds: Callable[["Heard"], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self), PATIENCE_S), (self.reasons, len(self.states))


@contextmanager
def following(folder: Path) -> Iterator[tuple[Heard, BrokerSession]]:
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(folder))
        asking, looking = (stack.enter_context(Device.open(home, Show(as_json=True, yes=True))) for _ in range(2))
        session, heard = BrokerSession(asking), Heard()
        made = Following(looking, session, heard, pause_s=0.02)
        made.start()
        try:
            yield heard, session
        finally:
            made.close()
