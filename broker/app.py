"""Wires the broker: the only place where its adapters and its logic meet."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from starlette.types import ASGIApp

from agentkeys_runtime.identity import CallerRole
from agentkeys_runtime.logs import log_event
from agentkeys_runtime.mtls import client_channel
from agentkeys_runtime.registry_client import RegistryFollower
from agentkeys_runtime.signer_client import SignerClient
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.own_certificate import check_own_certificate
from agentkeys_runtime.web.registry_source import PinnedRegistry
from agentkeys_runtime.web.serve import listen_on, serve
from broker.adapters.store_sqlite import SqliteCounters
from broker.config import BrokerConfig
from broker.cosign import Cosigner
from broker.keyfile import load_key
from broker.quota import Quota
from broker.signing import SigningRelay
from broker.web.routes import broker_endpoints

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


@contextmanager
def opened(config: BrokerConfig) -> Iterator[ASGIApp]:
    """Yield the broker's application; afterwards its threads, channel and state file are closed."""
    with ExitStack() as stack:
        key = load_key(config.state_dir)
        counters = SqliteCounters(config.database)
        stack.callback(counters.close)
        tls, signer = config.tls, config.signer
        channel = client_channel(signer.address, tls.certificate, tls.key, tls.ca, signer.server_name)
        follower = stack.enter_context(RegistryFollower(channel))
        stack.callback(channel.close)  # first of all: what still waits for the signer ends with it
        if not follower.wait_ready(FIRST_WORD_S):
            log_event(_LOG, "registry_not_heard", level=logging.WARNING)
        registry = PinnedRegistry(follower, config.registry_id)
        cosigner = Cosigner(
            key=key,
            registry=registry,
            quota=Quota(config.quota, counters, time.time),
            clock=time.time,
            aud=config.registry_id,
        )
        client = SignerClient(channel)
        endpoints = broker_endpoints(
            cosigner=cosigner, registry=registry, addresses=client, signing=SigningRelay(cosigner, client)
        )
        yield create_app("AgentKeys broker", endpoints)
