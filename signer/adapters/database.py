"""The signer's state: one SQLite file, shared by all signer processes of one host.

Writes go through `signer.adapters.committer` only; everything else reads through `Database.reader`.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from signer.adapters.ledger import SqlLedger
from signer.adapters.registry_schema import SCHEMA as REGISTRY_SCHEMA
from signer.journal import GENESIS, JournalLine, LineKind, chain_hash, check_head, sign_head
from signer.keyring import Keyring
from signer.ledger import Inventory, LedgerReader

SCHEMA_VERSION: Final = 2
BUSY_TIMEOUT_S: Final = 1.5

SCHEMA: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE k3_checks(epoch INTEGER PRIMARY KEY, check_value BLOB NOT NULL) STRICT;

-- One row for each cap digest that was released or burned here. `burned` is a bit set of the RPCs it was burned for.
CREATE TABLE caps(
  digest BLOB PRIMARY KEY, burned INTEGER NOT NULL, row_id INTEGER, salt BLOB, expect BLOB,
  outcome INTEGER, outcome_row_id INTEGER, keep_until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX caps_keep ON caps(keep_until);

-- The inventory. Salts of one object are numbered in the order of issue; `current` is the number of the store in force,
-- `store` its cap digest (0 and null where none was acknowledged). Whatever can never be released again is deleted.
CREATE TABLE objects(
  id INTEGER PRIMARY KEY, owner BLOB NOT NULL, class INTEGER NOT NULL, service TEXT NOT NULL,
  issued INTEGER NOT NULL, current INTEGER NOT NULL DEFAULT 0, store BLOB, UNIQUE(owner, class, service)) STRICT;
CREATE TABLE salts(
  object_id INTEGER NOT NULL, salt BLOB NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL,
  store BLOB NOT NULL, expect BLOB, rewrap INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(object_id, salt)) STRICT, WITHOUT ROWID;
-- Names that were deleted at any time, as SHA-256: a legacy envelope, for which no salt stands, brings none back.
CREATE TABLE dropped(name BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;

-- Which cap's cloud session holds an object of the object store, and until when; one row an object at most.
CREATE TABLE holds(
  owner BLOB NOT NULL, class INTEGER NOT NULL, service TEXT NOT NULL, digest BLOB NOT NULL, until REAL NOT NULL,
  PRIMARY KEY(owner, class, service)) STRICT, WITHOUT ROWID;

-- Audit chains: `heads.operator_id` is the id of the operator's own chain.
CREATE TABLE heads(
  id INTEGER PRIMARY KEY, actor BLOB NOT NULL UNIQUE, operator_id INTEGER NOT NULL,
  next_seq INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE rows(
  id INTEGER PRIMARY KEY, actor_id INTEGER NOT NULL, operator_id INTEGER NOT NULL, seq INTEGER NOT NULL,
  row BLOB NOT NULL, UNIQUE(actor_id, seq)) STRICT;
CREATE INDEX rows_operator ON rows(operator_id);

-- The last signed checkpoint, if any; `peaks` are the roots of the tree's complete subtrees.
CREATE TABLE checkpoint(
  id INTEGER PRIMARY KEY CHECK(id = 1), size INTEGER NOT NULL, root BLOB NOT NULL, peaks BLOB NOT NULL,
  note BLOB NOT NULL) STRICT;

CREATE TABLE journal(seq INTEGER PRIMARY KEY, line BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
-- One row, rewritten by each commit: the head, and the newest time that this signer has seen.
CREATE TABLE journal_head(
  id INTEGER PRIMARY KEY CHECK(id = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL, epoch INTEGER NOT NULL,
  mac BLOB NOT NULL, clock_high_water INTEGER NOT NULL) STRICT;
"""


class StateError(Exception):
    """The state file cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMeta:
    """What the state file says of its deployment. `clock_high_water` in Unix seconds."""

    registry_id: str
    incarnation: int
    k3_epoch: int
    clock_high_water: int


def read_meta(conn: sqlite3.Connection) -> StateMeta:
    """The deployment's facts as this connection sees them now. Raises `StateError` when they are incomplete."""
    values = dict(conn.execute("SELECT key, value FROM meta").fetchall())
    head = conn.execute("SELECT clock_high_water FROM journal_head").fetchone()
    try:
        return StateMeta(
            registry_id=values["registry_id"],
            incarnation=values["incarnation"],
            k3_epoch=values["k3_epoch"],
            clock_high_water=head[0],
        )
    except (KeyError, TypeError) as exc:
        raise StateError("the state file is incomplete; restore it from a backup") from exc


