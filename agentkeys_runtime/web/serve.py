"""Serves an application by HTTPS until SIGTERM: TLS 1.3, one `ready` line, a quick and clean end."""

import asyncio
import resource
import socket
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.descriptors import raise_descriptors
from agentkeys_runtime.mtls import https_server_context
from agentkeys_runtime.web.patience import HANDSHAKE_S, MAX_HEAD_BYTES, PatientProtocol
from agentkeys_runtime.web.settings import TlsSettings, parse_listen

GRACE_S: Final = 1
KEEP_ALIVE_S: Final = 30
#: Descriptors: all connections, those in their handshake, and what the service itself has open.
DESCRIPTORS: Final = 8192
BACKLOG: Final = 512


def listen_on(listen: str) -> socket.socket:
    """Return a listening socket at host:port; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be taken.
    """
    host, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {listen}: {error.strerror}") from error
    return listener


def origin_of(listener: socket.socket) -> str:
    """Return https://HOST:PORT of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def serve(app: ASGIApp, listener: socket.socket, tls: TlsSettings) -> None:
    """Serve until SIGTERM or SIGINT, then give running requests a second and return.

    Prints `ready https://HOST:PORT` on stdout once connections are taken. Replaced certificate files are taken up by
    themselves. Cores are never dumped from here on: what passes through may be somebody's credential.

    Raises:
        ConfigError: unusable certificate or key.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    raise_descriptors(DESCRIPTORS)
    context = https_server_context(tls.certificate, tls.key)
    config = uvicorn.Config(
        app,
        ssl_context_factory=lambda _config, _default: context,
        http=PatientProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    _Server(config, origin_of(listener)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready, and ends with status 0 when it was told to end."""

    def __init__(self, config: uvicorn.Config, origin: str) -> None:
        super().__init__(config)
        self._origin = origin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, then say so. The library would leave a handshake a whole minute."""
        config, loop = self.config, asyncio.get_running_loop()

        def protocol() -> PatientProtocol:
            return PatientProtocol(config=config, server_state=self.server_state, app_state={}, _loop=loop)

        self.servers = [
            await loop.create_server(
                protocol, sock=listener, ssl=config.ssl, backlog=BACKLOG, ssl_handshake_timeout=HANDSHAKE_S
            )
            for listener in sockets or ()
        ]
        self.started = True
        print(f"ready {self._origin}", flush=True)  # noqa: T201 - what starters of the process wait for

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to end. The library would raise the signal once more, so that a clean stop looked like a crash."""
        self.should_exit = True
