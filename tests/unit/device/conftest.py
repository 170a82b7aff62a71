from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkeys_core.changes import Freeze
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import hex_encode
from agentkeys_core.keys import DeviceKey
from certs.ca import Authority
from device.home import Home
from device.intent import Intent, change_intent
from device.keys import K10, SignedDigest
from tests.fakes.security_key import SecurityKey
from tests.unit.device.deployment import TRUST_DOMAIN, Deployment, running
from tests.unit.device.masters_kit import bring_in
from tests.unit.device.persons import Outcome, Person
from tests.unit.device.real_registry import RealRegistry, real_registry

__all__ = ["Outcome", "Person"]  # known from here


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One CA for all tests of the session."""
    return Authority.create(tmp_path_factory.mktemp("authority") / "ca", TRUST_DOMAIN)


@pytest.fixture
def deployment(tmp_path: Path, authority: Authority) -> Iterator[Deployment]:
    """A deployment that listens."""
    with running(tmp_path, authority) as made:
        yield made


@pytest.fixture
def person(tmp_path: Path, deployment: Deployment, capfd: pytest.CaptureFixture[str]) -> Callable[[str], Person]:
    """Makes persons by name, each with a home and a wallet of their own."""
    profile = tmp_path / "profile.json"
    profile.write_bytes(deployment.profile.encode())

    def make(name: str) -> Person:
        wallet = tmp_path / f"{name}.wallet"
        wallet.touch(mode=0o600)
        wallet.write_text(hex_encode(DeviceKey.generate().secret_bytes()))
        return Person(tmp_path / name, profile, hex_encode(deployment.profile.hash()), wallet, capfd, deployment)

    return make


@pytest.fixture
def master(person: Callable[[str], Person]) -> Person:
    """An enrolled master."""
    made = person("master")
    outcome = made.init()
    assert outcome.code == 0, outcome.err
    return made


@pytest.fixture
def agent(person: Callable[[str], Person], master: Person, tmp_path: Path) -> Person:
    """An agent of the master that may use cred:openrouter."""
    made = person("agent")
    operator = master("whoami", "--offline").data["operator_omni"]
    paired = made("pair", "--operator", operator, *made.profile_words(), "--out", tmp_path / "offer.json")
    assert paired.code == 0, paired.err
    told = paired.data["pairing_hash"]
    added = master(
        "agent",
        "add",
        tmp_path / "offer.json",
        "--label",
        "research",
        "--service",
        "cred:openrouter",
        "--pairing-hash",
        told,
    )
    assert added.code == 0, added.err
    return made


@pytest.fixture
def registry(tmp_path: Path, deployment: Deployment) -> Iterator[RealRegistry]:
    """The deployment's registry is the signer's own."""
    with real_registry(tmp_path / "registry") as made:
        made.stand_behind(deployment)
        yield made


@pytest.fixture
def first(registry: RealRegistry, person: Callable[[str], Person]) -> Person:
    """A user's first master."""
    made = person("first")
    assert made.init().code == 0
    return made


@pytest.fixture
def second(registry: RealRegistry, person: Callable[[str], Person], first: Person, tmp_path: Path) -> Person:
    """The same user's second master."""
    made = person("second")
    assert bring_in(made, first, tmp_path).code == 0
    return made


@pytest.fixture
def third(
    registry: RealRegistry, person: Callable[[str], Person], first: Person, second: Person, tmp_path: Path
) -> Person:
    """The third; the threshold is two from here."""
    made = person("third")
    assert bring_in(made, first, tmp_path).code == 0
    assert first("device", "threshold", 2).code == 0
    return made


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Home.open(tmp_path / "home", create=True) as opened:
        yield opened


@pytest.fixture
def signed(home: Home) -> tuple[SignedDigest, Intent]:
    change = Freeze(operator_omni=bytes(32), incarnation=1, freeze_nonce=0)
    made = K10.load_or_make(home).sign_change(change, Domain.embedded("ab" * 32))
    return made, change_intent(change, made.name)


@pytest.fixture
def fresh_key(tmp_path: Path) -> Iterator[Callable[..., SecurityKey]]:
    """Makes keys by name, without a PIN."""
    made: list[SecurityKey] = []

    def make(name: str = "Testkey", *words: str) -> SecurityKey:
        made.append(SecurityKey(tmp_path / f"{name}.sock", name, *words))
        return made[-1]

    yield make
    for key in made:
        key.close()


@pytest.fixture
def key(fresh_key: Callable[..., SecurityKey]) -> SecurityKey:
    """A key with a PIN."""
    made = fresh_key()
    made.set_pin()
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is a moment behind is waited for no longer than that."""
    for module in ("change_desk", "rotation_standing"):
        monkeypatch.setattr(f"device.{module}.CATCH_UP_S", 0.01)
