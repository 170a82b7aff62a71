"""The console's routes: pages to read, forms to send, and one job at a time."""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.registry import OperatorState
from device.console.actions import action_of, key_hash_of
from device.console.desk import Desk
from device.console.forms import Form
from device.console.inbox import Inbox
from device.console.inbox_pages import changes_page, pair_page
from device.console.job import Job, Work
from device.console.job_pages import job_page
from device.console.letting_in import approval_of
from device.console.line import Line
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
_ANSWER: Final = "/answer"
_MAX_FIELDS: Final = 8
_ANSWERS: Final = {"confirmed": CONFIRMED, "declined": DECLINED}

_OVERTAKEN: Final = (
    "Something else was under way. Nothing more of it is signed; what had been sent before may have taken effect,"
    " and the audit trail tells."
)

Query = Mapping[str, str]


class Console:
    """The site of one master's folder, for as long as the process lives.

    Requests come on threads of their own. What is read over the network is read without any lock, so that a part that
    is slow delays whoever asks it, and neither Stop nor Freeze.
    """

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
        self._lock = threading.Lock()  # for the exchange of one job for another; nothing is waited for inside it
        self._live = Live()
        self._line = Line(home, self._live, pause_s=pause_s)
        self._inbox = Inbox()
        self._job: Job | None = None
        self._closed = False
        self._pages: Mapping[str, Callable[[Query], Reply]] = {
            "/page/file": self._file,
            "/page/job": lambda _: job_page(self._job),
        }
        self._desk_pages: Mapping[str, Callable[[Desk, Query], Reply]] = {
            "/page/agents": lambda desk, _: agents_page(desk.seen(), last_uses(desk.session)),
            "/page/audit": trail_page,
            "/page/audit.json": trail_file,
            "/page/changes": lambda desk, _: changes_page(self._inbox.brought, desk.device, desk.seen().state),
            "/page/destroy": _destroy,
            "/page/devices": lambda desk, _: devices_page(desk.seen(), last_uses(desk.session)),
            "/page/masters": lambda desk, _: masters_page(desk.seen(), desk.own_k11()),
            "/page/pair": lambda desk, _: pair_page(self._inbox.brought, desk.invitation),
            "/page/sessions": lambda desk, _: sessions_page(desk.seen(), desk.session),
        }
        self._forms: Mapping[str, Callable[[Form], str]] = {"/do": self._do, "/stop": self._stop}
        self._desk_forms: Mapping[str, Callable[[Desk, Form], str]] = {
            "/approve": self._approve,
            "/claim": lambda desk, form: self._inbox.claim(desk.device, desk.master, form.one("code")),
            "/end-session": lambda desk, form: end_session_of(form, desk.session),
            "/hand-in": lambda desk, form: self._inbox.hand_in(desk.device, form.one("text"), desk.state),
            "/sign-in": self._sign_in,
        }

    def close(self) -> None:
        """End what is under way: questions are declined, pages that wait are answered."""
        self._live.close()
        with self._lock:
            self._closed, job = True, self._job
        if job is not None:
            job.stop()
        self._line.close()

    @property
    def routes(self) -> Mapping[str, frozenset[str]]:
        """Every path that there is, by method."""
        return {
            "GET": frozenset({*self._pages, *self._desk_pages, _LIVE}),
            "POST": frozenset({*self._forms, *self._desk_forms, _ANSWER}),
        }

    def knows(self, method: str, target: str) -> bool:
        """Whether there is a page or form at this path."""
        return (urlsplit(target).path if method == "GET" else target) in self.routes[method]

    def get(self, target: str) -> Reply:
        """A page; one that tells why not, where something refused."""
        split = urlsplit(target)
        try:
            query = {name: values[0] for name, values in parse_qs(split.query, max_num_fields=_MAX_FIELDS).items()}
        except ValueError:  # a query with too many fields
            return Reply(status=HTTPStatus.BAD_REQUEST)
        if split.path == _LIVE:
            return self._live.answer(query.get("tick", ""))
        if split.path in self._pages:
            return self._pages[split.path](query)
        try:
            with self._line.desk() as desk:
                return self._desk_pages[split.path](desk, query)
        except (DeviceError, KeyServiceError) as exc:
            return refused_page(exc, HTTPStatus.BAD_GATEWAY)

    def post(self, target: str, body: bytes) -> Reply:
        """Where to go next, or why not."""
        if target == _ANSWER:
            return self._answer(body)
        try:
            return _told(HTTPStatus.OK, go=self._taken(target, Form.parse(body)))
        except (DeviceError, KeyServiceError) as exc:
            return _told(HTTPStatus.BAD_REQUEST, error=exc.detail or str(exc.reason), reason=str(exc.reason))

    def _taken(self, target: str, form: Form) -> str:
        if target in self._forms:
            return self._forms[target](form)
        with self._line.desk() as desk:
            return self._desk_forms[target](desk, form)

    def _answer(self, body: bytes) -> Reply:
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

    def _approve(self, desk: Desk, form: Form) -> str:
        brought = self._inbox.named(form)
        self._start(approval_of(form, brought, desk.device), k11=True)
        self._inbox.forget(brought)
        return "job"

    def _do(self, form: Form) -> str:
        work, urgent = action_of(form, self._state)
        self._start(work, k11=not urgent, urgent=urgent)
        return "job"

    def _state(self) -> OperatorState:
        with self._line.desk() as desk:
            return desk.state()

    def _sign_in(self, desk: Desk, form: Form) -> str:  # noqa: ARG002 - nothing to choose
        self._start(signed_in_by_wallet(desk.state(), desk.session), k11=False)
        return "job"

    def _stop(self, form: Form) -> str:
        job = self._job
        if job is not None and form.one("id") == job.id:
            job.decline()
        else:
            self._inbox.forget(self._inbox.named(form))
        return "devices"

    def _start(self, work: Work, *, k11: bool, urgent: bool = False) -> None:
        """Begin a job in the place of the one before, whose end is waited for unless this one is urgent.

        Raises:
            DeviceError: `usage` where that one is being sent just now, or another was begun meanwhile.
        """
        job, before = Job(self._home, work, k11=k11, terminal=self._terminal), self._job
        if not urgent and before is not None and not before.stop():
            raise DeviceError(Trouble.USAGE, "Something else is being sent just now; wait a moment.")
        with self._lock:
            if self._closed or not (urgent or self._job is before):
                raise DeviceError(Trouble.USAGE, "Something else was begun just now; look at it first.")
            before, self._job = self._job, job
        if before is not None and not before.ended:
            if before.question is None:
                job.said.append(_OVERTAKEN)
            before.decline()
        job.start()

    def _file(self, query: Query) -> Reply:
        job = self._job
        if job is None or job.file is None or query.get("job") != job.id:
            return Reply(status=HTTPStatus.NOT_FOUND)
        return Reply(body=job.file.data, kind=JSON)


def _destroy(desk: Desk, query: Query) -> Reply:
    seen = desk.seen()
    return destroy_page(seen, key_hash_of(query["actor"]) if "actor" in query else seen.state.operator_omni)


def _told(status: HTTPStatus, **members: str) -> Reply:
    return Reply(status=status, body=json.dumps(members).encode(), kind=JSON)
