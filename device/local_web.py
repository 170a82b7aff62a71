"""Pages on this machine's localhost for one browser: whoever holds the token of the address, and nobody else.

Other users of the machine reach the port and have no token; other pages have neither the token nor our origin; a name
that was rebound to 127.0.0.1 is not ours. The token is no cookie: those are sent to every port of localhost, whoever
listens there. It travels in the address's fragment, which browsers never send, and from there in a header.

Somebody else may have had the port before, and left a service worker or a cached script in the browser, which would
then be served in our place (docs/adr/0040). So everything lies below a path of its own that nobody could know, sites
that need no certain port take a fresh one, whose origin nobody had, and answers have the browser forget what it stored.
"""

import errno
import hmac
import secrets
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
MAX_POST_BYTES: Final = 64 * 1024
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
#: Ends a stranger's service worker with the first answer that passes it.
_FORGET: Final = ("Clear-Site-Data", '"storage"')
_FRESH_TRIES: Final = 16
_BASE_BYTES: Final = 16
_LOST: Final = "Open the address that your terminal shows.\n"
#: What a browser says of it.
_WINDOW: Final = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}


_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer to the browser."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    kind: str = "text/plain"


class Site(Protocol):
    """What is served. Only `files` goes to callers without the token; their contents are in the package, no secret.

    `stores` says that the page keeps something in the browser, which answers must not have it forget.
    """

    token: str
    stores: bool
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

    def __init__(self, family: socket.AddressFamily, port: int, site: Site, base: str) -> None:
        self.address_family = family
        self.site, self.base, self.host = site, base, ""
        super().__init__((_LOOPBACK[family], port), _Handler)
        self.host = f"localhost:{self.server_port}"

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
        """Serve the files to everybody here who knows the path, and everything else to whoever has the token."""
        site, target = self.server.site, self._target()
        if target is None or not (self._from_us() or (target in site.files and self._led_here())):
            return self._refuse(HTTPStatus.NOT_FOUND if target is None else HTTPStatus.FORBIDDEN)
        if target in site.files:
            package, name = site.files[target]
            body = files(package).joinpath("web", name).read_bytes()
            return self._answer(Reply(body=body, kind=_KINDS[name[name.rindex(".") :]]))
        if not site.knows("GET", target):
            return self._refuse(HTTPStatus.NOT_FOUND)
        if not self._has_token():
            return self._refuse(HTTPStatus.FORBIDDEN)
        return self._answer(site.get(target))

    def do_POST(self) -> None:
        """Take what our own page sends."""
        site, target = self.server.site, self._target()
        if target is None or not site.knows("POST", target):
            return self._refuse(HTTPStatus.NOT_FOUND)
        if not self._from_us() or self.headers.get("Origin") != f"http://{self.server.host}" or not self._has_token():
            return self._refuse(HTTPStatus.FORBIDDEN)
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Content-Type") != JSON or not length.isascii() or not length.isdigit():
            return self._refuse(HTTPStatus.BAD_REQUEST)
        if len(length) > len(str(MAX_POST_BYTES)) or int(length) > MAX_POST_BYTES:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self._answer(site.post(target, self.rfile.read(int(length))))

    def _target(self) -> str | None:
        """The path below ours; None for any other."""
        base = self.server.base
        return self.path[len(base) :] if self.path.startswith(f"{base}/") else None

    def _from_us(self) -> bool:
        """Whether the request names localhost itself (a rebound name does not) and no other page sent it."""
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        return self.headers.get_all("Host") == [self.server.host] and site in ("same-origin", "none")

    def _led_here(self) -> bool:
        """Whether a page of another port of this machine, as the console is, has opened a window with this one."""
        if self.headers.get_all("Host") != [self.server.host]:
            return False
        return all(self.headers.get(name) == said for name, said in _WINDOW.items())

    def _has_token(self) -> bool:
        return hmac.compare_digest(self.headers.get(TOKEN_HEADER, "").encode(), self.server.site.token.encode())

    def _refuse(self, status: HTTPStatus) -> None:
        body = _LOST.encode() if self.command == "GET" and status is HTTPStatus.NOT_FOUND else b""
        self._answer(Reply(status=status, body=body, kind="text/plain; charset=utf-8"))

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in (*_HEADERS.items(), *(() if self.server.site.stores else (_FORGET,))):
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)


def _listen(port: int, site: Site, base: str, servers: ExitStack) -> Sequence[_Server]:
    """Listen on both loopback addresses that `localhost` may mean, so that no other program stands in on one."""
    found = [servers.enter_context(_Server(socket.AF_INET, port, site, base))]
    try:
        found.append(servers.enter_context(_Server(socket.AF_INET6, found[0].server_port, site, base)))
    except OSError as exc:
        if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # those say: a machine without IPv6
            raise
    return found


def _listening(port: int, site: Site, base: str, servers: ExitStack) -> Sequence[_Server]:
    """Listen on `port`; 0: on one that is free on both addresses. Raises `k11_page_unavailable`."""
    tries = 1 if port else _FRESH_TRIES
    for _ in range(tries):
        with ExitStack() as attempt:
            try:
                found = _listen(port, site, base, attempt)
            except OSError as exc:
                refused = exc
                continue
            servers.push(attempt.pop_all())
            return found
    said = f"port {port} of localhost is taken; K11 needs it" if port else "no port of localhost is free"
    raise DeviceError(Trouble.K11_PAGE_UNAVAILABLE, said) from refused


@contextmanager
def serving(site: Site, port: int = 0) -> Iterator[str]:
    """Serve the site and yield the address to open, with the token in its fragment.

    Without `port` it is a fresh one, so that nothing in the browser was left there by others.

    Raises:
        DeviceError: `k11_page_unavailable` where the port is taken.
    """
    base = f"/{secrets.token_urlsafe(_BASE_BYTES)}"
    with ExitStack() as servers:
        listening = _listening(port, site, base, servers)
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in listening
        ]
        for thread in threads:
            thread.start()
        try:
            yield f"http://{listening[0].host}{base}/#{site.token}"
        finally:
            for server, thread in zip(listening, threads, strict=True):
                server.shutdown()
                thread.join()
