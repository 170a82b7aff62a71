"""The journal and the audit chains fix each other: whatever is changed in either shows in a replay."""

import sqlite3
from contextlib import closing

import orjson
import pytest

from agentkeys_core.encoding import canonical_json
from signer.journal import JournalLine, JournalTamperedError, LineKind, check_head, verify_journal
from tests.unit.signer.world import World, keyring


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A state file with stores, fetches and a refusal in it."""
    world = World(tmp_path_factory.mktemp("journal"))
    for _ in range(2):
        stored, _cap = world.store(f"cred:n{world.count('objects')}")
        world.fetch(stored, "cred:n0" if world.count("objects") == 1 else "cred:n1")
    world.check()
    world.close()
    with closing(sqlite3.connect(world.path)) as conn:
        conn.execute("PRAGMA journal_mode = DELETE")  # a copy in memory has no WAL
        return conn.serialize()


def opened(recorded):
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.deserialize(recorded)
    return conn


def test_a_line_is_canonical_json():
    line = JournalLine(
        at=1_764_000_000, kind=LineKind.REFUSAL, method="M", caller="é", cap_digest=bytes(32), reason="r", count=3
    )
    assert line.encode() == canonical_json(orjson.loads(line.encode()))


def test_replays_what_was_recorded(recorded):
    with closing(opened(recorded)) as conn:
        report = verify_journal(conn, keyring())
        assert report.rows == 4
        assert report.lines == 1 + 4 + 2
        assert report.head == check_head(conn, keyring())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET line = CAST(replace(CAST(line AS TEXT), 'release', 'change') AS BLOB) WHERE seq = 3",
        "UPDATE journal SET hash = zeroblob(32) WHERE seq = 3",
        "DELETE FROM journal WHERE seq = 3",
        "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
        "UPDATE journal SET seq = seq + 100 WHERE seq = (SELECT max(seq) FROM journal)",
        "DELETE FROM rows WHERE id = 2",
        "DELETE FROM rows WHERE id = 4",
        "UPDATE rows SET row = (SELECT row FROM rows WHERE id = 1) WHERE id = 3",
        "INSERT INTO rows(id, actor_id, operator_id, seq, row) SELECT 9, 9, 9, 9, row FROM rows WHERE id = 4",
        "UPDATE journal_head SET mac = zeroblob(32)",
    ],
)
def test_a_replay_shows_every_change(recorded, statement):
    with closing(opened(recorded)) as conn:
        conn.execute(statement)
        with pytest.raises(JournalTamperedError):
            verify_journal(conn, keyring())


def test_a_replay_shows_a_row_whose_content_changed(recorded):
    with closing(opened(recorded)) as conn:
        row = orjson.loads(conn.execute("SELECT row FROM rows WHERE id = 3").fetchone()[0])
        row["envelope"] = row["envelope"][:-4] + "AAAA"
        conn.execute("UPDATE rows SET row = ? WHERE id = 3", (canonical_json(row),))
        with pytest.raises(JournalTamperedError, match="hash"):
            verify_journal(conn, keyring())


def test_two_rows_that_changed_places_show(recorded):
    with closing(opened(recorded)) as conn:
        conn.execute("UPDATE rows SET id = 99 WHERE id = 3")
        with pytest.raises(JournalTamperedError):
            verify_journal(conn, keyring())


def test_a_whole_journal_written_anew_lacks_our_mac(recorded):
    """Whoever can write the file but does not hold K3 cannot make a head of his own."""
    with closing(opened(recorded)) as conn:
        conn.execute("DELETE FROM rows")
        conn.execute("DELETE FROM journal WHERE seq > 1")
        conn.execute("UPDATE journal_head SET seq = 1, hash = (SELECT hash FROM journal)")
        with pytest.raises(JournalTamperedError, match="MAC"):
            verify_journal(conn, keyring())


def test_an_empty_state_is_tampered_with():
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute("CREATE TABLE journal_head(id, seq, hash, epoch, mac)")
        with pytest.raises(JournalTamperedError):
            check_head(conn, keyring())
