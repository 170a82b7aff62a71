"""A broker with its ceremonies and nothing else: real store, real mail server, real provider, a clock that stands still."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import URL, Engine
from starlette.types import ASGIApp

from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.app import create_app
from broker.adapters.mail import SmtpMailer
from broker.adapters.openid import Provider
from broker.adapters.store.ceremony_table import SqlCeremonies
from broker.adapters.store.counters import SqlCounters, SqlRedemptions
from broker.adapters.store.engine import open_engine
from broker.adapters.store.passkey_table import SqlPasskeys
from broker.adapters.store.session_table import SqlSessions
from broker.ceremonies.email import EmailDesk
from broker.ceremonies.email_enrolment import EmailEnrolment
from broker.ceremonies.oidc import CALLBACK, OidcDesk, way_back
from broker.ceremonies.passkey import PasskeyDesk
from broker.ceremonies.steps import Steps
from broker.identity_settings import MailSettings, ProviderSettings
from broker.keys import K1Keys
from broker.outbox import Outbox
from broker.passkeys import RelyingParty
from broker.ports import EnrolAttester
from broker.proofs import Proofs
from broker.sessions import SessionDesk
from broker.web.ceremony_routes import ceremony_endpoints
from broker.web.enrolment_routes import email_enrolment_endpoints
from broker.web.pages import Pages
from broker.web.passkey_routes import passkey_endpoints
from broker.web.session_routes import session_endpoints
from tests.fakes.app_client import AppClient
from tests.fakes.clock import StillClock
from tests.fakes.mail_server import USER, MailServer
from tests.fakes.openid_server import OpenIdServer
from tests.fakes.registry import StaticRegistry
from tests.fakes.services_kit import BROKER_ORIGIN, FollowedRegistry
from tests.unit.broker.visitor import Visit

DOMAIN = Domain.of("ab" * 32)
#: What the hostile provider's tokens carry.
NONCE = b64u_encode(sha256(b"binds K10 and K11"))


@dataclass
class IdentityWorld:
    client: AppClient
    clock: StillClock
    engine: Engine
    app: ASGIApp
    outbox: Outbox | None = None

    def settle(self) -> None:
        """Until each mail is where it will be."""
        assert self.outbox is not None
        self.outbox.settle()

    def visit(self) -> Visit:
        """A device that nobody knows yet."""
        return Visit(self.client, self.clock, DeviceKey.generate())

    @contextmanager
    def visit_from(self, address: str) -> Iterator[Visit]:
        """The same, from elsewhere."""
        with AppClient(self.app, address) as client:
            yield Visit(client, self.clock, DeviceKey.generate())


def mail_settings(server: MailServer, **changed: object) -> MailSettings:
    given = {
        "host": "localhost",
        "port": server.port,
        "sender": "keys@broker.test",
        "user": USER,
        "password_file": server.password_file,
        "ca": server.ca,
    }
    return MailSettings(**(given | changed))  # type: ignore[arg-type]  # the tests say what they change


def provider_settings(server: OpenIdServer, **changed: object) -> ProviderSettings:
    secret = server.folder / "client-secret"
    if not secret.exists():
        secret.write_text(server.secret)
        secret.chmod(0o600)
    given = {"issuer": server.issuer, "client_id": server.client_id, "client_secret_file": secret, "ca": server.ca}
    return ProviderSettings(**(given | changed))  # type: ignore[arg-type]  # the tests say what they change


def provider_of(settings: ProviderSettings, clock: Callable[[], float] = time.time) -> Provider:
    """As the broker of these tests makes it."""
    return Provider(settings, redirect_uri=BROKER_ORIGIN + CALLBACK + way_back(settings.issuer), clock=clock)


@contextmanager
def identity_world(
    database: URL,
    *,
    mail: MailSettings | None = None,
    provider: ProviderSettings | None = None,
    others: Sequence[ProviderSettings] = (),
    at: float | None = None,
    passkeys: str = BROKER_ORIGIN,
    attester: EnrolAttester | None = None,
    addresses: AddressLimits | None = None,
) -> Iterator[IdentityWorld]:
    engine, clock = open_engine(database), StillClock() if at is None else StillClock(at)
    proofs = Proofs(
        origin=BROKER_ORIGIN, challenge_keys=(bytes(32),), redemptions=SqlRedemptions(engine), clock=clock.now
    )
    steps = Steps(proofs=proofs, ceremonies=SqlCeremonies(engine), clock=clock.now)
    counters = SqlCounters(engine)
    email = oidc = outbox = None
    if mail is not None:
        mailer = outbox = Outbox(SmtpMailer(mail), connections=mail.connections)
        email = EmailDesk(
            origin=BROKER_ORIGIN, proofs=proofs, steps=steps, counters=counters, mailer=mailer, clock=clock.now
        )
    if provider is not None:
        providers = {found.issuer: provider_of(found, clock.now) for found in (provider, *others)}
        oidc = OidcDesk(
            origin=BROKER_ORIGIN, proofs=proofs, steps=steps, counters=counters, providers=providers, clock=clock.now
        )
    desk = SessionDesk(
        keys=K1Keys.of(ec.generate_private_key(ec.SECP256R1())),
        origin=BROKER_ORIGIN,
        registry=FollowedRegistry(StaticRegistry("ab" * 32)),  # in which nobody is registered yet
        sessions=SqlSessions(engine),
        proofs=proofs,
        counters=counters,
        clock=clock.now,
    )
    party = RelyingParty.of(passkeys)
    assert party is not None
    passkey = PasskeyDesk(
        party=party,
        domain=DOMAIN,
        proofs=proofs,
        steps=steps,
        counters=counters,
        passkeys=SqlPasskeys(engine),
        clock=clock.now,
    )
    pages = Pages(origin=BROKER_ORIGIN)
    endpoints = [
        *ceremony_endpoints(steps=steps, email=email, oidc=oidc, pages=pages),
        *session_endpoints(desk),
        *passkey_endpoints(passkey, pages),
    ]
    if attester is not None:
        endpoints += email_enrolment_endpoints(EmailEnrolment(steps=steps, attester=attester))
    app = create_app("broker", endpoints, clock=clock.now, addresses=addresses)
    with AppClient(app) as client:
        yield IdentityWorld(client, clock, engine, app, outbox)
    if outbox is not None:
        outbox.close()
    engine.dispose()
