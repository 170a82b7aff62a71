"""One page for one sitting: questions to the same browser, one after another, at the port that is K11's as well."""

import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from agentkeys_core.k11 import K11_PORT
from device.errors import DeviceError
from device.k11.page import DECLINED, TIMEOUT_S, Ceremony, Task
from device.local_web import JSON, Reply, serving

#: How long a browser's request waits for the next question; then it asks again.
WAIT_S: Final = 20.0
#: How long the last words are kept for a browser that is about to ask for them.
FAREWELL_S: Final = 3.0
_PACKAGE: Final = "device.wallet_page"
_BACK: Final = "You can close this page and go back to where you started."
_TARGET: Final = re.compile("/(question|answer)/(0|[1-9][0-9]{0,5})")


class Sitting:
    """The site. Whoever asks waits in `ask`; browsers fetch each question by number and answer just that one.

    Safe for many threads.
    """

    files: Mapping[str, tuple[str, str]] = {
        "/": (_PACKAGE, "index.html"),
        "/k11.js": ("device.k11", "k11.js"),
        "/wallets.js": (_PACKAGE, "wallets.js"),
        "/sitting.js": (_PACKAGE, "sitting.js"),
        "/page.css": ("device.k11", "page.css"),
        "/sitting.css": (_PACKAGE, "sitting.css"),
    }

    stores = False

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._changed = threading.Condition()
        self._number = 0
        self._ceremony: Ceremony | None = None
        self._stopped = False
        self._last_words: Mapping[str, object] | None = None
        self._seen = self._heard = False

    def ask(self, task: Task) -> None:
        """Have the person answer. Raises `declined` or `k11_timeout`."""
        self.put(Ceremony(task=task))

    def put(self, ceremony: Ceremony) -> None:
        """The same for a ceremony that others may end as well."""
        with self._changed:
            self._number += 1
            self._ceremony = ceremony
            self._changed.notify_all()
        if self._stopped:
            ceremony.judge(DECLINED)
        try:
            ceremony.wait(TIMEOUT_S)
        finally:
            with self._changed:
                if self._ceremony is ceremony:
                    self._ceremony = None

    def stop(self) -> None:
        """Decline what is asked, and whatever would be asked next."""
        with self._changed:
            self._stopped = True
            ceremony = self._ceremony
        if ceremony is not None:
            ceremony.judge(DECLINED)

    def end(self, title: str, lines: Sequence[str], *, close: bool = False) -> None:
        """Say how it ended, and give a page that is still open a moment to hear it, and to `close` where it can."""
        with self._changed:
            self._last_words = {"close": close, "kind": "end", "lines": list(lines), "title": title}
            self._changed.notify_all()
            if self._seen:
                self._changed.wait_for(lambda: self._heard, FAREWELL_S)

    def knows(self, method: str, target: str) -> bool:
        """Whether there is such a question to fetch or to answer."""
        match = _TARGET.fullmatch(target)
        return match is not None and (method, match[1]) in (("GET", "question"), ("POST", "answer"))

    def get(self, target: str) -> Reply:
        """The question after the one of that number, as soon as there is one."""
        after = _number_of(target)
        with self._changed:
            self._seen = True
            self._changed.wait_for(lambda: self._last_words is not None or self._asks(after), WAIT_S)
            ceremony = self._ceremony
            if self._last_words is not None:
                self._heard = True
                self._changed.notify_all()
                return _json(self._last_words)
            if ceremony is None or not self._asks(after):
                return _json({"kind": "wait", "number": after})
            return _json({**json.loads(ceremony.task.to_json()), "number": self._number})

    def post(self, target: str, body: bytes) -> Reply:
        """Judge the answer to that question; one to a question that is over changes nothing."""
        with self._changed:
            ceremony = self._ceremony if _number_of(target) == self._number else None
        return Reply(status=HTTPStatus.CONFLICT) if ceremony is None else ceremony.judge(body)

    def _asks(self, after: int) -> bool:
        ceremony = self._ceremony
        return ceremony is not None and self._number > after and not ceremony.done.is_set()


def _number_of(target: str) -> int:
    return int(target.rpartition("/")[2])


def _json(members: Mapping[str, object]) -> Reply:
    return Reply(body=json.dumps(members).encode(), kind=JSON)


@contextmanager
def sitting(announce: Callable[[str], None], *, port: int = K11_PORT) -> Iterator[Sitting]:
    """Serve the page while the block runs; `announce` is given the address to open.

    Raises:
        DeviceError: `k11_page_unavailable` where the port is taken.
    """
    made = Sitting()
    with serving(made, port) as address:
        announce(address)
        try:
            yield made
        finally:
            made.stop()


def run_question(ceremony: Ceremony, announce: Callable[[str], None]) -> None:
    """Serve the page for one question, as `device.k11.page.run_ceremony` does for K11's.

    Raises:
        DeviceError: `k11_page_unavailable` where the port is taken, `declined`, `k11_timeout`.
    """
    with sitting(announce) as page:
        try:
            page.put(ceremony)
        except DeviceError:
            page.end("Nothing was signed", (_BACK,), close=True)
            raise
        page.end("Done", (_BACK,), close=True)
