"""An issuer's origin: static files by HTTPS on loopback, under a root of its own."""

import ssl
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from tests.unit.runtime.certificates import SERVER, Files, Issuer


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class IssuerOrigin:
    """Serves `files` until `close`."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        made = Files(folder / "tls")
        made.write(Issuer(), names=(x509.IPAddress(ip_address("127.0.0.1")),), usages=(SERVER,))
        self.ca = made.ca
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(self.files)))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def table(self) -> str:
        """The table of signer.toml that names it."""
        return f'[issuer]\norigin = "{self.origin}"\nca = "{self.ca}"\n'

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
