"""The broker's database: the same on SQLite and on PostgreSQL, for threads, processes and restarts."""

import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Engine, text

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from broker.adapters.store.ceremony_table import SqlCeremonies
from broker.adapters.store.counters import SqlCounters, SqlRedemptions
from broker.adapters.store.engine import database_url, forgetful, open_engine, transaction
from broker.adapters.store.session_table import SqlSessions
from broker.adapters.store.tables import metadata
from broker.adapters.store.use_table import SqlDeviceUses
from broker.ports import Ceremony, CeremonyKind, CeremonyState, DeviceUse, Session, SignInMethod
from tests.fakes.postgres import Postgres


@pytest.fixture
def engine(database: URL) -> Iterator[Engine]:
    made = open_engine(database)
    yield made
    made.dispose()


def at_once(work: Callable[[], bool], times: int = 8) -> list[bool]:
    """What `work` returns when several threads begin it together."""
    start, results = threading.Barrier(times), list[bool]()

    def run() -> None:
        start.wait()
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_migrations_make_the_very_tables_that_the_code_uses(engine: Engine) -> None:
    with engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []


def test_brokers_that_start_at_once_migrate_once(database: URL) -> None:
    def start() -> bool:
        open_engine(database).dispose()
        return True

    assert at_once(start, 4) == [True] * 4


def test_a_database_of_a_newer_program_is_refused(database: URL) -> None:
    engine = open_engine(database)
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="version"):
        open_engine(database)


def test_counts_stop_at_the_limit_and_begin_anew_in_each_window(engine: Engine) -> None:
    counters = SqlCounters(engine)
    assert [counters.count(b"a", until=60, limit=2, now=1) for _ in range(3)] == [True, True, False]
    assert counters.count(b"b", until=60, limit=2, now=1)
    assert counters.count(b"a", until=120, limit=2, now=61)
    with engine.connect() as conn:
        assert [tuple(row) for row in conn.execute(text("SELECT until, n FROM counts"))] == [(120, 1)]


def test_counts_are_shared_by_processes_and_survive_a_restart(database: URL) -> None:
    one, two = open_engine(database), open_engine(database)
    assert SqlCounters(one).count(b"a", until=60, limit=1, now=1)
    assert not SqlCounters(two).count(b"a", until=60, limit=1, now=1)
    one.dispose()
    two.dispose()
    three = open_engine(database)
    assert not SqlCounters(three).count(b"a", until=60, limit=1, now=1)
    three.dispose()


def test_threads_never_get_more_than_the_limit(engine: Engine) -> None:
    counters = SqlCounters(engine)
    granted = at_once(lambda: counters.count(b"a", until=60, limit=5, now=1), 8)
    assert granted.count(True) == 5


def test_what_may_be_used_once_is_used_once(engine: Engine) -> None:
    redemptions = SqlRedemptions(engine)
    assert at_once(lambda: redemptions.redeem(b"code", expires_at=100, now=50)).count(True) == 1
    assert not SqlRedemptions(engine).redeem(b"code", expires_at=100, now=99)
    assert redemptions.redeem(b"another", expires_at=100, now=99)


def test_what_was_used_is_forgotten_after_its_time(engine: Engine) -> None:
    redemptions = SqlRedemptions(engine)
    for number in range(3):
        redemptions.redeem(bytes([number]), expires_at=100, now=50)
    redemptions.redeem(b"later", expires_at=300, now=200)
    with engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM redeemed")).scalar() == 1


def session(number: int, *, operator: int = 1, expires_at: int = 100) -> Session:
    return Session(
        id=bytes([number]) * 16,
        device=bytes([number]) * 32,
        operator=bytes([operator]) * 32,
        actor=bytes([operator]) * 32,
        method=SignInMethod.DEVICE,
        created_at=10 + number,
        expires_at=expires_at,
    )


def test_sessions_are_found_listed_and_ended(engine: Engine) -> None:
    sessions = SqlSessions(engine)
    mine, also, other = session(1), session(2), session(3, operator=2)
    for one in (mine, also, other):
        sessions.add(one, keep=8)
    assert sessions.find(mine.id) == mine
    assert sessions.find(bytes(16)) is None
    assert list(sessions.of_operator(mine.operator, device=None, now=50)) == [also, mine]
    assert not sessions.revoke(mine.id, operator=other.operator, device=None, now=51)
    assert sessions.revoke(mine.id, operator=mine.operator, device=None, now=51)
    assert not sessions.revoke(mine.id, operator=mine.operator, device=None, now=52)
    ended = sessions.find(mine.id)
    assert ended is not None
    assert ended.revoked_at == 51
    assert list(sessions.of_operator(mine.operator, device=None, now=50)) == [also]
    assert list(sessions.of_operator(mine.operator, device=None, now=100)) == []


def test_sessions_that_are_over_are_forgotten(engine: Engine) -> None:
    sessions = SqlSessions(engine)
    sessions.add(session(1, expires_at=11), keep=8)
    sessions.add(session(9), keep=8)
    assert sessions.find(session(1).id) is None


