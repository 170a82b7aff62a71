"""The broker's state in SQLite: counters of this minute. Nothing in it is secret, and losing it loses a minute."""

import os
import sqlite3
import threading
from pathlib import Path
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 1.5
_SCHEMA: Final = """
CREATE TABLE counts (name BLOB NOT NULL, minute INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (name, minute))
  WITHOUT ROWID, STRICT;
"""
_COUNT: Final = """
INSERT INTO counts (name, minute, n) VALUES (?1, ?2, 1)
  ON CONFLICT (name, minute) DO UPDATE SET n = n + 1 WHERE n < ?3
"""


class SqliteCounters:
    """Implements `broker.ports.Counters`. Safe for many threads and processes; each count is one transaction."""

    def __init__(self, path: Path) -> None:
        """Open the file, made with mode 0600 where there is none.

        Raises:
            ConfigError: it cannot be opened, or is of another version.
        """
        self._lock = threading.Lock()
        self._minute = -1
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._conn = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._prepare(path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: cannot be used ({type(error).__name__})") from error

    def count(self, name: bytes, *, minute: int, limit: int) -> bool:
        """See the port."""
        try:
            with self._lock:
                if minute > self._minute:
                    self._conn.execute("DELETE FROM counts WHERE minute < ?", (minute,))
                    self._minute = minute
                return self._conn.execute(_COUNT, (name, minute, limit)).rowcount == 1
        except sqlite3.Error as error:
            raise KeyServiceError(Reason.OVERLOADED, "requests cannot be counted now") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._conn.close()

    def _prepare(self, path: Path) -> None:
        conn = self._conn
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = NORMAL")
        conn.execute("BEGIN IMMEDIATE")
        (version,) = conn.execute("PRAGMA user_version").fetchone()
        if version == 0:
            conn.execute(_SCHEMA)
            conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        conn.execute("COMMIT")
        if version not in (0, SCHEMA_VERSION):
            conn.close()
            raise ConfigError(f"{path}: made by another version ({version})")
