"""A follower over real gRPC: sees changes at once, fails closed when the stream is silent, comes back by itself."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkeys.signer.v1 import registry_pb2
from agentkeys_core.audit import AuditRow
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_runtime.registry_client import RegistryChange, RegistryFollower
from tests.fakes.registry_kit import REGISTRY_ID, Opened, Person, opened
from tests.fakes.registry_server import RegistryServer, serving
from tests.unit.core.refusal import refused

MAX_AGE_S = 2.0


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Opened]:
    with opened(tmp_path) as signer:
        yield signer


@pytest.fixture
def server(here: Opened) -> Iterator[RegistryServer]:
    with serving(here) as server:
        yield server


@pytest.fixture
def follower(server: RegistryServer) -> Iterator[RegistryFollower]:
    with server.channel() as channel, RegistryFollower(channel, max_age_s=MAX_AGE_S) as follower:
        assert follower.wait_ready(5)
        yield follower


def enrolled(here: Opened) -> tuple[Person, DeviceKey]:
    person, agent = Person(), DeviceKey.generate()
    here.registry.apply(person.enrol())
    here.registry.apply(person.add_agent(agent, 1))
    return person, agent


def eventually(condition: Callable[[], bool], within_s: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - started


def reason_of(read: Callable[[], object]) -> Reason | None:
    try:
        read()
    except KeyServiceError as exc:
        return exc.reason
    return None


def revoked(reader: RegistryFollower, device: DeviceKey) -> bool:
    state = reader.lookup_device(device.key_hash)
    assert state is not None
    return state.devices[device.key_hash].revoked


def test_reads_what_the_registry_says(here: Opened, follower: RegistryFollower) -> None:
    person, agent = enrolled(here)
    assert follower.lookup_device(agent.key_hash) == here.state(person)
    assert follower.operator(person.operator) == here.state(person)
    assert follower.status() == (REGISTRY_ID, 1, 1)
    assert follower.lookup_device(bytes(32)) is None
    assert follower.operator(bytes(32)) is None


def test_reads_are_cached_until_that_operator_changes(
    here: Opened, server: RegistryServer, follower: RegistryFollower
) -> None:
    person, agent = enrolled(here)
    eventually(lambda: follower._view.sequence == 2, 2)
    follower.lookup_device(agent.key_hash)
    reads = server.reads
    here.registry.apply(Person().enrol())
    eventually(lambda: follower._view.sequence == 3, 2)
    follower.lookup_device(agent.key_hash)
    follower.operator(person.operator)
    assert server.reads == reads
    follower.lookup_device(agent.key_hash, reread=True)
    assert server.reads == reads + 1


def test_revocation_is_seen_within_a_second(here: Opened, follower: RegistryFollower) -> None:
    person, agent = enrolled(here)
    assert not revoked(follower, agent)
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    assert eventually(lambda: revoked(follower, agent), 1) < 1


def test_revocation_by_another_process_is_seen_within_a_second(
    here: Opened, tmp_path: Path, follower: RegistryFollower
) -> None:
    person, agent = enrolled(here)
    assert not revoked(follower, agent)
    with opened(tmp_path) as other:
        other.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
        eventually(lambda: revoked(follower, agent), 1)


def test_a_change_can_be_relayed_and_is_read_back_at_once(follower: RegistryFollower) -> None:
    person = Person()
    row = follower.apply(person.enrol().encode())
    assert AuditRow.parse(row).actor == person.operator
    for number in range(1, 4):
        state = follower.operator(person.operator)
        assert state is not None
        assert state.nonce == number
        follower.apply(person.add_agent(DeviceKey.generate(), number).encode())
    assert follower.apply(person.enrol().encode()) == row


def test_refusals_of_changes_keep_their_reason(follower: RegistryFollower) -> None:
    with refused("change_not_authorised"):
        follower.apply(Person().freeze().encode())
    with refused("invalid_change"):
        follower.apply(b"{")


def test_malformed_names_are_refused(follower: RegistryFollower) -> None:
    with refused("invalid_omni"):
        follower.operator(b"x")
    with refused("invalid_encoding"):
        follower.lookup_device(b"x")


def test_is_stale_before_anything_was_heard(here: Opened) -> None:
    server = RegistryServer(here)
    server.start()
    channel = server.channel()
    server.stop()
    with channel, RegistryFollower(channel) as follower:
        assert not follower.wait_ready(0.3)
        with refused("registry_stale"):
            follower.status()
        with refused("registry_unreachable"):
            follower.apply(Person().enrol().encode())


def test_a_silent_stream_fails_closed_and_recovers_by_itself(
    here: Opened, server: RegistryServer, follower: RegistryFollower
) -> None:
    person, agent = enrolled(here)
    assert not revoked(follower, agent)
    server.events_held = True
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    waited = eventually(lambda: reason_of(lambda: follower.lookup_device(agent.key_hash)) is not None, 2 * MAX_AGE_S)
    assert waited < MAX_AGE_S + 1
    for read in (lambda: follower.lookup_device(agent.key_hash), follower.status, lambda: follower.operator(bytes(32))):
        with refused("registry_stale"):
            read()
    server.events_held = False
    eventually(lambda: reason_of(follower.status) is None, 10)
    assert revoked(follower, agent)


def test_missed_changes_are_caught_up_after_a_restart_of_the_registry(
    here: Opened, server: RegistryServer, follower: RegistryFollower
) -> None:
    person, agent = enrolled(here)
    eventually(lambda: follower._view.sequence == 2, 2)
    assert not revoked(follower, agent)
    server.stop()
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    server.start()
    eventually(lambda: follower._view.sequence == 3, 5)
    assert revoked(follower, agent)
    assert server.watches[-1].after == 2
    assert server.watches[-1].known.sequence == 2


def test_a_registry_that_is_gone_is_unreachable_then_stale(
    here: Opened, server: RegistryServer, follower: RegistryFollower
) -> None:
    person, _ = enrolled(here)
    server.stop()
    with refused("registry_unreachable"):
        follower.operator(person.operator)
    eventually(lambda: reason_of(follower.status) == Reason.REGISTRY_STALE, MAX_AGE_S + 1)


def test_a_rolled_back_registry_is_noticed_and_seals_itself(tmp_path: Path) -> None:
    """The follower has seen change 2; the folder that is served afterwards ends at change 1, with the same keys."""
    person, agent = Person(), DeviceKey.generate()
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    with opened(old) as restored:
        restored.registry.apply(person.enrol())
    with opened(new) as signer, serving(signer) as server, server.channel() as channel:
        signer.registry.apply(person.enrol())
        signer.registry.apply(person.add_agent(agent, 1))
        with RegistryFollower(channel, max_age_s=MAX_AGE_S) as follower:
            assert follower.wait_ready(5)
            assert follower.lookup_device(agent.key_hash) is not None
            server.stop()
            with opened(old) as restored:
                replacement = RegistryServer(restored)
                replacement.port = server.port
                replacement.start()
                try:
                    eventually(lambda: restored.keyring.sealed, 10)
                    eventually(
                        lambda: (
                            reason_of(lambda: follower.lookup_device(agent.key_hash)) == Reason.REGISTRY_ROLLED_BACK
                        ),
                        10,
                    )
                finally:
                    replacement.stop()


def test_another_registry_at_the_same_address_is_refused(here: Opened, follower: RegistryFollower) -> None:
    with refused("registry_rolled_back"):
        follower._view.begin(registry_pb2.GetStatusResponse(registry_id="cd" * 32, incarnation=1))


def test_the_stream_ends_when_its_client_goes(server: RegistryServer) -> None:
    with server.channel() as channel:
        follower = RegistryFollower(channel, max_age_s=MAX_AGE_S)
        assert follower.wait_ready(5)
        assert server.active_streams == 1
        follower.close()
    eventually(lambda: server.active_streams == 0, 2)


def test_close_leaves_no_thread_and_answers_nothing(server: RegistryServer) -> None:
    before = set(threading.enumerate())
    with server.channel() as channel:
        follower = RegistryFollower(channel)
        assert follower.wait_ready(5)
        follower.close()
        follower.close()
        with refused("registry_stale"):
            follower.status()
        mine = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("registry-")]
        assert mine == []


def test_a_channel_closed_too_early_does_no_harm(server: RegistryServer) -> None:
    channel = server.channel()
    with RegistryFollower(channel, max_age_s=0.5) as follower:
        assert follower.wait_ready(5)
        channel.close()
        eventually(lambda: reason_of(follower.status) == Reason.REGISTRY_STALE, 5)
        with refused("registry_unreachable"):
            follower.apply(b"{}")


def test_the_stream_beats_at_once_and_every_second(here: Opened, follower: RegistryFollower) -> None:
    beats: list[float] = []
    original = follower._view.on_event

    def noting(event: registry_pb2.ChangeEvent) -> bool:
        beats.append(time.monotonic())
        return original(event)

    follower._view.on_event = noting  # type: ignore[method-assign]
    eventually(lambda: len(beats) >= 3, 5)
    assert 0.8 < beats[2] - beats[1] < 1.5


def test_keeps_up_with_many_changes(here: Opened, follower: RegistryFollower) -> None:
    people = [Person() for _ in range(20)]
    for person in people:
        here.registry.apply(person.enrol())
    eventually(lambda: follower._view.sequence == 20, 3)
    assert all(follower.operator(person.operator) is not None for person in people)


def test_each_change_is_told_in_its_order(here: Opened, server: RegistryServer) -> None:
    told: list[RegistryChange] = []
    third = threading.Event()

    def listen(change: RegistryChange) -> None:
        told.append(change)
        if len(told) == 3:
            third.set()

    with server.channel() as channel, RegistryFollower(channel, on_change=listen) as follower:
        assert follower.wait_ready(5)
        person, _ = enrolled(here)
        here.registry.apply(person.freeze())
        assert third.wait(5)
        assert [change.type for change in told] == ["Enrol", "AddAgent", "Freeze"]
        assert [change.sequence for change in told] == list(range(follower.sequence - 2, follower.sequence + 1))
        assert {change.operator_omni for change in told} == {person.operator}
        assert all(len(change.digest) == 32 for change in told)
