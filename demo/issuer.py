"""Serves the issuer's static files by HTTPS: an origin of its own that no broker can write (design section 8)."""

import ssl
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Static(SimpleHTTPRequestHandler):
    """Files of one folder, GET and HEAD only, no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: the demo's own lines are what a person reads."""


def main(folder: Path, certificate: Path, port: int) -> None:
    """Serve until the process is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(Static, directory=str(folder)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"ready https://127.0.0.1:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
