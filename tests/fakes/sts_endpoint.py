"""A small STS over HTTPS: it fetches the issuer's published key set and verifies token, times, audience and policy for real."""

import functools
import http.server
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import jwt

from tests.fakes.serving import served

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
TAGS = "https://aws.amazon.com/tags"


@dataclass
class StsEndpoint:
    """What it insists on, and what it granted."""

    issuer: str
    audience: str
    role_arns: frozenset[str]
    folder: Path = Path()
    jwks_url: str = ""
    url: str = ""
    granted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    answer: Callable[[], tuple[int, bytes]] | None = None  # a test's own answer instead

    def exchange(self, form: dict[str, str]) -> tuple[int, bytes]:
        """Status and XML for one request."""
        if self.answer is not None:
            return self.answer()
        try:
            session = self._check(form)
        except (jwt.PyJWTError, ValueError, KeyError) as error:
            self.refused.append(repr(error))
            return 400, b"<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>"
        self.granted.append(session)
        return 200, answer_xml(expires=time.time() + int(form["DurationSeconds"]))

    def _check(self, form: dict[str, str]) -> dict[str, Any]:
        token = form["WebIdentityToken"]
        key = jwt.PyJWKClient(self.jwks_url, cache_keys=False).get_signing_key_from_jwt(token)
        required = ["aud", "exp", "iat", "iss", "nbf", "sub", "jti"]
        claims = jwt.decode(
            token, key, algorithms=["ES256"], audience=self.audience, issuer=self.issuer, options={"require": required}
        )
        policy = json.loads(form["Policy"])
        (statement,) = policy["Statement"]
        session = form["RoleSessionName"]
        holds = {
            "action": form["Action"] == "AssumeRoleWithWebIdentity" and form["Version"] == "2011-06-15",
            "duration": form["DurationSeconds"] == "900",
            "lifetime": claims["exp"] - claims["iat"] <= 300,
            "role": form["RoleArn"] in self.role_arns,
            "session": len(session) == 64 and bytes.fromhex(session).hex() == session,
            "policy size": len(form["Policy"]) <= 2048,
            "policy": statement["Effect"] == "Allow" and len(statement["Action"]) == len(statement["Resource"]) == 1,
            "tag": claims[TAGS]["principal_tags"] == {"agentkeys_actor_omni": [claims["sub"]]},
            "owner": f"/bots/{claims['sub']}/" in statement["Resource"][0],
        }
        if not all(holds.values()):
            raise ValueError([name for name, good in holds.items() if not good])
        return {"claims": claims, "statement": statement, "session": session, "role": form["RoleArn"]}


def answer_xml(*, expires: float, secret: str = "secret-of-the-session") -> bytes:
    moment = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f'<AssumeRoleWithWebIdentityResponse xmlns="{NAMESPACE}"><AssumeRoleWithWebIdentityResult><Credentials>'
        f"<AccessKeyId>AKIDEXAMPLE</AccessKeyId><SecretAccessKey>{escape(secret)}</SecretAccessKey>"
        f"<SessionToken>token-of-the-session</SessionToken><Expiration>{moment}</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    ).encode()


class _Quiet(http.server.BaseHTTPRequestHandler):
    endpoint: StsEndpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status, answer = self.endpoint.exchange({name: values[0] for name, values in parse_qs(body).items()})
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def sts_endpoint(endpoint: StsEndpoint, *, published: Path, certificate: Path, key: Path) -> Iterator[StsEndpoint]:
    """Serve `endpoint` over HTTPS on loopback, and the files of the issuer in `published` over HTTP."""
    handler = type("Handler", (_Quiet,), {"endpoint": endpoint})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(published)))
    with served(server) as port, served(files) as file_port:
        endpoint.url = f"https://localhost:{port}"
        endpoint.jwks_url = f"http://127.0.0.1:{file_port}/.well-known/jwks.json"
        yield endpoint
