"""The registry as a store: caches that never outlive a change, heads that cannot go back, errors that have names."""

import hmac
import random
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.keys import DeviceKey
from agentkeys_runtime.registry_cache import StateCache
from signer.adapters.committer import Committer
from signer.adapters.registry_stamp import SharedStamp
from signer.journal import verify_journal
from signer.registry_head import GENESIS, RegistryHead, chained, mac_message
from tests.fakes.registry_kit import DOMAIN, REGISTRY_ID, Opened, Person, SetClock, opened
from tests.unit.core.refusal import refused


def enrolled(signer: Opened) -> tuple[Person, DeviceKey]:
    person, agent = Person(), DeviceKey.generate()
    signer.registry.apply(person.enrol())
    signer.registry.apply(person.add_agent(agent, 1))
    return person, agent


def revoked(signer: Opened, device: DeviceKey) -> bool:
    state = signer.registry.lookup_device(device.key_hash)
    assert state is not None
    return state.devices[device.key_hash].revoked


def test_starts_with_a_status_and_an_empty_head(here: Opened) -> None:
    status = here.registry.status()
    assert (status.registry_id, status.k3_epoch, status.incarnation) == (REGISTRY_ID, 1, 1)
    assert (here.registry.head().sequence, here.registry.head().hash) == (0, GENESIS)
    assert here.registry.lookup_device(bytes(32)) is None
    assert here.registry.operator(bytes(32)) is None
    assert here.registry.k11_by_credential(bytes(32)) is None


def test_head_chains_over_every_change_and_carries_a_mac(here: Opened) -> None:
    person, agent = enrolled(here)
    expected = GENESIS
    changes = (person.enrol(), person.add_agent(agent, 1))
    for number, signed in enumerate(changes, start=1):
        expected = chained(expected, sequence=number, operator_omni=person.operator, digest=signed.digest(DOMAIN))
    head = here.registry.head()
    assert (head.sequence, head.hash, head.epoch) == (2, expected, 1)
    message = mac_message(REGISTRY_ID, incarnation=1, sequence=2, head=expected)
    assert hmac.compare_digest(head.mac, here.keyring.journal_mac(1, message))
    listed = here.registry.changes_after(0)
    assert [(change.sequence, change.type) for change in listed] == [(1, "Enrol"), (2, "AddAgent")]
    assert [change.digest for change in listed] == [signed.digest(DOMAIN) for signed in changes]
    assert here.registry.changes_after(1) == listed[1:]


def test_journal_names_every_change_with_its_row(here: Opened) -> None:
    enrolled(here)
    report = verify_journal(here.database.reader(), here.keyring)
    assert (report.lines, report.rows) == (3, 2)


def test_a_refused_change_leaves_no_trace(here: Opened) -> None:
    person, _ = enrolled(here)
    before = here.database.reader().execute("SELECT count(*) FROM journal").fetchone()
    with refused("change_not_authorised"):
        here.registry.apply(person.approved(person.set_scope(7, grant=("cred:a",))))
    assert here.database.reader().execute("SELECT count(*) FROM journal").fetchone() == before


def test_reads_come_from_the_cache_until_a_change(here: Opened) -> None:
    person, agent = enrolled(here)
    first = here.registry.lookup_device(agent.key_hash)
    assert here.registry.lookup_device(agent.key_hash) is first
    assert here.registry.operator(person.operator) is first
    other = Person()
    here.registry.apply(other.enrol())
    assert here.registry.lookup_device(agent.key_hash) is first  # somebody else's change
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    assert revoked(here, agent)


def test_cached_lookups_hardly_ask_the_file(here: Opened) -> None:
    _, agent = enrolled(here)
    lookup = here.registry.lookup_device
    lookup(agent.key_hash)
    asked: list[str] = []
    here.database.reader().set_trace_callback(asked.append)
    for _ in range(1000):
        lookup(agent.key_hash)
    here.database.reader().set_trace_callback(None)
    assert len(asked) < 200  # only what looks for other processes' changes every 200 ms


