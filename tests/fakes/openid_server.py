"""The OpenID provider of the tests, a process of its own, and a person who signs in there without a browser."""

import json
import re
import ssl
import subprocess
from contextlib import closing
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx
import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from broker.ceremonies.oidc import CALLBACK, way_back
from demo.process import free_port
from tests.services import program

CLIENT_ID = "agentkeys-broker"
SECRET = "the client secret of the tests"
#: Somebody else's, at the same provider.
OTHER_CLIENT = "another-client"


def signing_key(kid: str, algorithm: str = "ES256") -> dict[str, Any]:
    """A private JWK for ES256, or for RS256 as Google has."""
    if algorithm == "RS256":
        text = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    else:
        text = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))
    jwk: dict[str, Any] = json.loads(text)
    return {**jwk, "kid": kid, "alg": algorithm, "use": "sig"}


@dataclass
class OpenIdServer:
    """Our one client is the broker at `origin`; `keys` sign, the first one new tokens. `folder` gets the root to trust."""

    folder: Path
    origin: str
    authority: trustme.CA = field(default_factory=trustme.CA)
    keys: list[dict[str, Any]] = field(default_factory=lambda: [signing_key("first")])
    port: int = field(default_factory=free_port)
    client_id: str = CLIENT_ID
    secret: str = SECRET
    _process: subprocess.Popen[str] | None = None

    @property
    def ca(self) -> Path:
        return self.folder / "provider-ca.pem"

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def redirect_uri(self) -> str:
        return self.origin + CALLBACK + way_back(self.issuer)

    def start(self) -> None:
        client = {
            "client_id": self.client_id,
            "client_secret": self.secret,
            "redirect_uris": [self.redirect_uri],
            "id_token_signed_response_alg": self.keys[0]["alg"],
        }
        other = client | {"client_id": OTHER_CLIENT, "client_secret": OTHER_CLIENT}
        self.authority.cert_pem.write_to_path(str(self.ca))
        leaf = self.authority.issue_cert("localhost")
        config = {
            "issuer": self.issuer,
            "port": self.port,
            "clients": [client, other],
            "jwks": {"keys": self.keys},
            "tls": {
                "key": leaf.private_key_pem.bytes().decode(),
                "cert": "".join(pem.bytes().decode() for pem in leaf.cert_chain_pems),
            },
        }
        script = program("oidc")
        self._process = subprocess.Popen(
            ["node", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(config))
        self._process.stdin.close()
        for line in self._process.stdout:
            if line.startswith("ready "):
                return
        raise RuntimeError("the OpenID provider did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def sign_in(self, address: str, login: str = "ada", *, decline: bool = False) -> str:
        """Go through the provider's own pages; returns the address that it sends the browser back to."""
        trusting = ssl.create_default_context(cafile=self.ca)
        with closing(httpx.Client(timeout=10, verify=trusting)) as browser:
            answer = browser.get(address)
            for _ in range(12):
                if answer.is_redirect:
                    onward = urljoin(str(answer.url), answer.headers["location"])
                    if onward.startswith(self.redirect_uri):
                        return onward
                    answer = browser.get(onward)
                    continue
                if decline:
                    abort = re.search(r'href="([^"]*/abort)"', answer.text)
                    assert abort is not None, answer.text
                    answer = browser.get(urljoin(str(answer.url), unescape(abort.group(1))))
                    continue
                action = re.search(r'action="([^"]+)"', answer.text)
                assert action is not None, answer.text
                prompt = "login" if 'name="login"' in answer.text else "consent"
                form = {"prompt": prompt, "login": login, "password": "anything"}
                answer = browser.post(urljoin(str(answer.url), unescape(action.group(1))), data=form)
        raise AssertionError("the provider never sent the browser back")
