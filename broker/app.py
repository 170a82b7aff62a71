"""Wires the broker: the only place where its adapters and its logic meet."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from sqlalchemy import Engine
from starlette.types import ASGIApp

from agentkeys_core.eip712 import Domain
from agentkeys_runtime.identity import CallerRole
from agentkeys_runtime.logs import log_event
from agentkeys_runtime.mtls import client_channel
from agentkeys_runtime.registry_client import RegistryFollower
from agentkeys_runtime.signer_client import SignerClient
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import Endpoint
from agentkeys_runtime.web.own_certificate import check_own_certificate
from agentkeys_runtime.web.registry_source import PinnedRegistry
from agentkeys_runtime.web.serve import listen_on, serve
from broker.adapters.mail import SmtpMailer
from broker.adapters.openid import Provider
from broker.adapters.store.ceremony_table import SqlCeremonies
from broker.adapters.store.counters import SqlCounters, SqlRedemptions
from broker.adapters.store.engine import database_url, open_engine
from broker.adapters.store.passkey_table import SqlPasskeys
from broker.adapters.store.session_table import SqlSessions
from broker.adapters.store.use_table import SqlDeviceUses
from broker.ceremonies.email import EmailDesk
from broker.ceremonies.email_enrolment import EmailEnrolment
from broker.ceremonies.oidc import CALLBACK, OidcDesk, way_back
from broker.ceremonies.pairing import PairingDesk
from broker.ceremonies.passkey import PasskeyDesk
from broker.ceremonies.steps import Steps
from broker.change_feed import ChangeFeed
from broker.config import BrokerConfig
from broker.cosign import Cosigner
from broker.identity_settings import ProviderSettings
from broker.keyfile import load_keys
from broker.last_use import LastUse
from broker.outbox import Outbox
from broker.passkeys import RelyingParty
from broker.ports import EnrolAttester, Mailer
from broker.proofs import Proofs
from broker.quota import Quota
from broker.sessions import SessionDesk
from broker.signing import SigningRelay
from broker.web.ceremony_routes import ceremony_endpoints
from broker.web.device_routes import device_endpoints
from broker.web.enrolment_routes import email_enrolment_endpoints, enrolment_endpoints
from broker.web.event_routes import event_endpoints
from broker.web.pages import Pages
from broker.web.pairing_routes import pairing_endpoints
from broker.web.passkey_routes import passkey_endpoints
from broker.web.profile_routes import load_profile, profile_endpoints
from broker.web.routes import broker_endpoints
from broker.web.session_routes import session_endpoints

#: How long a start waits for the registry; after that it serves, and refuses by name until the registry is heard.
FIRST_WORD_S: Final = 5.0
_LOG: Final = logging.getLogger("agentkeys.broker")


def run(config: BrokerConfig) -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigError: key, certificate, state or address cannot be used.
    """
    check_own_certificate(config.tls.certificate, trust_domain=config.trust_domain, role=CallerRole.BROKER)
    with opened(config) as app, listen_on(config.listen) as listener:
        serve(app, listener, config.tls)


def redirect_uri(config: BrokerConfig, provider: ProviderSettings) -> str:
    """The address to register at this provider: where it alone sends people back to."""
    return config.origin + CALLBACK + way_back(provider.issuer)


