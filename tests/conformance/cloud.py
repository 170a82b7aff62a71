"""The cloud of both targets: the issuer's origin, and an STS endpoint that verifies tokens against what stands there."""

import functools
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from tests.conformance.deployment import ROLE_ARN
from tests.fakes.sts_endpoint import StsEndpoint, sts_endpoint
from tests.unit.runtime.certificates import SERVER, Files, Issuer

AUDIENCE: Final = "sts.amazonaws.com"
#: Where the issuer publishes the audit keys, below its folder.
AUDIT_KEYS: Final = Path(".well-known/agentkeys-audit-jwks.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The STS endpoint, the issuer's origin, the roots of both, and the folder that the issuer serves."""

    url: str
    issuer: str
    ca: Path
    published: Path


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _origin(folder: Path, tls: Files) -> Iterator[str]:
    """Serve the folder over HTTPS; gives the origin."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.05), daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """Serve one below `folder`."""
    tls = Files(folder / "sts")
    tls.write(Issuer(), names=(x509.DNSName("localhost"),), usages=(SERVER,))
    published = folder / "published"
    published.mkdir()
    with _origin(published, tls) as issuer:
        endpoint = StsEndpoint(issuer=issuer, audience=AUDIENCE, role_arns=frozenset({ROLE_ARN}))
        with sts_endpoint(endpoint, published=published, certificate=tls.certificate, key=tls.key):
            yield Cloud(url=endpoint.url, issuer=issuer, ca=tls.ca, published=published)
