"""Something that the person started in the console: it works in a thread of its own, and stops where it must ask."""

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.errors import KeyServiceError
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11.browser import BrowserAuthenticator
from device.k11.page import DECLINED, TIMEOUT_S, Ceremony, Task, run_ceremony
from device.k11.port import Authenticator, K11Kind, K11Record
from device.k11.software import BANNER, SoftwareAuthenticator
from device.local_web import Reply
from device.session import Device
from device.show import Show
from device.wallet_page.sitting import run_question

#: How long a browser's request waits for the next thing to show.
SETTLE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A file that others go on with."""

    name: str
    data: bytes


Work = Callable[["Job", Device], Sequence[str]]


class Job:
    """One piece of work. What is asked, said and reached is read by the pages, which name it by its `id`."""

    def __init__(self, home: Home, work: Work, *, k11: bool, terminal: Show) -> None:
        record = K11Record.load(home)
        self.id = secrets.token_hex(16)
        self.said: list[str] = []
        self.terminal = terminal
        self.waiting = self.compare = self.window = ""
        self.result: Sequence[str] | None = None
        self.file: HandedOver | None = None
        self.error: DeviceError | KeyServiceError | None = None
        self.ended = False
        self._home = home
        self._work = work
        # K11's page shows what is signed and can be declined; where there is none, the console asks itself.
        self.asks = not k11 or record is None or record.kind is K11Kind.SOFTWARE
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._ceremony: Ceremony | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin, and return as soon as there is something to show."""
        self._thread.start()
        self.settle()

    @property
    def question(self) -> Ceremony | None:
        """What the person is asked at the moment."""
        found = self._ceremony
        return None if found is None or found.done.is_set() else found

    def answer(self, question: str, given: bytes) -> Reply:
        """Take an answer to the question of that id, from the console's own page.

        Raises:
            DeviceError: `usage` where something else is asked, or nothing, or what another page must answer.
        """
        asked = self.question
        if asked is None or asked.id != question or (self.window and given != DECLINED):
            raise DeviceError(Trouble.USAGE, "That is not what is asked now; look at it again.")
        return asked.judge(given)

    def settle(self) -> None:
        """Wait until the person is asked something, others are waited for, or it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self.question is not None or bool(self.waiting), SETTLE_S)

    def ask(self, task: Task) -> None:
        """Have the person answer on the console's own page. Raises `declined` or `k11_timeout`."""
        ceremony = Ceremony(task=task)
        try:
            self._tell(ceremony)
            ceremony.wait(TIMEOUT_S)
        finally:
            self._tell(None)

    def touch(self, task: Task) -> None:
        """Have the person approve on K11's page, which has an origin of its own, in a window of its own.

        Raises `declined`, `k11_timeout` or `k11_page_unavailable`.
        """
        self._in_window(task, run_ceremony)

    def ask_wallet(self, task: Task) -> None:
        """The same on the page where the person's own wallet is."""
        self._in_window(task, run_question)

    def _in_window(self, task: Task, run: Callable[[Ceremony, Callable[[str], None]], None]) -> None:
        ceremony = Ceremony(task=task)
        try:
            run(ceremony, lambda address: self._tell(ceremony, address))
        finally:
            self._tell(None)

    def pause(self, seconds: float) -> None:
        """Wait between two looks at the broker. Raises `declined` where the person stopped it."""
        if self._stopped.wait(seconds):
            raise DeviceError(Trouble.DECLINED, "stopped; nothing was signed")

    def wait_for(self, words: str, compare: str = "") -> None:
        """Say what is waited for, and what to compare meanwhile; nothing where it came."""
        with self._changed:
            self.waiting, self.compare = words, compare
            self._changed.notify_all()

    def hand_over(self, name: str, data: bytes) -> None:
        """Leave a file for the person to take elsewhere."""
        self.file = HandedOver(name, data)

    def stop(self) -> bool:
        """Decline whatever it asks or waits for; false where it is sending just now, which ends by itself."""
        self._stopped.set()
        question = self._ceremony
        if question is not None:
            question.judge(DECLINED)
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, SETTLE_S)

    def _tell(self, ceremony: Ceremony | None, window: str = "") -> None:
        with self._changed:
            self._ceremony, self.window = ceremony, window
            self._changed.notify_all()
        if ceremony is not None and self._stopped.is_set():
            ceremony.judge(DECLINED)

    def _run(self) -> None:
        try:
            with _JobDevice.open(self._home, _JobShow(self)) as device:
                device.job = self
                self.result = self._work(self, device)
        except (DeviceError, KeyServiceError) as exc:
            self.error = exc
        except Exception as exc:  # noqa: BLE001 - a traceback could show what it must not
            self.error = DeviceError(Trouble.INTERNAL, type(exc).__name__)
        with self._changed:
            self.ended = True
            self._changed.notify_all()


class _JobDevice(Device):
    """The device of one job, whose K11 asks on its page, where a browser asks security keys as well."""

    job: Job

    def authenticator(self, kind: K11Kind) -> Authenticator:
        if kind is K11Kind.SOFTWARE:
            return SoftwareAuthenticator(self.home)
        return BrowserAuthenticator(self.show.k11_page, ceremony=self.job.touch)


class PageShow(Show):
    """Keeps what is said for the page that asked; nothing is drawn on the terminal."""

    def __init__(self) -> None:
        super().__init__(as_json=True)
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Notes are for terminals."""

    def warn(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


class _JobShow(PageShow):
    """Asks in the browser what is otherwise asked on a terminal."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.said = job.said
        self._job = job
        self._intent: Intent | None = None

    def signing(self, intent: Intent) -> None:
        """Keep it for the question that follows, and show it where no page can change it."""
        self._intent = intent
        self._job.terminal.signing(intent)

    def software_k11(self) -> None:
        """Say that K11 is a toy."""
        self.said.append(BANNER)

    def confirm(self, question: str, *, instead: str = "") -> None:  # noqa: ARG002 - the page asks in its own words
        """Have the person agree to what was shown last, unless K11's own question follows."""
        if not self._job.asks:
            return
        intent = self._intent
        if intent is None:
            raise DeviceError(Trouble.INTERNAL, "asked without saying what is signed")
        self._job.ask(
            Task(
                kind="confirm",
                title=intent.title,
                lines=intent.lines,
                digest=intent.digest.hex(),
                options={},
                accept=lambda _: None,  # whatever else than CONFIRMED is no answer
            )
        )