class Database:
    """An opened state file of our schema version. Open it after a fork, never before one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        if not path.is_file():
            raise StateError(f"no state file at {path}; `agentkeys-signer init` makes one")
        try:
            with closing(self.connect()) as conn:
                version = conn.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as exc:
            raise StateError(f"{path} is not a readable SQLite file") from exc
        if version != SCHEMA_VERSION:
            raise StateError(f"the state file has schema {version}, this program needs {SCHEMA_VERSION}")

    def connect(self) -> sqlite3.Connection:
        """A new connection in autocommit mode, durable at each commit, waiting at most 1.5 s for a lock."""
        conn = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        _configure(conn)
        return conn

    def reader(self) -> sqlite3.Connection:
        """This thread's own connection, for reading only."""
        conn: sqlite3.Connection | None = getattr(self._local, "conn", None)
        if conn is None:
            conn = self.connect()
            conn.execute("PRAGMA query_only = ON")
            conn.execute("PRAGMA cache_size = -256")  # KiB: one connection a thread; the system's cache holds the rest
            self._local.conn = conn
            with self._lock:
                self._opened.append(conn)
        return conn

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent snapshot for several reads; journal_unavailable when the file cannot be read."""
        conn = self.reader()
        try:
            conn.execute("BEGIN")
            yield conn
        except sqlite3.Error as exc:
            raise KeyServiceError(Reason.JOURNAL_UNAVAILABLE, "the state file cannot be read") from exc
        finally:
            with suppress(sqlite3.Error):
                conn.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[Inventory]:
        """The ledger for reading, from one consistent snapshot; raises as `reading`."""
        with self.reading() as conn:
            yield SqlLedger(conn)

    @contextmanager
    def glance(self) -> Iterator[LedgerReader]:
        """The ledger for reads that need not be of one moment: no transaction, so a third of the statements.

        Raises as `reading`.
        """
        try:
            yield SqlLedger(self.reader())
        except sqlite3.Error as exc:
            raise KeyServiceError(Reason.JOURNAL_UNAVAILABLE, "the state file cannot be read") from exc

    def close(self) -> None:
        """Close every reader that was handed out."""
        with self._lock:
            opened, self._opened = self._opened, []
        self._local = threading.local()
        for conn in opened:
            conn.close()


def _configure(conn: sqlite3.Connection) -> None:
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")  # a release may leave only once its record is on disk
    conn.execute("PRAGMA cache_size = -1024")  # KiB: the system's cache holds the rest
    conn.execute("PRAGMA wal_autocheckpoint = 2000")  # pages: rarer and longer checkpoints than the default
    conn.execute("PRAGMA temp_store = MEMORY")


def initialise(path: Path, *, registry_id: str, keyring: Keyring, epoch: int = 1, now: int | None = None) -> None:
    """Create the state file at `path` (mode 0600), with the K3 check of every epoch held and the journal's first line.

    Nothing is ever overwritten: an existing file is a `StateError`. A crash leaves no file at `path`.
    `now` in Unix seconds, by default this machine's clock.
    """
    now = int(time.time()) if now is None else now
    if path.exists():
        raise StateError(f"{path} exists already; nothing was changed")
    keyring.k3_check(epoch)  # epoch_not_held before anything is written
    temporary = path.with_name(path.name + ".new")
    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600))
    with closing(sqlite3.connect(temporary, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous = FULL")
        conn.executescript(f"BEGIN;{SCHEMA}{REGISTRY_SCHEMA}")
        conn.executemany(
            "INSERT INTO meta(key, value) VALUES (?, ?)",
            [("registry_id", registry_id), ("incarnation", 1), ("k3_epoch", epoch)],
        )
        conn.executemany(
            "INSERT INTO k3_checks(epoch, check_value) VALUES (?, ?)",
            [(held, keyring.k3_check(held)) for held in keyring.epochs],
        )
        line = JournalLine(at=now, kind=LineKind.HOST, method="init", caller="host").encode()
        head = sign_head(keyring, sequence=1, head_hash=chain_hash(GENESIS, 1, line), epoch=epoch)
        conn.execute("INSERT INTO journal(seq, line, hash) VALUES (1, ?, ?)", (line, head.hash))
        conn.execute("INSERT INTO journal_head VALUES (1, 1, ?, ?, ?, ?)", (head.hash, epoch, head.mac, now))
        conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        conn.execute("COMMIT")
    os.link(temporary, path)  # unlike a rename, fails where a file appeared meanwhile
    temporary.unlink()
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_state(path: Path, keyring: Keyring) -> Database:
    """The state file, after everything that a start must check.

    Raises `StateError` (missing, foreign, incomplete), k3_mismatch where the vault's K3 of an epoch is not the one
    recorded here, epoch_not_held where the current epoch is not in the vault, and `JournalTamperedError`.
    """
    database = Database(path)
    try:
        check_state(database, keyring)
    except BaseException:
        database.close()
        raise
    return database


def check_state(database: Database, keyring: Keyring) -> None:
    """Return when the vault and the journal's head belong to this state file; raises as `open_state`."""
    conn = database.reader()
    check_epochs(conn, keyring)
    check_head(conn, keyring)


def check_epochs(conn: sqlite3.Connection, keyring: Keyring) -> None:
    """Return when every K3 of the vault is the one that is recorded here; raises k3_mismatch, epoch_not_held."""
    meta = read_meta(conn)
    recorded: dict[int, bytes] = dict(conn.execute("SELECT epoch, check_value FROM k3_checks").fetchall())
    keyring.k3_check(meta.k3_epoch)
    for epoch in keyring.epochs:
        # A held epoch that the registry never recorded was only prepared; it signs nothing yet.
        if epoch in recorded and keyring.k3_check(epoch) != recorded[epoch]:
            raise KeyServiceError(Reason.K3_MISMATCH, f"the vault's K3 of epoch {epoch} is not the registry's")
    if meta.k3_epoch not in recorded:
        raise KeyServiceError(Reason.K3_MISMATCH, f"the registry records no K3 check of epoch {meta.k3_epoch}")


FreeBytes = Callable[[], int]


def free_bytes_of(directory: Path) -> FreeBytes:
    """A probe of how many bytes an unprivileged writer may still use in the file system of `directory`."""

    def probe() -> int:
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize

    return probe
