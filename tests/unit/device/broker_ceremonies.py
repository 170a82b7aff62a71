"""The broker's real desks of e-mail, OpenID Connect and passkeys, for devices; and the people at their pages.

The mail server and the provider stand behind the desks' ports here: the end-to-end tests have real ones.
"""

import html
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Engine

from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.endpoints import Endpoint
from broker.adapters.store.counters import SqlCounters
from broker.adapters.store.passkey_table import SqlPasskeys
from broker.ceremonies.email import EmailDesk
from broker.ceremonies.email_enrolment import EmailEnrolment
from broker.ceremonies.oidc import CALLBACK, OidcDesk, way_back
from broker.ceremonies.passkey import PasskeyDesk
from broker.ceremonies.steps import Steps
from broker.passkeys import RelyingParty
from broker.ports import IdToken
from broker.proofs import Proofs
from broker.web.ceremony_routes import ceremony_endpoints
from broker.web.enrolment_routes import email_enrolment_endpoints
from broker.web.pages import Pages
from broker.web.passkey_routes import passkey_endpoints
from tests.fakes.app_client import AppClient
from tests.fakes.passkey import SoftPasskey

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
#: What passkeys of the tests' broker belong to; a browser would take no bare address.
RP_ID = "127.0.0.1"


class Letters:
    """Keeps the mail that was handed over."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def send(self, *, to: str, subject: str, text: str, client: str) -> None:
        self.sent.append((to, text))

    def link(self) -> str:
        return next(word for word in self.sent[-1][1].split() if word.startswith("https://"))


@dataclass
class OneProvider:
    """Whoever comes is `subject`, at once. `spoil` changes what its tokens say."""

    issuer: str
    client_id: str
    subject: str = "alice"
    spoil: dict[str, Any] = field(default_factory=dict)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        return f"{self.issuer}/authorize?{urlencode({'state': state})}"

    def names_itself(self) -> bool:
        return False

    def redeem(self, code: str, *, nonce: str, verifier: str) -> IdToken:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": self.client_id, "sub": self.subject, "nonce": nonce, "iat": now}
        text = jwt.encode({**claims, "exp": now + 600, **self.spoil}, self.key, "ES256", headers={"kid": "k1"})
        return IdToken(text=text, subject=self.subject, name=self.subject)


class NoAttester:
    """Until a signer stands behind the broker."""

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        raise KeyServiceError(Reason.SIGNER_UNREACHABLE)


class _Late:
    def __init__(self, of: "Ceremonies") -> None:
        self._of = of

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        signature: bytes = self._of.attester.attest_enrol(change, evidence)
        return signature


class Ceremonies:
    """`attester` and `providers` may be changed at any time. `client` asks the broker's pages."""

    client: AppClient

    def __init__(self, engine: Engine, proofs: Proofs, steps: Steps, origin: str, registry_id: str) -> None:
        self.origin = origin
        self.letters = Letters()
        self.providers: dict[str, Any] = {}
        self.attester: Any = NoAttester()
        counters = SqlCounters(engine)
        common: dict[str, Any] = {"proofs": proofs, "steps": steps, "counters": counters, "clock": time.time}
        email = EmailDesk(origin=origin, mailer=self.letters, **common)
        oidc = OidcDesk(origin=origin, providers=self.providers, **common)
        party = RelyingParty(id=RP_ID, origin=origin)
        passkey = PasskeyDesk(party=party, domain=Domain.of(registry_id), passkeys=SqlPasskeys(engine), **common)
        pages = Pages(origin=origin)
        self.endpoints: tuple[Endpoint, ...] = (
            *ceremony_endpoints(steps=steps, email=email, oidc=oidc, pages=pages),
            *email_enrolment_endpoints(EmailEnrolment(steps=steps, attester=_Late(self))),
            *passkey_endpoints(passkey, pages),
        )

    # What people do at the pages.

    def path(self, page: str) -> str:
        assert page.startswith(self.origin + "/identity/")
        return page.removeprefix(self.origin)

    def click_link(self, code: str) -> None:
        """Open the newest mail's link, type the code, and agree."""
        path = self.path(self.letters.link())
        assert self.client.get(path).status_code == 200
        assert self.client.post(path, content=typed(code), headers=FORM).status_code == 200

    def sign_in(self, page: str, code: str, *, agree: bool = True) -> None:
        """Go to the provider, come back, type the code, and agree."""
        shown = self.client.get(self.path(page))
        assert shown.status_code == 200, shown.text
        onward = html.unescape(_found(r'class="button" href="([^"]+)"', shown.text))
        state = parse_qs(urlsplit(onward).query)["state"][0]
        way = way_back(onward.removesuffix("/authorize?" + urlsplit(onward).query))
        back = self.client.get(f"{CALLBACK}{way}?{urlencode({'code': 'c', 'state': state})}")
        assert back.status_code == 303, back.text
        if not agree:
            return
        done = self.client.post(back.headers["location"], content=typed(code), headers=FORM)
        assert done.status_code == 200, done.text

    def use(self, passkey: SoftPasskey, page: str, code: str) -> None:
        """Make the passkey, or use it, as the page asks."""
        shown = self.client.get(self.path(page))
        assert shown.status_code == 200, shown.text
        options = json.loads(html.unescape(_found(r'data-options="([^"]+)"', shown.text)))
        challenge = b64u_decode(options["challenge"])
        passkey.count += 1
        answer = passkey.created(challenge) if "pubKeyCredParams" in options else passkey.asserted(challenge)
        done = self.client.post(self.path(page), content=typed(code, answer=answer), headers=FORM)
        assert done.status_code == 200, done.text


def typed(code: str, **more: str) -> str:
    """The form, by somebody whose terminal shows `code`, if it shows one."""
    return urlencode({**more, "code": code} if code else more)


#: Called with the path and answer of each ceremony that begins: somebody who is quick.
Acts = Callable[[str, dict[str, Any]], None]


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]
