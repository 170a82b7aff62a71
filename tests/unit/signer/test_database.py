"""What a start checks before anything is served."""

import sqlite3
import stat
from contextlib import closing

import pytest

from agentkeys_core.secret import Secret
from signer.adapters.database import Database, StateError, free_bytes_of, initialise, open_state, read_meta
from signer.journal import JournalTamperedError
from signer.keyring import Keyring
from tests.unit.core.refusal import refused
from tests.unit.signer.world import REGISTRY_ID, keyring


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "state.db"
    initialise(made, registry_id=REGISTRY_ID, keyring=keyring(), now=1000)
    return made


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(statement, values)
        conn.commit()


def test_new_state_is_private_complete_and_opens(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database = open_state(path, keyring())
    meta = read_meta(database.reader())
    assert (meta.registry_id, meta.incarnation, meta.k3_epoch, meta.clock_high_water) == (REGISTRY_ID, 1, 1, 1000)
    assert [entry.name for entry in path.parent.iterdir() if entry.name.endswith(".new")] == []
    database.close()


def test_initialise_takes_this_machines_clock_by_default(tmp_path):
    initialise(tmp_path / "s.db", registry_id=REGISTRY_ID, keyring=keyring())
    database = open_state(tmp_path / "s.db", keyring())
    assert read_meta(database.reader()).clock_high_water > 1_700_000_000
    database.close()


def test_initialise_overwrites_nothing(path):
    before = path.read_bytes()
    with pytest.raises(StateError):
        initialise(path, registry_id="cd" * 32, keyring=keyring())
    assert path.read_bytes() == before


def test_initialise_needs_the_current_epoch(tmp_path):
    with refused("epoch_not_held"):
        initialise(tmp_path / "s.db", registry_id=REGISTRY_ID, keyring=keyring(), epoch=9)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(StateError):
        Database(tmp_path / "none.db")


def test_refuses_another_schema(path):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version = 9")
    with pytest.raises(StateError):
        Database(path)


def test_refuses_what_is_no_database(tmp_path):
    (tmp_path / "s.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(StateError):
        Database(tmp_path / "s.db")


def test_refuses_an_incomplete_file(path):
    change(path, "DELETE FROM meta WHERE key = 'k3_epoch'")
    with pytest.raises(StateError):
        open_state(path, keyring())


def test_refuses_another_vault(path):
    other = Keyring({1: Secret.copy_of(b"\x09" * 32)})
    with refused("k3_mismatch"):
        open_state(path, other)


def test_refuses_a_vault_without_the_current_epoch(path):
    with refused("epoch_not_held"):
        open_state(path, keyring((2,)))


def test_refuses_an_unrecorded_current_epoch(path):
    change(path, "DELETE FROM k3_checks WHERE epoch = 1")
    with refused("k3_mismatch"):
        open_state(path, keyring())


def test_serves_beside_an_epoch_that_was_only_prepared(path):
    change(path, "DELETE FROM k3_checks WHERE epoch = 2")
    open_state(path, keyring()).close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal_head SET mac = zeroblob(32)",
        "UPDATE journal_head SET seq = 2",
        "UPDATE journal_head SET hash = zeroblob(32)",
        "UPDATE journal_head SET epoch = 2",
        "DELETE FROM journal_head",
        "DELETE FROM journal",
        "UPDATE journal SET hash = zeroblob(32)",
    ],
)
def test_refuses_a_journal_that_is_not_ours(path, statement):
    change(path, statement)
    with pytest.raises((JournalTamperedError, StateError)):
        open_state(path, keyring())


def test_unreadable_file_makes_nothing_available(path):
    database = open_state(path, keyring())
    conn = database.reader()
    conn.close()
    with refused("journal_unavailable"), database.snapshot():
        pass
    database.close()


def test_free_bytes_are_those_of_the_file_system(tmp_path):
    assert free_bytes_of(tmp_path)() > 0
