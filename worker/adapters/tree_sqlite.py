"""The tree of all audit rows in a SQLite file of the audit worker: rows, complete subtrees, signed notes."""

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentkeys_core.checkpoint import leaf_hash, node_hash
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from worker.ports import KeptNote

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS leaves(position INTEGER PRIMARY KEY, row_hash BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS nodes(
  level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL,
  PRIMARY KEY(level, position)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes(size INTEGER PRIMARY KEY, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
"""
_FILE: Final = "tree.db"


class SqliteTree:
    """Implements `worker.ports.Tree`. Safe for many threads; whatever is here can be fetched from the signer again."""

    def __init__(self, directory: Path) -> None:
        """Open the file, made where it is missing. Raises ConfigError."""
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._conn = sqlite3.connect(directory / _FILE, isolation_level=None, check_same_thread=False)
            self._conn.execute("PRAGMA journal_mode = WAL")
            self._conn.execute("PRAGMA synchronous = FULL")
            self._conn.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{directory}: cannot be used ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._conn.close()

    def size(self) -> int:
        """See the port."""
        found = self._one("SELECT max(position) FROM leaves")
        return 0 if found is None or found[0] is None else int(found[0]) + 1

    def extend(self, row_hashes: Sequence[bytes]) -> None:
        """See the port."""
        start = self.size()
        with self._lock:
            try:
                self._conn.execute("BEGIN IMMEDIATE")
                for position, row_hash in enumerate(row_hashes, start):
                    self._conn.execute("INSERT INTO leaves VALUES (?, ?)", (position, row_hash))
                    self._complete(position, leaf_hash(row_hash))
                self._conn.execute("COMMIT")
            except sqlite3.Error as error:
                self._conn.rollback()
                raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE, "the tree cannot be written") from error

    def _complete(self, position: int, node: bytes) -> None:
        """Keep every subtree that this leaf completes."""
        level = 0
        while True:
            self._conn.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, position, node))
            if not position & 1:
                return
            (left,) = self._conn.execute(
                "SELECT hash FROM nodes WHERE level = ? AND position = ?", (level, position - 1)
            ).fetchone()
            node, level, position = node_hash(left, node), level + 1, position >> 1

    def node(self, level: int, position: int) -> bytes:
        """See the port."""
        found = self._one("SELECT hash FROM nodes WHERE level = ? AND position = ?", level, position)
        if found is None:
            raise KeyServiceError(Reason.INTERNAL, "the tree has no such node")
        return bytes(found[0])

    def position_of(self, row_hash: bytes) -> int | None:
        """See the port."""
        found = self._one("SELECT position FROM leaves WHERE row_hash = ?", row_hash)
        return None if found is None else int(found[0])

    def last_note(self) -> KeptNote | None:
        """See the port."""
        found = self._one("SELECT size, root, note FROM notes ORDER BY size DESC LIMIT 1")
        return None if found is None else KeptNote(size=found[0], root=found[1], note=found[2])

    def keep_note(self, note: KeptNote) -> None:
        """See the port."""
        self._one("INSERT OR REPLACE INTO notes VALUES (?, ?, ?) RETURNING size", note.size, note.root, note.note)

    def _one(self, statement: str, *values: object) -> tuple[int, bytes, bytes] | None:
        with self._lock:
            try:
                found: tuple[int, bytes, bytes] | None = self._conn.execute(statement, values).fetchone()
            except sqlite3.Error as error:
                raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE, "the tree cannot be read") from error
        return found
