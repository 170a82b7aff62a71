"""The console's routes: pages to read, forms to send, and one job at a time."""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

from agentkeys_core.errors import KeyServiceError
from device.agents import state_now
from device.audit_trail import export_own
from device.console.actions import action_of, approval_of
from device.console.forms import Form
from device.console.job import Job, PageShow, Work
from device.console.pages import agents_page, devices_page, job_page, pair_page, refused_page, trail_page
from device.errors import DeviceError, Trouble
from device.home import Home
from device.k11.page import DECLINED
from device.local_web import JSON, Reply
from device.pairing_desk import Claimed, MasterSide
from device.pairing_link import SCHEME, PairingLink
from device.session import Device
from device.show import Show

_PACKAGE: Final = "device.console"


class Console:
    """The site of one master's folder, for as long as the process lives."""

    files: Mapping[str, tuple[str, str]] = {
        "/": (_PACKAGE, "index.html"),
        "/console.css": (_PACKAGE, "console.css"),
        "/console.js": (_PACKAGE, "console.js"),
    }

    stores = True  # the token, for as long as the tab lives

    def __init__(self, home: Home, terminal: Show) -> None:
        self.token = secrets.token_urlsafe(32)
        self._home = home
        self._terminal = terminal
        self._lock = threading.Lock()  # one request works on the device at a time; jobs have devices of their own
        self._show = PageShow()
        self._device = Device.open(home, self._show)
        self._master = MasterSide(self._device)
        self._claimed: Claimed | None = None
        self._compared = False
        self._job: Job | None = None
        self._pages: Mapping[str, Callable[[Mapping[str, list[str]]], Reply]] = {
            "/page/agents": lambda _: agents_page(state_now(self._device), self._device.k10.key_hash, self._said()),
            "/page/audit": self._audit,
            "/page/audit.json": lambda _: Reply(body=export_own(self._device)[0].encode(), kind=JSON),
            "/page/devices": lambda _: devices_page(state_now(self._device), self._device.k10.key_hash, self._said()),
            "/page/job": lambda _: job_page(self._job),
            "/page/pair": lambda _: pair_page(self._claimed, compared=self._compared),
        }
        self._forms: Mapping[str, Callable[[Form], str]] = {
            "/claim": self._claim,
            "/approve": self._approve,
            "/do": self._do,
            "/stop": self._stop,
        }

    def close(self) -> None:
        """End what is under way: questions are declined."""
        if self._job is not None:
            self._job.stop()
        self._device.__exit__()

    def knows(self, method: str, target: str) -> bool:
        """Whether there is a page or form at this path."""
        if method == "GET":
            return urlsplit(target).path in self._pages
        return target in self._forms or target == "/answer"

    def get(self, target: str) -> Reply:
        """A page; one that tells why not, where something refused."""
        split = urlsplit(target)
        with self._lock:
            self._show.said.clear()
            try:
                return self._pages[split.path](parse_qs(split.query, max_num_fields=8))
            except (DeviceError, KeyServiceError) as exc:
                return refused_page(exc, HTTPStatus.BAD_GATEWAY)
            except ValueError:  # a query with too many fields
                return Reply(status=HTTPStatus.BAD_REQUEST)

    def post(self, target: str, body: bytes) -> Reply:
        """Where to go next, or why not."""
        if target == "/answer":
            return self._answer(body)
        with self._lock:
            try:
                return _told(HTTPStatus.OK, go=self._forms[target](Form.parse(body)))
            except (DeviceError, KeyServiceError) as exc:
                return _told(HTTPStatus.BAD_REQUEST, error=exc.detail or str(exc.reason), reason=str(exc.reason))

    def _answer(self, body: bytes) -> Reply:
        job = self._job
        question = None if job is None else job.question
        if job is None or question is None:
            return Reply(status=HTTPStatus.CONFLICT)
        if job.window and body != DECLINED:
            return Reply(status=HTTPStatus.CONFLICT)  # what K11 must approve is answered on its own page alone
        reply = question.judge(body)
        if reply.status is HTTPStatus.OK:
            job.settle()
            return _told(HTTPStatus.OK, go="job")
        return reply

    def _claim(self, form: Form) -> str:
        code, link = form.one("code"), None
        if code.startswith(SCHEME):
            link = PairingLink.parse(code)
            if link.broker != self._device.profile.broker:
                raise DeviceError(Trouble.PAIR_INVALID, "That machine asks at another broker than this one.")
        claimed = self._master.claim(code if link is None else link.code)
        if link is not None and not secrets.compare_digest(link.hash, claimed.hash):
            raise DeviceError(Trouble.PAIRING_HASH_MISMATCH, "That key was not made on that machine.")
        self._claimed, self._compared = claimed, link is not None
        return "pair"

    def _approve(self, form: Form) -> str:
        claimed = self._claimed
        if claimed is None or form.one("id") != claimed.id:
            raise DeviceError(Trouble.USAGE, "That pairing is not the one shown; enter its code anew.")
        work = approval_of(form, claimed)
        self._start(work, k11=True)
        self._claimed = None
        return "job"

    def _do(self, form: Form) -> str:
        work, k11 = action_of(form)
        self._start(work, k11=k11)
        return "job"

    def _stop(self, form: Form) -> str:  # noqa: ARG002 - there is one job
        if self._job is not None:
            self._job.stop()
        self._claimed = None
        return "devices"

    def _start(self, work: Work, *, k11: bool) -> None:
        if self._job is not None and not self._job.stop():
            raise DeviceError(Trouble.USAGE, "Something else is being sent just now; wait a moment.")
        self._job = Job(self._home, work, k11=k11, terminal=self._terminal)
        self._job.start()

    def _audit(self, query: Mapping[str, list[str]]) -> Reply:
        export, verdict = export_own(self._device)
        kind, part = (query.get(name, [""])[0] for name in ("kind", "part"))
        return trail_page(export, verdict, kind=kind, part=part, said=self._said())

    def _said(self) -> list[str]:
        return list(self._show.said)


def _told(status: HTTPStatus, **members: str) -> Reply:
    return Reply(status=status, body=json.dumps(members).encode(), kind=JSON)
