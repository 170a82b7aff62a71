"""Pairing and the console against real processes: a machine that nobody knew reads a credential in the end."""

import threading

import pytest

from device.agents import add_agent
from device.credentials import get, put
from device.errors import DeviceError, Trouble
from device.pairing_desk import MachineSide, MasterSide
from device.profile_source import shared_profile
from device.setting_up import confirmed_profile
from tests.adversarial.town import Member, Town
from tests.unit.device.console_kit import console_at


def soon(_: float) -> None:
    """In place of a second's pause."""
    threading.Event().wait(0.05)


@pytest.fixture
def master(town: Town) -> Member:
    return town.master()


def test_a_machine_is_paired_and_reads(town: Town, master: Member) -> None:
    put(master.device, "openrouter", b"value")
    machine_device = town.device()
    machine = MachineSide(machine_device, pause=soon)
    begun = machine.begin(label="research", services=("cred:openrouter",))
    side = MasterSide(master.device, pause=soon)
    claimed = side.claim(begun.code)
    assert claimed.hash == begun.hash
    operator = machine.claimed_by(begun)
    assert operator == master.who.operator
    machine.agree(begun, operator)
    add_agent(master.device, side.offer(claimed), label="research", generation=0, services=claimed.services)
    assert machine.registered().label == "research"
    assert get(machine_device, "openrouter").value == b"value"


def test_the_broker_serves_the_profile_to_whoever_knows_its_hash(town: Town, master: Member) -> None:
    address = shared_profile(master.device)
    assert address == f"{master.device.profile.broker}/v1/profile"
    assert confirmed_profile(address, town.stack.profile_hash) == master.device.profile
    with pytest.raises(DeviceError) as caught:
        confirmed_profile(address, "00" * 32)
    assert caught.value.reason is Trouble.PROFILE_HASH_MISMATCH


def test_the_console_works_on_a_real_deployment(master: Member) -> None:
    put(master.device, "openrouter", b"value")
    with console_at(master.device.home.path) as visitor:
        assert "your wallet, high assurance" in visitor.get("/page/devices").text
        visitor.send("/do", what="freeze")
        visitor.answer("confirmed")
        assert "is frozen" in visitor.get("/page/job").text
        visitor.send("/do", what="unfreeze")
        visitor.answer("confirmed")
        assert "has ended" in visitor.get("/page/job").text
        trail = visitor.get("/page/audit").text
        assert "rows are genuine" in trail
        assert all(kind in trail for kind in ("freeze", "unfreeze", "cred-store", "device-add"))
