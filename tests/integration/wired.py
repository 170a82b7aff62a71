"""Broker and workers as they wire themselves, with everything configured that has routes, as applications in here.

Their signer is a process of its own; so are the mail server and the OpenID provider. A master and an agent of theirs are
registered, so that a test can sign what it asks as a real device does.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from starlette.types import ASGIApp

import broker.app
import worker.app
from agentkeys_core.change_types import Freeze, SetScope
from agentkeys_core.encoding import canonical_json
from agentkeys_core.ops import Op
from agentkeys_core.signing_bodies import SiweBody, TypedDataBody
from agentkeys_runtime.config import load_config
from agentkeys_runtime.web.addresses import AddressLimits
from broker.config import BrokerConfig
from broker.quota import QuotaLimits
from broker.web.event_routes import event_endpoints
from device import credentials, memories
from tests.adversarial.test_10_wallets import SIGN, SIWE, message, permit
from tests.adversarial.town import OPENROUTER, Member, Town, town_in
from tests.fakes.mail_server import MailServer
from tests.fakes.openid_server import OpenIdServer
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.unit.broker.identity_world import mail_settings, provider_settings
from worker.config import WorkerConfig

WORKERS = ("credentials", "memory", "audit")
PLENTY = 10**6
_SIGNER_LIMITS = "[limits]\ncertificate_per_s = 1e6\ncertificate_burst = 1e6\ndevice_per_s = 1e6\ndevice_burst = 1e6\n"
#: A stream looks at its session so often: a test need not wait for the usual 15 s.
BEAT_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Wired:
    """The applications by name, the people of `town`, and bodies that were made beforehand, by op."""

    apps: Mapping[str, ASGIApp]
    town: Town
    master: Member
    agent: Member
    texts: Mapping[str, object]
    broker: BrokerConfig
    workers: Mapping[str, WorkerConfig]

    def limited(self, service: str, addresses: AddressLimits) -> AbstractContextManager[ASGIApp]:
        """A service once more, with other limits of addresses."""
        if service == "broker":
            return broker.app.opened(replace(self.broker, addresses=addresses))
        return worker.app.opened(replace(self.workers[service], addresses=addresses))


@contextmanager
def wired_services(folder: Path) -> Iterator[Wired]:
    """Every service of one deployment; only signer and issuer run as processes of their own when this yields."""
    with ExitStack() as stack:
        town = stack.enter_context(town_in(folder / "stack", settings={"signer": _SIGNER_LIMITS}))
        master = town.master()
        agent = town.agent(master, OPENROUTER, "memory:notes", SIWE, SIGN)
        town.stack.start("memory")
        credentials.put(master.device, "openrouter", b"what agents fetch")
        credentials.put(master.device, "doomed", b"what its master deletes")
        memories.put(master.device, "kept", b"what its master reads")
        mail = stack.enter_context(MailServer(made(folder / "mail"), "starttls"))
        provider = stack.enter_context(OpenIdServer(folder=made(folder / "provider"), origin=BROKER_ORIGIN))
        profile = json.loads(town.stack.profile.read_text()) | {"broker": BROKER_ORIGIN}
        (folder / "profile.json").write_bytes(canonical_json(profile))
        config = replace(
            load_config(town.stack.config("broker"), BrokerConfig),
            origin=BROKER_ORIGIN,  # passkeys need the name of a host
            quota=QuotaLimits(device_per_minute=PLENTY, user_per_minute=PLENTY),
            mail=mail_settings(mail),
            providers=(provider_settings(provider),),
            profile=folder / "profile.json",
        )
        texts = written(town, agent)
        town.stack.stop("broker", *WORKERS)  # the applications take over what these processes kept
        stack.enter_context(patch.object(broker.app, "event_endpoints", partial(event_endpoints, beat_s=BEAT_S)))
        workers = {name: load_config(town.stack.config(name), WorkerConfig) for name in WORKERS}
        apps = {"broker": stack.enter_context(broker.app.opened(config))}
        apps |= {name: stack.enter_context(worker.app.opened(found)) for name, found in workers.items()}
        people = {"master": master, "agent": agent}
        yield Wired(apps=apps, town=town, texts=texts, broker=config, workers=workers, **people)


def made(folder: Path) -> Path:
    """The folder, which is new."""
    folder.mkdir()
    return folder


def written(town: Town, agent: Member) -> dict[str, object]:
    """Bodies whose making needs the whole deployment: what a wallet signs, and changes of a bystander's tree."""
    bystander = town.master()
    operator, header = bystander.who.operator, bystander.header()
    scope = SetScope(operator_omni=operator, actor_omni=agent.who.actor, grant=(OPENROUTER,), revoke=(), **header)
    freeze = Freeze(operator_omni=operator, incarnation=header["incarnation"], freeze_nonce=0)
    siwe = SiweBody(message=message(agent)).encode().decode()
    typed = TypedDataBody(typed_data=permit(agent)).encode().decode()
    changes = (bystander.signed_change(scope, k11=True), bystander.signed_change(freeze, k11=False))
    return {
        Op.SIWE_SIGN.value: {"service": SIWE, "body": siwe},
        Op.TYPED_DATA_SIGN.value: {"service": SIGN, "body": typed},
        "changes": [change.decode() for change in changes],
    }
