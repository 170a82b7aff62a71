"""What open pages are told between two loads: that what they show has changed, and whether changes are heard of."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from agentkeys_core.encoding import canonical_json
from agentkeys_core.registry import OperatorState
from device.local_web import JSON, Reply

#: How long a page's question waits for news, and how many wait at once: a page each, of one person.
WAIT_S: Final = 20.0
MAX_WAITING: Final = 16
#: A stream is ended by the broker alone, and signed by nobody: its reason is told as its word.
_WORDS: Final[Mapping[str, str]] = {
    "device_revoked": "The broker says that this device is revoked. The page Devices asks a worker as well.",
    "device_unknown": "The broker says that the registry does not know this device. The page Devices asks a worker as"
    " well.",
}
_DEAF: Final = "Changes are not heard of just now; reload a page to see what is so."


def version_of(state: OperatorState) -> str:
    """Names what a page shows of a state; another use of a K11 is not another state."""
    told = state.to_json()
    devices = [{**record.to_json(), "sign_count": 0} for _, record in sorted(state.devices.items())]
    return hashlib.sha256(canonical_json({**told, "devices": devices})).hexdigest()[:32]


class Live:
    """Implements `device.live.Listener` for the pages of one console. Safe for many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._tick = 1
        self._version = self._words = ""
        self._waiting = 0
        self._ended = False

    def saw(self, state: OperatorState) -> str:
        """Take in what was read of the registry; the mark of a page that is made of it: when, and of what.

        What a page is told later concerns it only where that is no older: `tick` counts on.
        """
        version = version_of(state)
        with self._changed:
            self._tell(version, None)
            return f"{self._tick}.{version}"

    def hears(self) -> None:
        """See the port."""
        self._tell(None, "")

    def deaf(self, reason: str) -> None:
        """See the port."""
        self._tell(None, _WORDS.get(reason, f"{_DEAF} ({reason})"))

    def close(self) -> None:
        """Answer whoever waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def answer(self, tick: str) -> Reply:
        """What has changed since a page was told `tick`; waits until something has."""
        with self._changed:
            if self._waiting >= MAX_WAITING:
                return Reply(status=HTTPStatus.SERVICE_UNAVAILABLE)
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._ended or tick != str(self._tick), WAIT_S)
            finally:
                self._waiting -= 1
            told = {"tick": str(self._tick), "version": self._version, "words": self._words}
        return Reply(body=json.dumps(told).encode(), kind=JSON)

    def _tell(self, version: str | None, words: str | None) -> None:
        with self._changed:
            before = self._version, self._words
            self._version = self._version if version is None else version
            self._words = self._words if words is None else words
            if before != (self._version, self._words):
                self._tick += 1
                self._changed.notify_all()
