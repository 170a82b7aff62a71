"""A K10 that is gone: said by name, never replaced unasked, and asked for anew where K11 is still here."""

import shutil
import time
from pathlib import Path

import pytest

from agentkeys_core.encoding import hex_encode
from device.home import Home
from device.keys import K10
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment
from tests.unit.device.masters_kit import Named, device_of, offer, state_of
from tests.unit.device.real_registry import RealRegistry
from tests.unit.device.rotation_kit import DAYS_3_S, applied_unheard, hang_up, hooked, in_force, key_in, leftovers

pytestmark = pytest.mark.usefixtures("quick")


# --- said by name


def test_init_over_a_lost_key_says_so_and_makes_no_other(first: Person) -> None:
    (first.home / "k10.json").unlink()
    for words in (("--wallet-key-file", first.wallet_file), ("--identity", "passkey"), ()):
        refused = first.init(*words)
        assert (refused.code, refused.reason) == (1, "k10_missing")
        assert "rotate --lost" in refused.err
    assert not (first.home / "k10.json").exists()
    assert {first(*words).reason for words in (("whoami",), ("device", "rotate"), ("freeze",))} == {"k10_missing"}


def test_an_agents_lost_key_is_told_too(agent: Person) -> None:
    (agent.home / "k10.json").unlink()
    told = agent("cred", "list")
    assert (told.code, told.reason) == (1, "k10_missing")
    assert "pair this machine anew" in told.err
    again = agent("pair", "--operator", "00" * 32, *agent.profile_words(), "--out", agent.home / "offer")
    assert again.reason == "k10_missing"
    assert not (agent.home / "k10.json").exists()


def test_what_was_begun_with_a_lost_key_is_not_gone_on_with(
    registry: RealRegistry, deployment: Deployment, person: Named, first: Person, tmp_path: Path
) -> None:
    enrolling, offered = person("enrolling"), person("offered")
    with hooked(deployment, hang_up):
        assert enrolling.init().reason == "unreachable"
    offer(offered, first, tmp_path / "offer")
    for made in (enrolling, offered):
        (made.home / "k10.json").unlink()
        assert made.init().reason == "k10_missing"
        assert not (made.home / "k10.json").exists()


def test_a_folder_that_never_had_a_key_gets_one(first: Person, person: Named) -> None:
    """Setting up was stopped between the profile and the key."""
    made = person("made")
    assert made.init().code == 0
    for name in ("k10.json", "identity.json"):
        (made.home / name).unlink()
    assert made("whoami").reason == "not_initialised"
    assert made.init("--identity", "oidc", "--client-id", "c").data["status"] == "id_token_needed"


# --- asked for anew


def lose(person: Person) -> bytes:
    """Its hash."""
    old = device_of(person)
    (person.home / "k10.json").unlink()
    return old


def test_a_lost_key_is_replaced_in_72_hours(registry: RealRegistry, first: Person) -> None:
    old = lose(first)
    asked = first("device", "rotate", "--lost", hex_encode(old))
    assert asked.code == 0, asked.err
    new = device_of(first)
    listed = first("device", "list")
    assert listed.data["rotations"][0]["device"] == hex_encode(old)
    assert asked.data["due_at"] == listed.data["rotations"][0]["due_at"]
    assert "agentkeys freeze" in listed.err
    assert not leftovers(first)
    registry.here.clock.at = time.time() + DAYS_3_S
    registry.here.registry.settle()
    devices = state_of(registry, first).devices
    assert (devices[old].revoked, devices[new].revoked) == (True, False)


def test_a_request_whose_answer_was_lost_waits_from_the_first_time(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    old = lose(first)
    words = ("device", "rotate", "--lost", hex_encode(old))
    with hooked(deployment, applied_unheard(registry)):
        assert first(*words).reason == "unreachable"
    new = device_of(first)
    due_at = state_of(registry, first).rotations[old].due_at
    registry.here.clock.at = time.time() + 3600
    again = first(*words)
    assert again.code == 0, again.err
    assert (again.data["due_at"], again.data["device"]) == (due_at, hex_encode(new))
    assert state_of(registry, first).rotations[old].due_at == due_at
    assert not leftovers(first)


def test_a_request_that_a_freeze_cancelled_is_made_anew(
    registry: RealRegistry, deployment: Deployment, first: Person, second: Person
) -> None:
    old = lose(first)
    words = ("device", "rotate", "--lost", hex_encode(old))
    with hooked(deployment, applied_unheard(registry)):
        assert first(*words).reason == "unreachable"
    assert second("freeze").code == 0
    assert second("unfreeze").code == 0
    assert not state_of(registry, second).rotations
    assert first(*words).code == 0
    assert old in state_of(registry, second).rotations


def test_another_key_that_waits_is_not_taken_for_this_one(
    registry: RealRegistry, deployment: Deployment, first: Person, person: Named
) -> None:
    """Two folders hold a copy of the same K11: the later request took the earlier one's place."""
    old = lose(first)
    words = ("device", "rotate", "--lost", hex_encode(old))
    with hooked(deployment, applied_unheard(registry)):
        assert first(*words).reason == "unreachable"
    other = person("other")
    shutil.copytree(first.home, other.home)
    for name in ("k10.json", "pending-rotation.json"):
        (other.home / name).unlink()
    assert other(*words).code == 0
    again = first(*words)  # its own request is gone from the registry, whose row of it came all the same
    assert again.code == 0, again.err
    with Home.open(first.home) as home:
        own = K10.load(home)
    assert own is not None
    assert state_of(registry, first).rotations[old].new_address == own.address


def test_a_request_whose_time_has_come_says_so(registry: RealRegistry, deployment: Deployment, first: Person) -> None:
    words = ("device", "rotate", "--lost", hex_encode(lose(first)))
    with hooked(deployment, applied_unheard(registry)):
        assert first(*words).reason == "unreachable"
    registry.here.clock.at = time.time() + DAYS_3_S
    registry.here.registry.settle()
    done = first(*words)
    assert (done.code, done.data["due_at"]) == (0, None), done.err
    assert in_force(registry, state_of(registry, first).operator_omni) == {device_of(first)}


def test_a_key_that_was_lost_on_the_way_to_the_next_is_not_missed(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    """The rotation had gone through: its new key is in the folder, and is taken in place of yet another one."""
    with hooked(deployment, applied_unheard(registry)):
        assert first("device", "rotate").reason == "unreachable"
    coming = key_in(first, "k10-next.json")
    done = first("device", "rotate", "--lost", hex_encode(lose(first)))
    assert (done.code, done.data["due_at"]) == (0, None), done.err
    assert device_of(first) == coming
    assert in_force(registry, state_of(registry, first).operator_omni) == {coming}


def test_a_key_that_is_here_is_not_lost(registry: RealRegistry, first: Person) -> None:
    assert first("device", "rotate", "--lost", hex_encode(device_of(first))).reason == "usage"
