"""Mail on its way out: taken at once, sent by threads of its own, so that no answer tells what the mail server said.

A mail is asked for again by whoever misses it, so none is sent twice, and none is kept over a restart. Networks take
turns: neither a flood of one of them, nor a domain that answers slowly, keeps the mail of others.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.logs import log_event
from broker.ports import MailTransport
from broker.turns import Turns

#: How long a mail may wait: by then whoever asked for it has asked again.
MAX_AGE_S: Final = 120.0
#: After the server was out of reach, everybody is told so for this long; the next mail tries it again.
PAUSE_S: Final = 10.0
#: How long a stop waits for mails that are being sent.
STOP_S: Final = 5.0
_LOG: Final = logging.getLogger("agentkeys.broker.mail")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Letter:
    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    taken_at: float


class Outbox:
    """Implements `broker.ports.Mailer` over what carries mail, so many at once. Safe for many threads; `close` it.

    Log lines count what became of mails, and never name an address.
    """

    def __init__(
        self, transport: MailTransport, *, connections: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = transport
        self._monotonic = monotonic
        self._turns: Turns[_Letter] = Turns(places=connections)
        self._changed = threading.Condition()
        self._is_closed = False
        self._down_until = float("-inf")
        # A process that ends does not wait for a name service that never answers.
        self._threads = [threading.Thread(target=self._run, name="outbox", daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def send(self, *, to: str, subject: str, text: str, client: str) -> None:
        """Take a mail and return. The refusals depend on no address.

        Raises:
            KeyServiceError: `mail_unreachable` where the server was out of reach a moment ago; `overloaded` where too
                many mails wait, in all or of that network, or this is closed.
        """
        with self._changed:
            now = self._monotonic()
            if now < self._down_until:
                raise KeyServiceError(Reason.MAIL_UNREACHABLE, "the mail server is out of reach")
            letter = _Letter(to=to, subject=subject, text=text, taken_at=now)
            if self._is_closed or not self._turns.add(client, letter):
                raise KeyServiceError(Reason.OVERLOADED, "too many mails wait")
            self._changed.notify_all()

    def settle(self) -> None:
        """Return once nothing waits and nothing is being sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._turns and not self._turns.out)

    def close(self) -> None:
        """Give up what waits, and what is not sent within `STOP_S`; the threads end with the mail that they are at."""
        with self._changed:
            self._is_closed = True
            given_up = self._turns.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            given_up += self._turns.out
        if given_up:
            log_event(_LOG, "mails_given_up", level=logging.WARNING, count=given_up)

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            network, letter = taken
            if self._monotonic() - letter.taken_at > MAX_AGE_S:
                log_event(_LOG, "mail_too_late", level=logging.WARNING)
            else:
                self._deliver(letter)
            with self._changed:
                self._turns.back(network)
                self._changed.notify_all()

    def _next(self) -> tuple[str, _Letter] | None:
        with self._changed:
            while (taken := self._turns.take()) is None:
                if self._is_closed:
                    return None
                self._changed.wait()
            return taken

    def _deliver(self, letter: _Letter) -> None:
        try:
            self._transport.send(to=letter.to, subject=letter.subject, text=letter.text)
        except KeyServiceError as error:
            log_event(_LOG, "mail_not_sent", level=logging.WARNING, reason=str(error.reason), detail=error.detail)
            if error.reason is Reason.MAIL_UNREACHABLE:
                with self._changed:
                    self._down_until = self._monotonic() + PAUSE_S
        except Exception as error:  # noqa: BLE001 - the thread must live on; a traceback could quote an address
            log_event(_LOG, "mail_not_sent", level=logging.ERROR, error=type(error).__name__)
        else:
            log_event(_LOG, "mail_sent")
