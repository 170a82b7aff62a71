"""Pages on this machine's localhost for one browser: whoever holds the token of the address, and nobody else.

Other users of the machine reach the port and have no token; other pages have neither the token nor our origin; a name
that was rebound to 127.0.0.1 is not ours. The token is no cookie: those are sent to every port of localhost, whoever
listens there. It travels in the address's fragment, which browsers never send, and from there in a header.
"""

import errno
import hmac
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Final, Protocol

from device.errors import DeviceError, Trouble

TOKEN_HEADER: Final = "AgentKeys-Token"  # noqa: S105 - the header's name, not a token
MAX_ANSWER_BYTES: Final = 64 * 1024
JSON: Final = "application/json"
_SOCKET_TIMEOUT_S: Final = 10.0
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "camera=(), display-capture=(), geolocation=(), hid=(), microphone=(), midi=(), payment=(), serial=(), usb=(), "
        "publickey-credentials-create=(self), publickey-credentials-get=(self)"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer to the browser."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    kind: str = "text/plain"


class Site(Protocol):
    """What is served. Only `files` goes to callers without the token; their contents are in the package, no secret."""

    token: str
    host: str
    files: Mapping[str, tuple[str, str]]  # by path: a package and the name of a file below its `web`

    def knows(self, method: str, target: str) -> bool:
        """Whether there is anything at this path."""

    def get(self, target: str) -> Reply:
        """Answer a GET of our own page."""

    def post(self, target: str, body: bytes) -> Reply:
        """Answer a POST of our own page; the body is said to be JSON and has at most 64 KiB."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True  # the last ceremony's closed connections must not hold the port

    def __init__(self, family: socket.AddressFamily, host: str, port: int, site: Site) -> None:
        self.address_family = family
        self.site = site
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

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse what the library cannot read as everything else is refused, and hang up."""
        self.close_connection = True
        self.request_version = self.protocol_version  # unread, it would be taken for a client that knows no headers
        self._refuse(HTTPStatus(code))

    def do_GET(self) -> None:
        """Serve the files to everybody here, and everything else to whoever has the token."""
        site = self.server.site
        if not self._from_us():
            return self._refuse(HTTPStatus.FORBIDDEN)
        if self.path in site.files:
            package, name = site.files[self.path]
            body = files(package).joinpath("web", name).read_bytes()
            return self._answer(Reply(body=body, kind=_KINDS[name[name.rindex(".") :]]))
        if not site.knows("GET", self.path):
            return self._refuse(HTTPStatus.NOT_FOUND)
        if not self._has_token():
            return self._refuse(HTTPStatus.FORBIDDEN)
        return self._answer(site.get(self.path))

    def do_POST(self) -> None:
        """Take what our own page sends."""
        site = self.server.site
        if not site.knows("POST", self.path):
            return self._refuse(HTTPStatus.NOT_FOUND)
        if not self._from_us() or self.headers.get("Origin") != f"http://{site.host}" or not self._has_token():
            return self._refuse(HTTPStatus.FORBIDDEN)
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Content-Type") != JSON or not length.isascii() or not length.isdigit():
            return self._refuse(HTTPStatus.BAD_REQUEST)
        if len(length) > len(str(MAX_ANSWER_BYTES)) or int(length) > MAX_ANSWER_BYTES:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self._answer(site.post(self.path, self.rfile.read(int(length))))

    def _from_us(self) -> bool:
        """Whether the request names localhost itself (a rebound name does not) and no other page sent it."""
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        return self.headers.get_all("Host") == [self.server.site.host] and site in ("same-origin", "none")

    def _has_token(self) -> bool:
        return hmac.compare_digest(self.headers.get(TOKEN_HEADER, "").encode(), self.server.site.token.encode())

    def _refuse(self, status: HTTPStatus) -> None:
        self._answer(Reply(status=status))

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)


def _listen(port: int, site: Site, servers: ExitStack) -> Sequence[_Server]:
    """Listen on both loopback addresses that `localhost` may mean, so that no other program stands in on one."""
    found = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            found.append(servers.enter_context(_Server(family, host, port, site)))
        except OSError as exc:
            if family == socket.AF_INET6 and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a machine without IPv6
            raise DeviceError(Trouble.K11_PAGE_UNAVAILABLE, f"port {port} of {host} is taken; K11 needs it") from exc
    return found


@contextmanager
def serving(site: Site, port: int) -> Iterator[str]:
    """Serve the site and yield the address to open, with the token in its fragment.

    Raises:
        DeviceError: `k11_page_unavailable` where the port is taken.
    """
    with ExitStack() as servers:
        listening = _listen(port, site, servers)
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in listening
        ]
        for thread in threads:
            thread.start()
        try:
            yield f"http://{site.host}/#{site.token}"
        finally:
            for server, thread in zip(listening, threads, strict=True):
                server.shutdown()
                thread.join()
