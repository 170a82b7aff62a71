"""Somebody who proves an address, a provider's identity or a passkey at the broker's real desks, before a real registry."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentkeys_core.ids import IdentityType, operator_omni
from device.home import Home
from device.session import Device
from device.setting_up import set_up
from device.show import Show
from signer.adapters.issuer_keys import JwksFile
from signer.evidence_check import EvidencePolicy, PasskeyPolicy, PinnedIssuer, verifier
from tests.fakes.passkey import SoftPasskey
from tests.unit.device.broker_ceremonies import RP_ID, Ceremonies, OneProvider
from tests.unit.device.conftest import Outcome, Person
from tests.unit.device.deployment import Deployment
from tests.unit.device.https import Reply
from tests.unit.device.real_registry import RealRegistry, real_registry

ISSUER, CLIENT = "https://login.example.com/tenant", "agentkeys-client"
ADDRESS = "Ada.Lovelace@People.test"
EMAIL, OIDC, PASSKEY = (f"/v1/identity/{kind}" for kind in ("email", "oidc", "passkey"))
CHANGES = "/v1/registry/changes"
ATTEST, ATTEST_EMAIL = "/v1/enrolments/attest", "/v1/enrolments/email"
BY_EMAIL = ("--identity", "email", "--email", ADDRESS)
BY_OIDC = ("--identity", "oidc")
BY_PASSKEY = ("--identity", "passkey")
Named = Callable[[str], Person]
Told = dict[str, Any]


class World:
    """A deployment, its real registry, and what people do at the broker's pages."""

    def __init__(self, deployment: Deployment, registry: RealRegistry) -> None:
        self.deployment, self.registry = deployment, registry
        self.broker: Ceremonies = deployment.identity.ceremonies
        self.provider = OneProvider(issuer=ISSUER, client_id=CLIENT, key=registry.issuer.keys["k1"][1])
        self.broker.providers[ISSUER] = self.provider
        self.broker.attester = self
        self.passkey = SoftPasskey(rp_id=RP_ID, origin=self.broker.origin)
        self.begun: list[tuple[str, Told]] = []
        deployment.identity.person = self.act
        self.idle = False
        pinned = PinnedIssuer(
            issuer=ISSUER, client_id=CLIENT, kind=IdentityType.OIDC, verify=JwksFile(registry.issuer.path).verify
        )
        pages = PasskeyPolicy(rp_id=RP_ID, origins=frozenset({self.broker.origin}))
        registry.desk._verify = verifier(EvidencePolicy(issuers={ISSUER: pinned}, passkey=pages, email=True))

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        return self.registry.desk.attest(change, evidence, caller="bb" * 32)

    def act(self, path: str, told: Told) -> None:
        """The person does at once what the page asks, unless nobody is there."""
        self.begun.append((path, dict(told)))
        if not self.idle:
            self.confirm()

    def confirm(self) -> None:
        """Do what the newest ceremony asks."""
        path, told = self.begun[-1]
        if path == EMAIL:
            self.broker.click_link(told["code"])
        elif path == OIDC:
            self.broker.sign_in(told["page"], told["code"])
        else:
            self.broker.use(self.passkey, told["page"], told.get("code", ""))

    def count(self, path: str) -> int:
        return sum(begun == path for begun, _ in self.begun)

    def lie(self, about: str, **members: object) -> None:
        """Have the broker change members of its answers about a ceremony: `about` is in their path."""

        def change(_: str, path: str, told: Told) -> None:
            if about in path and "state" in told:
                told.update(members)

        self.deployment.identity.lie = change


@contextmanager
def identity_world(deployment: Deployment, folder: Path) -> Iterator[World]:
    """A world of its own behind a deployment."""
    with real_registry(folder / "registry") as registry:
        registry.stand_behind(deployment)
        yield World(deployment, registry)


@contextmanager
def rows_lost(world: World) -> Iterator[None]:
    """The registry applies what is sent, and nobody hears of it."""

    def hang_up(body: bytes) -> Reply:
        world.registry.change(body)
        raise ConnectionError

    for part in ("broker", "credentials", "audit"):
        world.deployment.hooks[part, CHANGES] = hang_up
    yield
    for part in ("broker", "credentials", "audit"):
        del world.deployment.hooks[part, CHANGES]


@contextmanager
def opened(world: World, person: Person) -> Iterator[Device]:
    """The person's device, opened as init does it."""
    with (
        Home.open(person.home, create=True) as home,
        set_up(home, world.deployment.profile, Show(as_json=True, yes=True)) as device,
    ):
        yield device


def device_row(person: Person) -> Told:
    row: Told = person("device", "list").data["devices"][0]
    return row


def enrolled(outcome: Outcome) -> bytes:
    """The operator of somebody who is enrolled now."""
    assert outcome.code == 0, outcome.err
    assert outcome.data["status"] == "enrolled"
    return bytes.fromhex(outcome.data["operator_omni"])


def operator_of(world: World, identity: bytes) -> bytes:
    return operator_omni(world.registry.here.keyring.address(identity, 1))