def test_another_process_notices_at_once_by_the_stamp(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        person, agent = enrolled(one)
        assert not revoked(two, agent)
        one.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
        assert revoked(two, agent)


def test_another_process_notices_without_the_stamp_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process that committed had been killed before its second stamp."""
    with opened(tmp_path) as one, opened(tmp_path) as two:
        person, agent = enrolled(one)
        two.registry.lookup_device(agent.key_hash)
        monkeypatch.setattr(SharedStamp, "bump", lambda _: None)
        one.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
        started = time.monotonic()
        while not revoked(two, agent):
            assert time.monotonic() - started < 1
            time.sleep(0.01)


def test_a_new_epoch_or_incarnation_is_noticed(here: Opened) -> None:
    person, _ = enrolled(here)
    assert here.state(person).k3_epoch == 1
    here.committer.run(
        lambda tx: tx.conn.executemany("UPDATE meta SET value = ? WHERE key = ?", [(2, "k3_epoch"), (3, "incarnation")])
    )
    time.sleep(0.25)
    assert (here.state(person).k3_epoch, here.state(person).incarnation) == (2, 3)


def test_wait_for_change_returns_at_a_change_of_any_process(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        assert not two.registry.wait_for_change(0.1, after=0)
        person = Person()
        applying = threading.Timer(0.2, lambda: one.registry.apply(person.enrol()))
        applying.start()
        started = time.monotonic()
        assert two.registry.wait_for_change(5, after=0)
        assert time.monotonic() - started < 1
        applying.join()
        assert two.registry.wait_for_change(0, after=0)


def test_waiting_costs_next_to_nothing(here: Opened) -> None:
    started = time.thread_time()
    here.registry.wait_for_change(1, after=0)
    assert time.thread_time() - started < 0.1


def test_the_same_change_from_many_threads_and_processes_is_applied_once(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:
        person = Person()
        signed = person.enrol()
        rows: list[bytes] = []
        threads = [
            threading.Thread(target=lambda side=side: rows.append(side.registry.apply(signed)))
            for side in (one, two) * 4
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(rows) == 8
        assert len(set(rows)) == 1
        assert one.registry.head().sequence == 1


# --- roll-back


def authentic(signer: Opened, sequence: int, digest: bytes, *, incarnation: int = 1) -> RegistryHead:
    message = mac_message(REGISTRY_ID, incarnation=incarnation, sequence=sequence, head=digest)
    return RegistryHead(sequence=sequence, hash=digest, mac=signer.keyring.journal_mac(1, message), epoch=1)


def test_a_head_that_this_registry_has_is_no_news(here: Opened) -> None:
    enrolled(here)
    here.registry.check_known(RegistryHead(sequence=0, hash=b"", mac=b"", epoch=0), caller="worker")
    here.registry.check_known(here.registry.head(), caller="worker")
    assert not here.keyring.sealed


def test_a_newer_head_with_our_mac_seals_the_signer_and_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as here, opened(tmp_path) as other:
        person, agent = enrolled(here)
        newer = authentic(here, 3, bytes(32))
        with refused("registry_rolled_back"):
            here.registry.check_known(newer, caller="worker-1")
        assert here.keyring.sealed
        assert here.sealed == ["all"]
        with refused("registry_rolled_back"):
            here.registry.lookup_device(agent.key_hash)
        with refused("registry_rolled_back"):
            here.registry.apply(person.freeze())
        lines = [line for (line,) in here.database.reader().execute("SELECT line FROM journal ORDER BY seq")]
        assert b"registry_rolled_back" in lines[-1]
        assert b"worker-1" in lines[-1]
        time.sleep(0.25)
        with refused("registry_rolled_back"):  # the other process learns of it by the shared high water
            other.registry.lookup_device(agent.key_hash)
        assert other.keyring.sealed
    with refused("registry_rolled_back"), opened(tmp_path):  # nor does a restart heal it
        pass


def test_another_history_under_our_mac_seals_too(here: Opened) -> None:
    enrolled(here)
    with refused("registry_rolled_back"):
        here.registry.check_known(authentic(here, 2, b"\1" * 32), caller="worker")
    assert here.keyring.sealed


@pytest.mark.parametrize(
    "change", [{"mac": bytes(32)}, {"mac": b""}, {"sequence": 2**64 - 1}, {"epoch": 9}, {"hash": b"x"}]
)
def test_a_head_without_our_mac_says_nothing(here: Opened, change: dict[str, Any]) -> None:
    enrolled(here)
    here.registry.check_known(replace(authentic(here, 9, bytes(32)), **change), caller="broker")
    here.registry.check_known(authentic(here, 9, bytes(32), incarnation=2), caller="broker")
    assert not here.keyring.sealed


def test_a_database_that_goes_back_under_a_running_signer_seals_it(here: Opened) -> None:
    enrolled(here)
    with here.database.connect() as conn:
        conn.execute("DELETE FROM registry_changes WHERE sequence = 2")
    conn.close()
    time.sleep(0.25)
    with refused("registry_rolled_back"):
        here.registry.status()
    assert here.keyring.sealed


def test_a_restored_file_without_a_new_incarnation_is_noticed_at_start(tmp_path: Path) -> None:
    with opened(tmp_path) as signer:
        person = Person()
        signer.registry.apply(person.enrol())
        with signer.database.connect() as conn:
            conn.execute("VACUUM INTO ?", (str(tmp_path / "backup.sqlite"),))
        conn.close()
        signer.registry.apply(person.freeze())
    for name in ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup.sqlite").rename(tmp_path / "state.sqlite")
    with refused("registry_rolled_back"), opened(tmp_path):
        pass


def test_a_head_that_somebody_wrote_into_the_file_is_noticed(here: Opened) -> None:
    enrolled(here)
    with here.database.connect() as conn:
        conn.execute("UPDATE registry_changes SET head = zeroblob(32) WHERE sequence = 2")
    conn.close()
    with refused("registry_rolled_back"):
        here.registry.head()
    assert here.keyring.sealed


def test_a_sealed_signer_serves_no_head_and_applies_nothing(here: Opened) -> None:
    person, _ = enrolled(here)
    here.keyring.seal()
    with refused("sealed"):
        here.registry.head()
    with refused("sealed"):
        here.registry.apply(person.freeze())


# --- failures


def test_a_registry_that_cannot_be_read_answers_nothing(here: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    person, agent = enrolled(here)
    here.registry.lookup_device(agent.key_hash)

    def broken() -> sqlite3.Connection:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(here.database, "reader", broken)
    time.sleep(0.25)  # what is cached counts for 200 ms, no longer
    for read in (
        lambda: here.registry.lookup_device(agent.key_hash),
        lambda: here.registry.operator(person.operator),
        lambda: here.registry.k11_by_credential(bytes(32)),
        here.registry.status,
        here.registry.head,
        lambda: here.registry.apply(person.freeze()),
    ):
        with refused("registry_unreachable"):
            read()


def test_a_locked_database_applies_nothing(here: Opened) -> None:
    person, _ = enrolled(here)
    conn = here.database.connect()
    conn.execute("BEGIN IMMEDIATE")
    try:
        with refused("journal_unavailable"):
            here.registry.apply(person.freeze())
        assert not here.state(person).frozen
    finally:
        conn.execute("ROLLBACK")
        conn.close()
    here.registry.apply(person.freeze())
    assert here.state(person).frozen


def test_a_clock_that_is_behind_applies_nothing(tmp_path: Path) -> None:
    clock = SetClock()
    with opened(tmp_path, clock=clock) as here:
        person, _ = enrolled(here)
        clock.at -= 120
        person.now -= 120
        with refused("clock_behind"):
            here.registry.apply(person.freeze())


def test_stale_states_read_before_a_change_are_not_kept(here: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that began before a change and ends after it must not put the old state into the cache."""
    person, agent = enrolled(here)
    here.registry._cache.clear()
    from signer.adapters import registry_store

    real = registry_store.read_operator
    started, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        state = real(*args, **kwargs)
        if threading.current_thread() is reader:
            started.set()
            go_on.wait(5)
        return state

    monkeypatch.setattr(registry_store, "read_operator", slow)
    reader = threading.Thread(target=lambda: here.registry.lookup_device(agent.key_hash))
    reader.start()
    started.wait(5)
    here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
    go_on.set()
    reader.join()
    assert revoked(here, agent)


def test_cache_is_bounded_by_what_its_states_hold(here: Opened) -> None:
    person, _ = enrolled(here)
    state = here.state(person)
    cache = StateCache(records=100)
    names = [random.Random(number).randbytes(32) for number in range(1000)]
    for name in names:
        cache.put(replace(state, operator_omni=name), name)
    held = sum(cache.of_operator(name) is not None for name in names)
    assert 10 <= held <= 200 // 4 + 1
    assert cache.of_device(names[-1]) is not None
    cache.drop([names[-1]])
    assert cache.of_device(names[-1]) is None


def test_stamp_file_is_private(tmp_path: Path) -> None:
    stamp = SharedStamp(tmp_path / "stamp")
    try:
        assert (tmp_path / "stamp").stat().st_mode & 0o777 == 0o600
        stamp.raise_high_water(1, 5)
        stamp.raise_high_water(1, 3)
        assert (stamp.high_water(1), stamp.high_water(2)) == (5, 0)
        stamp.raise_high_water(2, 1)
        assert (stamp.high_water(1), stamp.high_water(2)) == (0, 1)
    finally:
        stamp.close()


def test_a_stopped_committer_applies_nothing(here: Opened) -> None:
    person, _ = enrolled(here)
    assert isinstance(here.committer, Committer)
    here.committer.close()
    with refused("journal_unavailable"):
        here.registry.apply(person.freeze())
