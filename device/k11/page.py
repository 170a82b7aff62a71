"""K11's page on localhost: serves one ceremony, to the one browser that was given its token, and stops."""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_PORT
from device.errors import DeviceError, Trouble
from device.local_web import JSON, MAX_POST_BYTES, Reply, serving
from device.visible import visible

TIMEOUT_S: Final = 300.0
#: The answer of whoever does not approve.
DECLINED: Final = b'{"declined":true}'
#: The answer of whoever agrees to what needs no key.
CONFIRMED: Final = b'{"confirmed":true}'
_PACKAGE: Final = "device.k11"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One ceremony: what the page shows (`digest` is empty where there is none), the options, who judges the answer.

    `accept` returns nothing where the answer is good, and raises KeyServiceError or DeviceError where the person may
    try again.
    """

    kind: str  # "create" or "get"; elsewhere also "confirm", "account", "typed_data" or "message"
    title: str
    lines: tuple[tuple[str, str], ...]
    digest: str
    options: Mapping[str, object]
    accept: Callable[[object], None]

    def to_json(self) -> bytes:
        """What the page is given: texts as they may be shown."""
        members = {
            "digest": self.digest,
            "kind": self.kind,
            "lines": [(visible(name), visible(value)) for name, value in self.lines],
            "options": self.options,
            "title": visible(self.title),
        }
        return json.dumps(members).encode()


@dataclass(slots=True, kw_only=True)
class Ceremony:
    """A task and its one answer, shared between the threads that serve it; `id` tells it from every other."""

    task: Task
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    done: threading.Event = field(default_factory=threading.Event)
    error: DeviceError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, body: bytes) -> Reply:
        """Take the browser's answer; one that is not good may be given again."""
        with self._lock:
            if self.done.is_set():
                return Reply(status=HTTPStatus.CONFLICT)
            try:
                obj = strict_json(body, limit=MAX_POST_BYTES, reason=Reason.K11_INVALID)
                if obj == {"declined": True}:
                    self.error = DeviceError(Trouble.DECLINED, "declined on the page")
                else:
                    self.task.accept(obj)
            except (DeviceError, KeyServiceError) as exc:
                said = json.dumps({"error": str(exc), "reason": str(exc.reason)}).encode()
                return Reply(status=HTTPStatus.BAD_REQUEST, body=said, kind=JSON)
            self.done.set()
            return Reply(body=b"{}", kind=JSON)

    def wait(self, timeout_s: float) -> None:
        """Wait for the answer. Raises `declined` or `k11_timeout`."""
        if not self.done.wait(timeout_s):
            raise DeviceError(Trouble.K11_TIMEOUT, f"nobody approved within {timeout_s:.0f} s")
        if self.error is not None:
            raise self.error


class _Site:
    """The page of one ceremony."""

    files: Mapping[str, tuple[str, str]] = {
        "/": (_PACKAGE, "index.html"),
        "/k11.js": (_PACKAGE, "k11.js"),
        "/page.js": (_PACKAGE, "page.js"),
        "/page.css": (_PACKAGE, "page.css"),
    }

    stores = False

    def __init__(self, ceremony: Ceremony) -> None:
        self.token = secrets.token_urlsafe(32)
        self._ceremony = ceremony

    def knows(self, method: str, target: str) -> bool:
        return (method, target) in (("GET", "/task"), ("POST", "/answer"))

    def get(self, target: str) -> Reply:  # noqa: ARG002 - there is one
        return Reply(body=self._ceremony.task.to_json(), kind=JSON)

    def post(self, target: str, body: bytes) -> Reply:  # noqa: ARG002 - there is one
        return self._ceremony.judge(body)


def run_ceremony(
    ceremony: Ceremony, announce: Callable[[str], None], *, port: int = K11_PORT, timeout_s: float = TIMEOUT_S
) -> None:
    """Serve the page until its task has taken an answer.

    Args:
        ceremony: what to show, who judges the answer, and the way for others to end it.
        announce: is given the address to open, with a one-time token in its fragment (which browsers never send).
        port: the one that K11's origin names.
        timeout_s: how long a person may take.

    Raises:
        DeviceError: `k11_page_unavailable` where the port is taken, `declined`, `k11_timeout`.
    """
    with serving(_Site(ceremony), port) as address:
        announce(address)
        ceremony.wait(timeout_s)
