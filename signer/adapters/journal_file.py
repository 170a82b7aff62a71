"""The replay of a journal in a state file that nobody need be serving from: the signer's own, or a copy of it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from signer.adapters.database import SCHEMA_VERSION, StateError, check_epochs, read_meta
from signer.adapters.registry_stamp import SharedStamp
from signer.journal import JournalReport, JournalTamperedError, verify_journal
from signer.keyring import Keyring


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing into a state file of our schema. Raises StateError."""
    if not path.is_file():
        raise StateError(f"no state file at {path}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)) as conn:
            version = conn.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise StateError(f"{path} has schema {version}, this program needs {SCHEMA_VERSION}")
            yield conn
    except sqlite3.DatabaseError as exc:
        raise StateError(f"{path} is not a readable SQLite file") from exc


def replay(
    path: Path, keyring: Keyring, *, known: tuple[int, bytes] | None = None, stamped: bool = True
) -> JournalReport:
    """What a full replay of the file finds in order.

    Beside `known`, the high-water stamp that may lie next to the file says how far its journal once was; not `stamped`:
    the file is meant to be older.

    Raises:
        JournalTamperedError: with the number of the first line or row that does not fit.
        StateError: no state file, or a foreign one.
        KeyServiceError: k3_mismatch, epoch_not_held: the vault is that of another deployment, or older.
    """
    with read_only(path) as conn:
        check_epochs(conn, keyring)
        meta = read_meta(conn)
        # Before the snapshot, which can only be as new, or newer.
        once = _high_water(path, meta.registry_id, meta.incarnation) if stamped else 0
        try:
            report = verify_journal(conn, keyring, known=known)
        except sqlite3.DatabaseError as exc:
            raise JournalTamperedError(f"{path} is damaged: {exc}") from exc
    if report.head.sequence < once:
        line = report.head.sequence + 1
        raise JournalTamperedError(f"line {line} is missing: the journal here had {once}", line=line)
    return report


def _high_water(database: Path, registry_id: str, incarnation: int) -> int:
    if not SharedStamp.path_beside(database, registry_id).is_file():
        return 0
    with closing(SharedStamp.beside(database, registry_id)) as stamp:
        return stamp.journal_high_water(incarnation)
