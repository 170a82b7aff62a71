"""An HTTPS server with a stolen certificate that says the same to everything, and passes nothing on."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.adversarial.town import Town


class _Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = b"{}"
    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self._say()

    def do_GET(self) -> None:
        self._say()

    def _say(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off the handshake is what some tests are about."""


@contextmanager
def lying(town: Town, part: str, certificate: str, answer: bytes) -> Iterator[list[str]]:
    """Serve `answer` at the port of a stopped part, with somebody's certificate; yields the paths asked for."""
    seen: list[str] = []
    handler = type("Handler", (_Liar,), {"answer": answer, "seen": seen})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = town.stack.certificate(certificate)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = _Server(("127.0.0.1", town.stack.ports[part]), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
