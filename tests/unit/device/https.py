"""A JSON server over TLS on a free port of this machine."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes.serving import served

Reply = tuple[int, object]


class Stall:
    """Holds up whatever comes to it, until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def hold(self) -> None:
        self.reached.set()
        self.let_go.wait(120)


@contextmanager
def https_server(
    context: ssl.SSLContext, answer: Callable[[str, str, bytes, Mapping[str, str]], Reply]
) -> Iterator[int]:
    """Serve JSON over TLS on a free port; hanging up is `answer` raising ConnectionError."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def log_message(self, *args: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            try:
                status, value = answer(self.command, self.path, body, dict(self.headers.items()))
            except ConnectionError:
                self.close_connection = True
                return
            if isinstance(value, Iterator):
                self._stream(value)
                return
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, parts: Iterator[str]) -> None:
            self.close_connection = True
            with closing(parts):  # type: ignore[type-var]  # a generator
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for part in parts:
                    self.wfile.write(part.encode())

        do_GET = do_POST = _serve  # noqa: N815 - the base class names them so

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: object) -> None:
            with context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

        def handle_error(self, *args: object) -> None:
            pass  # refused handshakes are what many tests want

    with served(Server(("127.0.0.1", 0), Handler)) as port:
        yield port
