"""An Enrol that waits in the folder: whose it is, when it is given up, and that it stands in nobody's way for good."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentkeys_core.errors import Reason
from agentkeys_core.ids import IdentityType, identity_omni
from device.identities import ceremony
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply
from tests.unit.device.identity_kit import (
    BY_EMAIL,
    BY_OIDC,
    BY_PASSKEY,
    CHANGES,
    Named,
    World,
    enrolled,
    identity_world,
    rows_lost,
)

PENDING = "pending-enrol.json"
PARTS = ("broker", "credentials", "audit")
BY_WALLET = ("--identity", "evm")
NAMES = {"email": BY_EMAIL, "oidc": BY_OIDC, "passkey": BY_PASSKEY}


@pytest.fixture
def world(deployment: Deployment, tmp_path: Path) -> Iterator[World]:
    with identity_world(deployment, tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceremony, "WAIT_S", 0.0)


@contextmanager
def answering(world: World, *parts: str, reason: Reason | None = None) -> Iterator[None]:
    """These parts pass no change on: they hang up, or refuse by that name."""

    def answer(_: bytes) -> Reply:
        if reason is None:
            raise ConnectionError
        return problem(reason, 503)

    for part in parts:
        world.deployment.hooks[part, CHANGES] = answer
    yield
    for part in parts:
        del world.deployment.hooks[part, CHANGES]


def sent_in_vain(world: World, person: Named) -> Person:
    """Somebody whose wallet signed an Enrol that reached nobody, while the same wallet was bound elsewhere."""
    made, elsewhere = person("made"), person("elsewhere")
    elsewhere.wallet_file = made.wallet_file
    with answering(world, *PARTS):
        assert made.init().reason == "unreachable"
    enrolled(elsewhere.init())
    return made


@pytest.mark.parametrize("words", NAMES.values(), ids=NAMES)
def test_a_wallet_that_is_bound_elsewhere_stands_in_no_other_identitys_way(
    world: World, person: Named, words: tuple[str, ...]
) -> None:
    enrolled(sent_in_vain(world, person).init(*words))


def test_the_refusal_of_what_is_asked_for_is_told_once_more_and_the_enrol_forgotten(
    world: World, person: Named
) -> None:
    made = sent_in_vain(world, person)
    told = made.init()
    assert (told.code, told.reason) == (7, "already_bound")
    assert not (made.home / PENDING).exists()


@pytest.mark.parametrize("sent", ["wallet", *NAMES])
@pytest.mark.parametrize("asked", ["wallet", "page", *NAMES])
def test_an_enrol_that_went_through_is_reported_as_no_other_identitys(
    world: World, person: Named, sent: str, asked: str
) -> None:
    ada = person("ada")
    with rows_lost(world):
        assert ada.init(*NAMES.get(sent, ())).reason == "unreachable"
    found = ada.init(*({"page": BY_WALLET} | NAMES).get(asked, ()))
    if sent == asked or (sent, asked) == ("wallet", "page"):
        enrolled(found)
    else:
        assert (found.code, found.reason) == (7, "already_initialised")
    assert ada("whoami").data["status"] == "registered"
    assert not (ada.home / PENDING).exists()


@pytest.mark.parametrize("words", NAMES.values(), ids=NAMES)
def test_one_parts_refusal_gives_up_nothing(world: World, person: Named, words: tuple[str, ...]) -> None:
    """A broker that says no while the workers are cut off: the registry may have it all the same."""
    ada = person("ada")
    with rows_lost(world):
        assert ada.init(*words).reason == "unreachable"
    kept = (ada.home / PENDING).read_bytes()
    with answering(world, "broker", reason=Reason.ALREADY_BOUND), answering(world, "credentials", "audit"):
        assert ada.init(*words).reason == "unreachable"
    assert (ada.home / PENDING).read_bytes() == kept
    enrolled(ada.init(*words))


@pytest.mark.parametrize(
    "reason", [Reason.OVERLOADED, Reason.RATE_LIMITED, Reason.REGISTRY_UNREACHABLE, Reason.SEALED, Reason.INTERNAL]
)
@pytest.mark.parametrize("words", [(), BY_PASSKEY], ids=["the same", "another"])
def test_what_says_nothing_of_the_enrol_gives_up_nothing(
    world: World, person: Named, reason: Reason, words: tuple[str, ...]
) -> None:
    ada = person("ada")
    with rows_lost(world):
        assert ada.init().reason == "unreachable"
    with answering(world, *PARTS, reason=reason):
        assert ada.init(*words).reason == str(reason)
    assert not world.begun
    enrolled(ada.init())


@pytest.mark.parametrize("by", ['"by":"somebody"', '"by":7', '"of":"evm"'])
def test_a_damaged_file_is_told_by_name(world: World, person: Named, by: str) -> None:
    ada = person("ada")
    with answering(world, *PARTS):
        assert ada.init().reason == "unreachable"
    text = (ada.home / PENDING).read_text()
    assert '"by":"evm"' in text
    (ada.home / PENDING).write_text(text.replace('"by":"evm"', by))
    outcome = ada.init()
    assert (outcome.code, outcome.reason) == (2, "bad_file")
    assert PENDING in outcome.err


def test_the_kind_that_is_kept_is_the_one_that_was_asked_for(world: World, person: Named) -> None:
    ada = person("ada")
    with answering(world, *PARTS):
        assert ada.init(*BY_EMAIL).reason == "unreachable"
    text = (ada.home / PENDING).read_text()
    assert '"by":"email"' in text
    assert identity_omni(IdentityType.EMAIL, "ada.lovelace@people.test").hex() in text
