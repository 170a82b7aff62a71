"""The console's routes: pages to read, forms to send, and one job at a time."""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

from agentkeys_core.errors import KeyServiceError
from device.console.actions import action_of, key_hash_of
from device.console.desk import Desk
from device.console.forms import Form
from device.console.inbox import Inbox
from device.console.inbox_pages import changes_page, pair_page
from device.console.job import Job, Work
from device.console.job_pages import job_page
from device.console.letting_in import approval_of
from device.console.live import Live
from device.console.pages import agents_page, destroy_page, devices_page, masters_page
from device.console.render import refused_page
from device.console.sessions import end_session_of, sessions_page, signed_in_by_wallet
from device.console.trail_pages import trail_file, trail_page
from device.errors import DeviceError, Trouble
from device.home import Home
from device.k11.page import CONFIRMED, DECLINED
from device.last_use import last_uses
from device.live import FIRST_PAUSE_S
from device.local_web import JSON, Reply
from device.show import Show

_PACKAGE: Final = "device.console"
_LIVE: Final = "/live"
_MAX_FIELDS: Final = 8
_ANSWERS: Final = {"confirmed": CONFIRMED, "declined": DECLINED}

Query = Mapping[str, str]


class Console:
    """The site of one master's folder, for as long as the process lives."""

    files: Mapping[str, tuple[str, str]] = {
        "/": (_PACKAGE, "index.html"),
        "/console.css": (_PACKAGE, "console.css"),
        "/console.js": (_PACKAGE, "console.js"),
        "/live.js": (_PACKAGE, "live.js"),
    }

    stores = True  # the token, for as long as the tab lives

    def __init__(self, home: Home, terminal: Show, *, pause_s: float = FIRST_PAUSE_S) -> None:
        self.token = secrets.token_urlsafe(32)
        self._home = home
        self._terminal = terminal
        self._lock = threading.Lock()  # one request works on the device at a time; jobs have devices of their own
        self._live = Live()
        self._desk = Desk(home, self._live, pause_s=pause_s)
        self._inbox = Inbox()
        self._job: Job | None = None
        self._pages: Mapping[str, Callable[[Query], Reply]] = {
            "/page/agents": lambda _: agents_page(self._desk.seen(), last_uses(self._desk.session)),
            "/page/audit": lambda query: trail_page(self._desk, query),
            "/page/audit.json": lambda query: trail_file(self._desk, query),
            "/page/changes": lambda _: changes_page(self._inbox, self._desk.device, self._desk.seen().state),
            "/page/destroy": self._destroy,
            "/page/devices": lambda _: devices_page(self._desk.seen(), last_uses(self._desk.session)),
            "/page/file": self._file,
            "/page/job": lambda _: job_page(self._job),
            "/page/masters": lambda _: masters_page(self._desk.seen(), self._desk.own_k11()),
            "/page/pair": lambda _: pair_page(self._inbox, self._desk.invitation),
            "/page/sessions": lambda _: sessions_page(self._desk.seen(), self._desk.session),
        }
        self._forms: Mapping[str, Callable[[Form], str]] = {
            "/approve": self._approve,
            "/claim": lambda form: self._inbox.claim(self._desk.device, self._desk.master, form.one("code")),
            "/do": self._do,
            "/end-session": lambda form: end_session_of(form, self._desk.session),
            "/hand-in": lambda form: self._inbox.hand_in(
                self._desk.device, form.one("text"), lambda: self._desk.seen().state
            ),
            "/sign-in": self._sign_in,
            "/stop": self._stop,
        }

    def close(self) -> None:
        """End what is under way: questions are declined, pages that wait are answered."""
        self._live.close()
        if self._job is not None:
            self._job.stop()
        self._desk.close()

    def knows(self, method: str, target: str) -> bool:
        """Whether there is a page or form at this path."""
        if method == "GET":
            path = urlsplit(target).path
            return path in self._pages or path == _LIVE
        return target in self._forms or target == "/answer"

    def get(self, target: str) -> Reply:
        """A page; one that tells why not, where something refused."""
        split = urlsplit(target)
        try:
            query = {name: values[0] for name, values in parse_qs(split.query, max_num_fields=_MAX_FIELDS).items()}
        except ValueError:  # a query with too many fields
            return Reply(status=HTTPStatus.BAD_REQUEST)
        if split.path == _LIVE:
            return self._live.answer(query.get("tick", ""))
        with self._lock:
            try:
                self._desk.renew()
                self._desk.show.said.clear()
                return self._pages[split.path](query)
            except (DeviceError, KeyServiceError) as exc:
                return refused_page(exc, HTTPStatus.BAD_GATEWAY)

    def post(self, target: str, body: bytes) -> Reply:
        """Where to go next, or why not."""
        if target == "/answer":
            return self._answer(body)
        with self._lock:
            try:
                self._desk.renew()
                return _told(HTTPStatus.OK, go=self._forms[target](Form.parse(body)))
            except (DeviceError, KeyServiceError) as exc:
                return _told(HTTPStatus.BAD_REQUEST, error=exc.detail or str(exc.reason), reason=str(exc.reason))

    def _answer(self, body: bytes) -> Reply:
        """Without the lock: a page that is read slowly keeps nobody from declining."""
        try:
            job, reply = self._judged(Form.parse(body))
        except DeviceError as exc:
            return _told(HTTPStatus.CONFLICT, error=exc.detail, reason=str(exc.reason))
        if reply.status is HTTPStatus.OK:
            job.settle()
            return _told(HTTPStatus.OK, go="job")
        return reply

    def _judged(self, form: Form) -> tuple[Job, Reply]:
        job = self._job
        given = _ANSWERS.get(form.one("answer"))
        if job is None or given is None:
            raise DeviceError(Trouble.USAGE, "Nothing is asked that this answers.")
        return job, job.answer(form.one("id"), given)

    def _approve(self, form: Form) -> str:
        self._start(approval_of(form, self._inbox, self._desk.device), k11=True)
        self._inbox.clear()
        return "job"

    def _do(self, form: Form) -> str:
        work, k11 = action_of(form, lambda: self._desk.seen().state)
        self._start(work, k11=k11)
        return "job"

    def _sign_in(self, form: Form) -> str:  # noqa: ARG002 - nothing to choose
        self._start(signed_in_by_wallet(self._desk.seen().state, self._desk.session), k11=False)
        return "job"

    def _stop(self, form: Form) -> str:
        if self._job is not None and form.one("id") == self._job.id:
            self._job.stop()
        else:
            self._inbox.named(form)
            self._inbox.clear()
        return "devices"

    def _start(self, work: Work, *, k11: bool) -> None:
        if self._job is not None and not self._job.stop():
            raise DeviceError(Trouble.USAGE, "Something else is being sent just now; wait a moment.")
        self._job = Job(self._home, work, k11=k11, terminal=self._terminal)
        self._job.start()

    def _destroy(self, query: Query) -> Reply:
        seen = self._desk.seen()
        return destroy_page(seen, key_hash_of(query["actor"]) if "actor" in query else seen.state.operator_omni)

    def _file(self, query: Query) -> Reply:
        if self._job is None or self._job.file is None or query.get("job") != self._job.id:
            return Reply(status=HTTPStatus.NOT_FOUND)
        return Reply(body=self._job.file.data, kind=JSON)


def _told(status: HTTPStatus, **members: str) -> Reply:
    return Reply(status=status, body=json.dumps(members).encode(), kind=JSON)
