"""The device's own page on localhost: serves one ceremony, to the one browser that was given its token, and stops."""

import errno
import hmac
import json
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Final

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_PORT
from device.errors import DeviceError, Trouble

TIMEOUT_S: Final = 300.0
TOKEN_HEADER: Final = "AgentKeys-Token"  # noqa: S105 - the header's name, not a token
MAX_ANSWER_BYTES: Final = 64 * 1024
_SOCKET_TIMEOUT_S: Final = 10.0
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One ceremony: what the page shows (`digest` is empty where there is none), the options, who judges the answer.

    `accept` returns nothing where the answer is good, and raises KeyServiceError where the person may try again.
    """

    kind: str  # "create" or "get"
    title: str
    lines: tuple[tuple[str, str], ...]
    digest: str
    options: Mapping[str, object]
    accept: Callable[[object], None]

    def to_json(self) -> bytes:
        """What the page is given."""
        members = {
            "digest": self.digest,
            "kind": self.kind,
            "lines": self.lines,
            "options": self.options,
            "title": self.title,
        }
        return json.dumps(members).encode()


@dataclass(slots=True, kw_only=True)
class _State:
    """Shared between the threads of one ceremony."""

    task: Task
    token: str
    host: str
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    error: DeviceError | None = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True  # the last ceremony's closed connections must not hold the port

    def __init__(self, family: socket.AddressFamily, host: str, port: int, state: _State) -> None:
        self.address_family = family
        self.state = state
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not HTTPServer's own: that looks up the host's name on the network.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a browser that hung up is no news, and a traceback on the terminal would be."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SOCKET_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""

    def version_string(self) -> str:
        """No version to fingerprint."""
        return "agentkeys"

    def do_GET(self) -> None:
        """Serve the page, and the task to whoever has the token."""
        if not self._from_us():
            return self._answer(HTTPStatus.FORBIDDEN)
        if self.path in _FILES:
            name, kind = _FILES[self.path]
            return self._answer(HTTPStatus.OK, files("device.k11").joinpath("web", name).read_bytes(), kind)
        if self.path != "/task":
            return self._answer(HTTPStatus.NOT_FOUND)
        if not self._has_token():
            return self._answer(HTTPStatus.FORBIDDEN)
        return self._answer(HTTPStatus.OK, self.server.state.task.to_json(), "application/json")

    def do_POST(self) -> None:
        """Take the answer of the ceremony."""
        if self.path != "/answer":
            return self._answer(HTTPStatus.NOT_FOUND)
        if (
            not self._from_us()
            or self.headers.get("Origin") != f"http://{self.server.state.host}"
            or not self._has_token()
        ):
            return self._answer(HTTPStatus.FORBIDDEN)
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Content-Type") != "application/json" or not length.isascii() or not length.isdigit():
            return self._answer(HTTPStatus.BAD_REQUEST)
        if len(length) > len(str(MAX_ANSWER_BYTES)) or int(length) > MAX_ANSWER_BYTES:
            return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self._judge(self.rfile.read(int(length)))

    def _judge(self, body: bytes) -> None:
        state = self.server.state
        with state.lock:
            if state.done.is_set():
                return self._answer(HTTPStatus.CONFLICT)
            try:
                obj = strict_json(body, limit=MAX_ANSWER_BYTES, reason=Reason.K11_INVALID)
                if obj == {"declined": True}:
                    state.error = DeviceError(Trouble.DECLINED, "declined on the K11 page")
                else:
                    state.task.accept(obj)
            except KeyServiceError as exc:
                return self._answer(
                    HTTPStatus.BAD_REQUEST, json.dumps({"error": str(exc)}).encode(), "application/json"
                )
            self._answer(HTTPStatus.OK, b"{}", "application/json")
            state.done.set()
            return None

    def _from_us(self) -> bool:
        """Whether the request names localhost itself (a rebound name does not) and no other page sent it."""
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        return self.headers.get_all("Host") == [self.server.state.host] and site in ("same-origin", "none")

    def _has_token(self) -> bool:
        return hmac.compare_digest(self.headers.get(TOKEN_HEADER, "").encode(), self.server.state.token.encode())

    def _answer(self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _listen(port: int, state: _State, servers: ExitStack) -> list[_Server]:
    """Listen on both loopback addresses that `localhost` may mean, so that no other program stands in on one."""
    found = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            found.append(servers.enter_context(_Server(family, host, port, state)))
        except OSError as exc:
            if family == socket.AF_INET6 and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a machine without IPv6
            raise DeviceError(Trouble.K11_PAGE_UNAVAILABLE, f"port {port} of {host} is taken; K11 needs it") from exc
    return found


def run_ceremony(
    task: Task, announce: Callable[[str], None], *, port: int = K11_PORT, timeout_s: float = TIMEOUT_S
) -> None:
    """Serve the page until `task.accept` has taken an answer.

    Args:
        task: what to show, and who judges the answer.
        announce: is given the address to open, with a one-time token in its fragment (which browsers never send).
        port: the one that K11's origin names.
        timeout_s: how long a person may take.

    Raises:
        DeviceError: `k11_page_unavailable` where the port is taken, `declined`, `k11_timeout`.
    """
    state = _State(task=task, token=secrets.token_urlsafe(32), host=f"localhost:{port}")
    with ExitStack() as servers:
        listening = _listen(port, state, servers)
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in listening
        ]
        for thread in threads:
            thread.start()
        try:
            announce(f"http://{state.host}/#{state.token}")
            answered = state.done.wait(timeout_s)
        finally:
            for server, thread in zip(listening, threads, strict=True):
                server.shutdown()
                thread.join()
    if not answered:
        raise DeviceError(Trouble.K11_TIMEOUT, f"nobody approved within {timeout_s:.0f} s")
    if state.error is not None:
        raise state.error
