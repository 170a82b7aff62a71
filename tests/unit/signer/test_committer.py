"""One transaction a group: a unit's refusal is its own, a commit's failure is everybody's, and nothing stays of either."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind, OpResult
from agentkeys_core.errors import KeyServiceError
from signer.adapters.committer import Committer, Tx
from signer.adapters.database import open_state
from signer.journal import JournalLine, LineKind, verify_journal
from signer.ledger import Journalist
from tests.unit.core.refusal import refused
from tests.unit.signer.world import OPERATOR, World, world_in

ACTOR = b"\x05" * 32


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def envelope(actor: bytes = ACTOR, operator: bytes = OPERATOR) -> AuditEnvelope:
    return AuditEnvelope(
        ts_unix=1,
        actor_omni=actor,
        operator_omni=operator,
        op_kind=OpKind.CRED_FETCH,
        op_body=OpBody(cap=bytes(32), req=bytes(32), svc="cred:x"),
        result=OpResult.SUCCESS,
    )


def line(row: AuditRow | None = None, method: str = "test") -> JournalLine:
    return JournalLine(
        at=1, kind=LineKind.RELEASE, method=method, caller="c", row_hash=None if row is None else row.row_hash
    )


def append(tx: Tx, actor: bytes = ACTOR) -> AuditRow:
    row = tx.append_row(envelope(actor))
    tx.journal(line(row))
    return row


def together(world: World, units):
    """Run units in one group, by holding the committer up until all have queued; returns outcomes in order."""
    outcomes: list[object] = [None] * len(units)
    started = threading.Event()
    release = threading.Event()

    def block(_tx):
        started.set()
        release.wait()

    blocker = threading.Thread(target=world.committer.run, args=(block,))
    blocker.start()
    started.wait()

    def call(index):
        try:
            outcomes[index] = world.committer.run(units[index])
        except Exception as exc:
            outcomes[index] = exc

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(units))]
    for index, thread in enumerate(threads):
        thread.start()
        while world.committer._queue.qsize() < index + 1:
            time.sleep(0.001)
    release.set()
    for thread in [blocker, *threads]:
        thread.join()
    return outcomes


def test_is_a_journalist(world):
    journalist: Journalist = world.committer
    journalist.run(lambda tx: tx.journal(line()))


def test_rows_of_one_actor_follow_each_other(world):
    rows = [world.committer.run(append) for _ in range(3)]
    assert [row.seq for row in rows] == [0, 1, 2]
    assert rows[1].prev == rows[0].row_hash
    assert rows[0].prev == bytes(32)
    assert {row.actor for row in rows} == {ACTOR}


def test_rows_of_one_group_follow_each_other(world):
    rows = together(world, [append] * 5)
    assert [row.seq for row in rows] == [0, 1, 2, 3, 4]
    assert [later.prev for later in rows[1:]] == [row.row_hash for row in rows[:-1]]


def test_a_refused_unit_undoes_itself_alone(world):
    def refuses(tx):
        append(tx)
        tx.conn.execute("INSERT INTO meta(key, value) VALUES ('left', 1)")
        raise KeyServiceError("cap_replayed")  # type: ignore[arg-type]

    first, second, third = together(world, [append, refuses, append])
    assert isinstance(second, KeyServiceError)
    assert (first.seq, third.seq) == (0, 1)
    assert world.count("rows") == 2
    assert world.database.reader().execute("SELECT * FROM meta WHERE key = 'left'").fetchall() == []


def test_a_unit_sees_what_earlier_units_of_its_group_wrote(world):
    def release(tx):
        row = append(tx)
        tx.ledger.note_read(b"d" * 32, row_id=tx.last_row_id, keep_until=2_000_000_000)
        return row.encode()

    def look(tx):
        known = tx.ledger.cap(b"d" * 32)
        return tx.ledger.row(known.row_id)

    first, seen, second, seen_again = together(world, [release, look, release, look])
    assert first == seen
    assert second == seen_again != first
    assert world.committer.run(look) == second


def test_a_faulty_statement_is_the_units_own(world):
    def faulty(tx):
        tx.conn.execute("INSERT INTO meta(key, value) VALUES ('registry_id', 'x')")

    bad, good = together(world, [faulty, append])
    assert isinstance(bad, sqlite3.IntegrityError)
    assert good.seq == 0


def test_a_row_that_no_line_names_is_never_kept(world):
    with pytest.raises(RuntimeError):
        world.committer.run(lambda tx: tx.append_row(envelope()))
    recorded = world.committer.run(append)
    with pytest.raises(RuntimeError):
        world.committer.run(lambda tx: tx.journal(line(recorded)))
    assert world.count("rows") == 1


def test_a_unit_that_waits_for_another_is_an_error_not_a_hang(world):
    with pytest.raises(RuntimeError):
        world.committer.run(lambda _: world.committer.run(append))


def test_agents_and_operators_share_a_tree(world):
    world.committer.run(append)
    world.committer.run(lambda tx: append(tx, OPERATOR))
    chains = world.database.reader().execute("SELECT id, actor, operator_id FROM heads").fetchall()
    operator = next(chain_id for chain_id, actor, _ in chains if actor == OPERATOR)
    assert {parent for _, _, parent in chains} == {operator}
    world.check()


def test_a_locked_file_answers_journal_unavailable_and_keeps_nothing(world):
    before = world.dump()
    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        since = time.monotonic()
        with refused("journal_unavailable"):
            world.committer.run(append)
        assert 1.0 < time.monotonic() - since < 4.0
        other.execute("ROLLBACK")
    assert world.dump() == before
    assert world.committer.run(append).seq == 0


def test_a_failed_commit_fails_its_whole_group_and_keeps_nothing(world):
    world.committer.run(append)
    before = world.dump()
    pages = world.committer._conn.execute("PRAGMA page_count").fetchone()[0]
    world.committer._conn.execute(f"PRAGMA max_page_count = {pages}")

    def large(tx):
        append(tx)
        tx.conn.execute("INSERT INTO meta(key, value) VALUES ('large', zeroblob(1000000))")

    outcomes = together(world, [append, large, append])
    assert [outcome.reason for outcome in outcomes] == ["journal_unavailable"] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert world.dump() == before
    world.committer._conn.execute("PRAGMA max_page_count = 1000000")
    assert world.committer.run(append).seq == 1


def test_a_sealed_keyring_records_nothing(world):
    world.committer.run(append)
    before = world.dump()
    sealed = world.keyring
    world.keyring = None  # the fixture's last check needs another
    try:
        sealed.seal()
        with refused("sealed"):
            world.committer.run(lambda tx: tx.journal(line()))
        with refused("sealed"):
            world.committer.run(append)
    finally:
        from tests.unit.signer.world import keyring

        world.keyring = keyring()
    assert world.dump() == before


def test_refuses_everything_once_the_clock_is_behind(world):
    world.clock.forward(1000)
    world.committer.run(append)
    world.clock.forward(-60)
    world.committer.run(append)
    world.committer.check_clock(world.clock.now())
    world.clock.forward(-1)
    with refused("clock_behind"):
        world.committer.run(append)
    with refused("clock_behind"):
        world.committer.check_clock(world.clock.now())


def test_high_water_survives_a_restart_and_never_falls(world):
    world.clock.forward(1000)
    world.committer.run(append)
    world.clock.forward(-30)
    world.committer.run(append)
    world.clock.forward(-31)
    with (
        closing(open_state(world.path, world.keyring)) as database,
        Committer(database, world.keyring, world.clock) as fresh,
        refused("clock_behind"),
    ):
        fresh.run(append)


def test_a_reset_of_the_clock_reaches_other_processes(world):
    with (
        closing(open_state(world.path, world.keyring)) as database,
        Committer(database, world.keyring, world.clock) as other,
    ):
        world.clock.forward(10_000)
        other.run(append)
        world.clock.forward(-10_000)
        with refused("clock_behind"):
            world.committer.run(append)
        world.committer.reset_clock()
        other.check_clock(world.clock.now())
        other.run(append)
    assert world.lines()[-2]["method"] == "reset-clock"


def test_two_committers_share_one_chain(world):
    with (
        closing(open_state(world.path, world.keyring)) as database,
        Committer(database, world.keyring, world.clock) as other,
    ):
        threads = [
            threading.Thread(target=lambda c=committer: [c.run(append) for _ in range(40)])
            for committer in (world.committer, other)
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert world.count("rows") == 160
    assert verify_journal(world.database.reader(), world.keyring).rows == 160


def test_closing_finishes_what_was_queued_and_refuses_the_rest(tmp_path):
    world = World(tmp_path)
    world.committer.post(append)
    world.committer.close()
    world.committer.close()
    with refused("journal_unavailable"):
        world.committer.run(append)
    world.committer.post(append)
    assert world.count("rows") == 1
    world.close()


def test_burns_are_forgotten_in_small_steps_after_their_time(world):
    def burn(tx):
        for number in range(100):
            tx.ledger.note_read(number.to_bytes(32, "big"), row_id=1, keep_until=tx.now + 10)

    world.committer.run(burn)
    world.clock.forward(10)
    world.settle()
    assert world.count("caps") == 100
    world.clock.forward(1)
    world.settle()
    assert 70 < world.count("caps") < 100
    for _ in range(8):
        world.settle()
    assert world.count("caps") == 0
