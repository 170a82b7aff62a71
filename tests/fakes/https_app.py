"""An application behind a real port on loopback, in a thread of this process; with TLS where a page or a stream needs it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trustme
import uvicorn
from starlette.types import ASGIApp


@contextmanager
def https_app(app: ASGIApp, listener: socket.socket, *hosts: str) -> Iterator[ssl.SSLContext]:
    """Serve `app` at `listener` under a certificate for `hosts`; yields what its clients trust."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with http_app(app, listener, context):
        yield trust


@contextmanager
def http_app(app: ASGIApp, listener: socket.socket, context: ssl.SSLContext | None = None) -> Iterator[None]:
    """Serve `app` at `listener`, without TLS where no context is given."""
    config = uvicorn.Config(
        app,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def loopback() -> socket.socket:
    """A listening socket at a free port."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made
