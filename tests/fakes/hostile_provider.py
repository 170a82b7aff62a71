"""An OpenID provider that does whatever a test wants: real HTTPS on loopback, real signatures, and no manners."""

import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from broker.identity_settings import ProviderSettings

CLIENT_ID = "agentkeys-broker"
KID = "k"


@dataclass
class HostileProvider:
    """`metadata` and `claims` change what it would say; `bodies` answers whole requests by the end of their path.

    `forged` is the token in place of its own. `drip` makes it send each token answer byte by byte and never end; while
    `held` is clear, they wait.
    """

    folder: Path
    nonce: str
    metadata: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    bodies: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    drip: bool = False
    held: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    forged: str = ""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.held.set()
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.folder.mkdir(parents=True, exist_ok=True)
        authority.cert_pem.write_to_path(str(self.ca))
        authority.issue_cert("localhost").configure_cert(context)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def ca(self) -> Path:
        return self.folder / "hostile-ca.pem"

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self._server.server_address[1]}"

    @property
    def settings(self) -> ProviderSettings:
        return ProviderSettings(issuer=self.issuer, client_id=CLIENT_ID, ca=self.ca)

    def document(self) -> dict[str, Any]:
        named = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "token")}
        return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **named, **self.metadata}

    def keys(self) -> dict[str, Any]:
        return {"keys": [{**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key())), "kid": KID}]}

    def token(self) -> str:
        return self.forged or self.signed()

    def signed(self, key: Any = None, algorithm: str = "ES256", **header: str) -> str:
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": CLIENT_ID, "sub": "s", "iat": now, "exp": now + 300, "nonce": self.nonce}
        said = {name: value for name, value in {**usual, **self.claims}.items() if value is not None}
        return jwt.encode(said, key or self.key, algorithm=algorithm, headers={"kid": KID, **header})

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path in self.bodies:
            return self.bodies[path]
        if path == "token":
            found: dict[str, Any] = {"id_token": self.token(), "access_token": "x", "token_type": "bearer"}
        else:
            found = self.keys() if path == "keys" else self.document()
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drip = False
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(provider: HostileProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            self.tell(self.path.rpartition("/")[2])

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            provider.codes += form.get("code", [])
            provider.waiting.release()
            provider.held.wait(60)
            self.tell("token")

        def tell(self, path: str) -> None:
            provider.asked.append(path)
            status, headers, body = provider.answer(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if path == "token" and provider.drip:
                self.trickle()
            else:
                self.wfile.write(body)

        def trickle(self) -> None:
            """Each byte comes sooner than any timeout of one step, and the last one never."""
            while provider.drip:
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
                time.sleep(0.02)

    return Handler