@contextmanager
def opened(config: BrokerConfig) -> Iterator[ASGIApp]:
    """Yield the broker's application; afterwards its threads, channel and state file are closed."""
    with ExitStack() as stack:
        keys = load_keys(config.state_dir)
        engine = open_engine(database_url(config.store.postgresql, config.state_dir))
        stack.callback(engine.dispose)
        tls, signer = config.tls, config.signer
        channel = client_channel(signer.address, tls.certificate, tls.key, tls.ca, signer.server_name)
        feed = ChangeFeed()
        follower = stack.enter_context(RegistryFollower(channel, on_change=feed.publish))
        stack.callback(channel.close)  # first of all: what still waits for the signer ends with it
        if not follower.wait_ready(FIRST_WORD_S):
            log_event(_LOG, "registry_not_heard", level=logging.WARNING)
        registry = PinnedRegistry(follower, config.registry_id)
        last_use = stack.enter_context(LastUse(SqlDeviceUses(engine), time.time))
        cosigner = Cosigner(
            keys=keys,
            registry=registry,
            quota=Quota(config.quota, SqlCounters(engine), time.time),
            last_use=last_use,
            clock=time.time,
            aud=config.registry_id,
        )
        client = SignerClient(channel)
        proofs = Proofs(
            origin=config.origin,
            challenge_keys=keys.challenge_keys,
            redemptions=SqlRedemptions(engine),
            clock=time.time,
        )
        sessions = SessionDesk(
            keys=keys,
            origin=config.origin,
            registry=registry,
            sessions=SqlSessions(engine),
            proofs=proofs,
            counters=SqlCounters(engine),
            clock=time.time,
        )
        endpoints = (
            *broker_endpoints(
                cosigner=cosigner, registry=registry, addresses=client, signing=SigningRelay(cosigner, client)
            ),
            *session_endpoints(sessions),
            *device_endpoints(sessions, last_use),
            *event_endpoints(feed=feed, sessions=sessions, head=lambda: follower.sequence),
            *_identity(config, engine, proofs, sessions, client, mailer=_outbox(config, stack)),
            *_profile(config),
        )
        endpoints = (*endpoints, *enrolment_endpoints(client))
        yield create_app("AgentKeys broker", endpoints, addresses=config.addresses)


def _outbox(config: BrokerConfig, stack: ExitStack) -> Outbox | None:
    """Where mail is handed over, if the host configured any; closed with the rest."""
    if config.mail is None:
        return None
    made = Outbox(SmtpMailer(config.mail), connections=config.mail.connections)
    stack.callback(made.close)
    return made


def _profile(config: BrokerConfig) -> tuple[Endpoint, ...]:
    if config.profile is None:
        return ()
    return profile_endpoints(load_profile(config.profile, origin=config.origin, registry_id=config.registry_id))


def _identity(
    config: BrokerConfig,
    engine: Engine,
    proofs: Proofs,
    sessions: SessionDesk,
    attester: EnrolAttester,
    *,
    mailer: Mailer | None,
) -> tuple[Endpoint, ...]:
    """Pairing, and the ceremonies that the host configured."""
    steps = Steps(proofs=proofs, ceremonies=SqlCeremonies(engine), clock=time.time)
    counters = SqlCounters(engine)
    email = oidc = None
    if mailer is not None:
        email = EmailDesk(
            origin=config.origin,
            proofs=proofs,
            steps=steps,
            counters=counters,
            mailer=mailer,
            clock=time.time,
        )
    providers = {
        found.issuer: Provider(found, redirect_uri=redirect_uri(config, found), clock=time.time)
        for found in config.providers
    }
    if providers:
        oidc = OidcDesk(
            origin=config.origin,
            proofs=proofs,
            steps=steps,
            counters=counters,
            providers=providers,
            clock=time.time,
        )
    pairing = PairingDesk(proofs=proofs, steps=steps, counters=counters, clock=time.time)
    pages = Pages(origin=config.origin)
    found = [
        *ceremony_endpoints(steps=steps, email=email, oidc=oidc, pages=pages),
        *pairing_endpoints(pairing, sessions),
    ]
    if email is not None:
        found += email_enrolment_endpoints(EmailEnrolment(steps=steps, attester=attester))
    party = RelyingParty.of(config.origin)
    if party is not None:
        passkey = PasskeyDesk(
            party=party,
            domain=Domain.of(config.registry_id),
            proofs=proofs,
            steps=steps,
            counters=counters,
            passkeys=SqlPasskeys(engine),
            clock=time.time,
        )
        found += passkey_endpoints(passkey, pages)
    return tuple(found)
