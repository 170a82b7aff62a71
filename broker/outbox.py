"""Mail on its way out: taken at once, sent by a thread of its own, so that no answer tells what the mail server said.

A mail is asked for again by whoever misses it, so none is sent twice, and none is kept over a restart.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event
from broker.ports import Mailer

#: Mails that wait, and how long one may: by then whoever asked for it has asked again.
MAX_WAITING: Final = 128
MAX_AGE_S: Final = 120.0
#: After the server was out of reach, everybody is told so for this long; the next mail tries it again.
PAUSE_S: Final = 10.0
_LOG: Final = logging.getLogger("agentkeys.broker.mail")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Letter:
    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    taken_at: float


class Outbox:
    """Implements `broker.ports.Mailer` over a slower one. Safe for many threads; `close` it.

    Log lines count what became of mails, and never name an address.
    """

    def __init__(self, mailer: Mailer, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._mailer = mailer
        self._monotonic = monotonic
        self._waiting: deque[_Letter] = deque()
        self._changed = threading.Condition()
        self._is_closed = self._is_sending = False
        self._down_until = float("-inf")
        self._thread = threading.Thread(target=self._run, name="outbox")
        self._thread.start()

    def send(self, *, to: str, subject: str, text: str) -> None:
        """Take a mail and return. The refusals depend on no address.

        Raises:
            KeyServiceError: `mail_unreachable` where the server was out of reach a moment ago; `overloaded` where too
                many mails wait, or this is closed.
        """
        with self._changed:
            now = self._monotonic()
            if now < self._down_until:
                raise KeyServiceError(Reason.MAIL_UNREACHABLE, "the mail server is out of reach")
            if self._is_closed or len(self._waiting) >= MAX_WAITING:
                raise KeyServiceError(Reason.OVERLOADED, "too many mails wait")
            self._waiting.append(_Letter(to=to, subject=subject, text=text, taken_at=now))
            self._changed.notify_all()

    def settle(self) -> None:
        """Return once nothing waits and nothing is being sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_sending)

    def close(self) -> None:
        """Give up what waits, and end the thread once it is through with the mail that it is at."""
        with self._changed:
            self._is_closed = True
            given_up = len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()
        if given_up:
            log_event(_LOG, "mails_given_up", level=logging.WARNING, count=given_up)

    def _run(self) -> None:
        while (letter := self._next()) is not None:
            if self._monotonic() - letter.taken_at > MAX_AGE_S:
                log_event(_LOG, "mail_too_late", level=logging.WARNING)
            else:
                self._deliver(letter)
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()

    def _next(self) -> _Letter | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._is_sending = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, letter: _Letter) -> None:
        try:
            self._mailer.send(to=letter.to, subject=letter.subject, text=letter.text)
        except KeyServiceError as error:
            log_event(_LOG, "mail_not_sent", level=logging.WARNING, reason=str(error.reason), detail=error.detail)
            if error.reason is Reason.MAIL_UNREACHABLE:
                with self._changed:
                    self._down_until = self._monotonic() + PAUSE_S
        except Exception as error:  # noqa: BLE001 - the thread must live on; a traceback could quote an address
            log_event(_LOG, "mail_not_sent", level=logging.ERROR, error=type(error).__name__)
        else:
            log_event(_LOG, "mail_sent")