def test_a_device_keeps_its_newest_sessions_and_touches_nobody_elses(engine: Engine) -> None:
    sessions = SqlSessions(engine)
    other = session(9)
    sessions.add(other, keep=3)
    made = [replace(session(1), id=bytes([number]) * 16, created_at=number) for number in range(20, 26)]
    for number, one in enumerate(made):
        sessions.add(one, keep=3)
        assert sessions.find(one.id) == one
        if number == 2:
            assert sessions.revoke(one.id, operator=one.operator, device=one.device, now=30)
    assert list(sessions.of_operator(other.operator, device=made[0].device, now=50)) == made[:2:-1]
    assert [sessions.find(one.id) for one in made[:3]] == [None] * 3
    assert sessions.find(other.id) == other
    assert not sessions.revoke(other.id, operator=other.operator, device=made[0].device, now=51)


def test_what_was_used_up_is_on_the_disk_before_it_is_believed(tmp_path: Path) -> None:
    engine = open_engine(database_url(None, tmp_path))
    for _ in range(2):  # a connection is used for both, in turn
        with transaction(engine) as conn:
            assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        with transaction(forgetful(engine)) as conn:
            assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
    engine.dispose()


def use(number: int, at: int, *, operator: int = 1) -> DeviceUse:
    return DeviceUse(bytes([number]) * 32, bytes([operator]) * 32, at)


def test_last_uses_go_forward_only_and_are_told_by_user(engine: Engine) -> None:
    uses = SqlDeviceUses(engine)
    uses.keep([])
    uses.keep([use(2, 120), use(1, 60), use(3, 60, operator=2)])
    uses.keep([use(1, 180), use(2, 60)])
    assert uses.of_operator(bytes([1]) * 32) == {bytes([1]) * 32: 180, bytes([2]) * 32: 120}
    assert SqlDeviceUses(engine).of_operator(bytes([2]) * 32) == {bytes([3]) * 32: 60}
    assert uses.of_operator(bytes(32)) == {}


def test_processes_that_keep_the_same_uses_do_not_lock_each_other_out(database: URL) -> None:
    engines = [open_engine(database), open_engine(database)]
    many = [use(number, 60) for number in range(200)]
    orders = iter([many, many[::-1]] * 4)

    def keep() -> bool:
        order = next(orders)
        SqlDeviceUses(engines[order[0].device[0] > 0]).keep(order)
        return True

    assert at_once(keep) == [True] * 8
    assert len(SqlDeviceUses(engines[0]).of_operator(bytes([1]) * 32)) == 200
    for engine in engines:
        engine.dispose()


def test_a_database_that_is_gone_is_a_named_refusal(tmp_path: Path, postgres: Postgres) -> None:
    engine = open_engine(database_url(postgres.database(), tmp_path))
    counters = SqlCounters(engine)
    assert counters.count(b"a", until=60, limit=9, now=1)
    postgres.stop()
    try:
        with pytest.raises(KeyServiceError) as caught:
            counters.count(b"a", until=60, limit=9, now=1)
        assert caught.value.reason is Reason.OVERLOADED
    finally:
        postgres.start()
    assert counters.count(b"a", until=60, limit=9, now=1)  # it comes back by itself
    engine.dispose()


def test_a_state_file_is_private_and_no_link(tmp_path: Path) -> None:
    open_engine(database_url(None, tmp_path)).dispose()
    assert stat.S_IMODE((tmp_path / "broker.db").stat().st_mode) == 0o600


def test_a_state_file_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broker.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        open_engine(database_url(None, tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    junk = b"not a database at all, and long enough to be looked at" * 20
    (tmp_path / "broker.db").write_bytes(junk)
    with pytest.raises(ConfigError):
        open_engine(database_url(None, tmp_path))
    assert (tmp_path / "broker.db").read_bytes() == junk


def test_a_file_of_the_time_before_migrations_is_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "broker.db") as conn:
        conn.execute("CREATE TABLE counts (name BLOB NOT NULL, minute INTEGER NOT NULL, n INTEGER NOT NULL)")
    conn.close()
    engine = open_engine(database_url(None, tmp_path))
    assert SqlCounters(engine).count(b"a", until=60, limit=1, now=1)
    engine.dispose()


def test_a_ceremony_moves_on_from_the_state_that_was_read(engine: Engine) -> None:
    ceremonies = SqlCeremonies(engine)
    known = Ceremony(
        id=bytes(16),
        kind=CeremonyKind.EMAIL,
        state=CeremonyState.PENDING,
        device=bytes(32),
        secret=bytes(32),
        created_at=1,
        expires_at=2,
        detail=b"{}",
    )
    ceremonies.add(known)
    for other in (CeremonyState.CLAIMED, CeremonyState.AUTHENTICATED, CeremonyState.CONFIRMED):
        assert not ceremonies.move(replace(known, state=other), replace(known, expires_at=3))
    assert ceremonies.find(known.id) == known
    assert ceremonies.move(known, replace(known, state=CeremonyState.CONFIRMED))
    assert not ceremonies.move(known, replace(known, expires_at=3))
