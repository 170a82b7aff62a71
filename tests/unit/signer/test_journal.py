"""The journal and the audit chains fix each other: whatever is changed in either shows in a replay."""

import sqlite3
from contextlib import closing

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.keys import es256_sign
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


#: Every kind of tampering, and where it is found: journal line, audit row.
TAMPERINGS = {
    "a line edited": (
        "UPDATE journal SET line = CAST(replace(CAST(line AS TEXT), 'release', 'change') AS BLOB) WHERE seq = 3",
        (3, None),
    ),
    "a byte of the last line edited": (
        "UPDATE journal SET line = CAST(replace(CAST(line AS TEXT), '\"count\":1', '\"count\":2') AS BLOB) WHERE seq = 7",
        (7, None),
    ),
    "a line that is no JSON any more": ("UPDATE journal SET line = x'00' WHERE seq = 2", (2, None)),
    "a hash edited": ("UPDATE journal SET hash = zeroblob(32) WHERE seq = 3", (3, None)),
    "a line deleted": ("DELETE FROM journal WHERE seq = 3", (3, None)),
    "the first line deleted": ("DELETE FROM journal WHERE seq = 1", (1, None)),
    "the tail cut": ("DELETE FROM journal WHERE seq > 5", (6, None)),
    "everything cut": ("DELETE FROM journal", (1, None)),
    "two lines swapped": (
        (
            "UPDATE journal SET seq = CASE seq WHEN 3 THEN -4 ELSE -3 END WHERE seq IN (3, 4);"
            "UPDATE journal SET seq = -seq WHERE seq < 0"
        ),
        (3, None),
    ),
    "the last line moved away": ("UPDATE journal SET seq = 100 WHERE seq = 7", (7, None)),
    "a line added": ("INSERT INTO journal SELECT 8, line, hash FROM journal WHERE seq = 7", (8, None)),
    "the head put back alone": (
        "UPDATE journal_head SET seq = 5, hash = (SELECT hash FROM journal WHERE seq = 5)",
        (6, None),
    ),
    "the head's MAC edited": ("UPDATE journal_head SET mac = zeroblob(32)", (7, None)),
    "the head's epoch edited": ("UPDATE journal_head SET epoch = 2", (7, None)),
    "the head no number": ("UPDATE journal_head SET seq = 4611686018427387904", (8, None)),
    "a row deleted": ("DELETE FROM rows WHERE id = 2", (None, 2)),
    "the last row deleted": ("DELETE FROM rows WHERE id = 4", (7, 4)),
    "two rows swapped": (
        (
            "UPDATE rows SET id = CASE id WHEN 2 THEN -3 ELSE -2 END WHERE id IN (2, 3);"
            "UPDATE rows SET id = -id WHERE id < 0"
        ),
        (None, 2),
    ),
    "a row replaced by another": ("UPDATE rows SET row = (SELECT row FROM rows WHERE id = 1) WHERE id = 3", (None, 3)),
    "a row added": (
        "INSERT INTO rows(id, actor_id, operator_id, seq, row) SELECT 5, 9, 9, 9, row FROM rows WHERE id = 4",
        (None, 5),
    ),
    "a row that is no row": ("UPDATE rows SET row = x'7b7d' WHERE id = 3", (None, 3)),
}


@pytest.mark.parametrize(("statements", "place"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_every_tampering_is_named_by_its_place(recorded, statements, place):
    with closing(opened(recorded)) as conn:
        conn.executescript(statements)
        with pytest.raises(JournalTamperedError) as caught:
            verify_journal(conn, keyring())
        assert (caught.value.line, caught.value.row) == place


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("envelope", "oA", "hash"),
        ("sig", "A" * 86, "signature"),
        ("kid", "A" * 43, "unknown_key"),
        ("prev", "00" * 32, "hash"),
        ("seq", 7, "hash"),
    ],
)
def test_a_member_of_a_row_that_changed_is_named_by_its_row(recorded, name, value, fault):
    with closing(opened(recorded)) as conn:
        row = orjson.loads(conn.execute("SELECT row FROM rows WHERE id = 3").fetchone()[0])
        conn.execute("UPDATE rows SET row = ? WHERE id = 3", (canonical_json({**row, name: value}),))
        with pytest.raises(JournalTamperedError, match=fault) as caught:
            verify_journal(conn, keyring())
        assert caught.value.row == 3


def test_a_row_signed_by_somebody_else_is_no_row_of_ours(recorded):
    """Its hash and place are right, and the journal was written anew around it: the signature still is not ours."""
    with closing(opened(recorded)) as conn:
        row = orjson.loads(conn.execute("SELECT row FROM rows WHERE id = 4").fetchone()[0])
        other = ec.generate_private_key(ec.SECP256R1())
        row["sig"] = b64u_encode(es256_sign(other, bytes.fromhex(row["row_hash"])))
        conn.execute("UPDATE rows SET row = ? WHERE id = 4", (canonical_json(row),))
        with pytest.raises(JournalTamperedError, match="signature") as caught:
            verify_journal(conn, keyring())
        assert caught.value.row == 4


def test_a_whole_journal_written_anew_lacks_our_mac(recorded):
    """Whoever can write the file but does not hold K3 cannot make a head of his own."""
    with closing(opened(recorded)) as conn:
        conn.execute("DELETE FROM rows")
        conn.execute("DELETE FROM journal WHERE seq > 1")
        conn.execute("UPDATE journal_head SET seq = 1, hash = (SELECT hash FROM journal)")
        with pytest.raises(JournalTamperedError, match="MAC"):
            verify_journal(conn, keyring())


def test_an_older_journal_put_back_whole_shows_against_a_head_known_from_elsewhere(tmp_path):
    """Lines, rows and head of one moment fit each other: only who knows more can tell."""
    world = World(tmp_path)
    stored, _ = world.store("cred:a")
    world.settle()
    with closing(sqlite3.connect(world.path)) as conn:
        older = sqlite3.connect(":memory:", isolation_level=None)
        conn.backup(older)
    world.fetch(stored, "cred:a")
    world.settle()
    known = check_head(world.database.reader(), world.keyring)
    assert verify_journal(world.database.reader(), world.keyring, known=(known.sequence, known.hash)).head == known
    world.close()
    with closing(older):
        report = verify_journal(older, keyring())
        with pytest.raises(JournalTamperedError) as caught:
            verify_journal(older, keyring(), known=(known.sequence, known.hash))
        assert caught.value.line == report.lines + 1
        with pytest.raises(JournalTamperedError) as caught:
            verify_journal(older, keyring(), known=(2, bytes(32)))
        assert caught.value.line == 2


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_line_or_row_can_change_unseen(recorded, data):
    with closing(opened(recorded)) as conn:
        table, column, key = data.draw(st.sampled_from([("journal", "line", "seq"), ("rows", "row", "id")]))
        number = data.draw(st.integers(1, conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]))
        content = bytearray(conn.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (number,)).fetchone()[0])
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        conn.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (bytes(content), number))
        with pytest.raises(JournalTamperedError) as caught:
            verify_journal(conn, keyring())
        assert (caught.value.line if table == "journal" else caught.value.row) == number


def test_an_empty_state_is_tampered_with():
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute("CREATE TABLE journal_head(id, seq, hash, epoch, mac)")
        with pytest.raises(JournalTamperedError):
            check_head(conn, keyring())
