"""Opens the broker's database: a SQLite file of its own, or the PostgreSQL database that one setting names."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError

#: How long a statement, or the wait for a lock, may take in seconds: a request is refused rather than kept waiting.
PATIENCE_S: Final = 1.5
_CONNECT_S: Final = 5
_POOL: Final = 10
_DRIVER: Final = "postgresql+psycopg"
_FORGETFUL: Final = "agentkeys_forgetful"
#: Any number: only brokers that migrate the same database ask for this lock.
_MIGRATION_LOCK: Final = 0x61676B62
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def database_url(postgresql: str | None, state_dir: Path) -> URL:
    """The address of the broker's database: that of PostgreSQL where one is given, else a file in `state_dir`.

    Raises:
        ConfigError: not an address. The text never quotes it, as it may hold a password.
    """
    if postgresql is None:
        return URL.create("sqlite+pysqlite", database=str(state_dir / "broker.db"))
    try:
        return make_url(postgresql).set(drivername=_DRIVER)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("store.postgresql: not a database address") from error


def open_engine(url: URL) -> Engine:
    """An engine whose database has our newest schema.

    Several brokers may start at once: one migrates, the others wait.

    Raises:
        ConfigError: it cannot be opened, or a newer version of this program has migrated it.
    """
    name = url.render_as_string(hide_password=True)
    with ExitStack() as opening, _one_at_a_time(url):
        try:
            engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
            opening.callback(engine.dispose)
            with engine.begin() as conn:
                _migrate(conn)
        except CommandError as error:
            raise ConfigError(f"{name}: made by another version of this program ({error})") from error
        except (OSError, SQLAlchemyError) as error:
            raise ConfigError(f"{name}: cannot be used ({type(error).__name__})") from error
        opening.pop_all()
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction; `overloaded` where the database does not answer in time, and nothing was changed."""
    try:
        with engine.begin() as conn:
            yield conn
    except SQLAlchemyError as error:
        raise KeyServiceError(Reason.OVERLOADED, f"the broker's state: {type(error).__name__}") from error


def forgetful(engine: Engine) -> Engine:
    """The same database, for what a power cut may take: SQLite does not wait for the disk then."""
    return engine.execution_options(**{_FORGETFUL: True})


def insert_into(engine: Engine, table: Any) -> Any:
    """Both databases know ON CONFLICT; SQLAlchemy keeps it with each dialect."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


@contextmanager
def _one_at_a_time(url: URL) -> Iterator[None]:
    """Keep other brokers that start on the same file waiting: SQLite does not wait when two turn it to WAL at once.

    PostgreSQL has a lock of its own for that. The lock is a file beside the database: closing a second descriptor of
    the database itself would drop SQLite's locks on it.
    """
    if url.get_backend_name() != "sqlite":
        yield
        return
    try:
        descriptor = os.open(f"{url.database}.start", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{url.database}: cannot be used ({type(error).__name__})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.is_symlink():
            raise
    engine = create_engine(url, connect_args={"timeout": PATIENCE_S, "check_same_thread": False}, pool_size=_POOL)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own idea of transactions is not ours
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # NORMAL forgets the last moments in a power cut: a proof or code that was used up would be good again.
        level = "NORMAL" if connection.get_execution_options().get(_FORGETFUL) else "FULL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # one that turned writer late could meet another and fail

    return engine


def _postgresql(url: URL) -> Engine:
    patience = f"-c statement_timeout={int(PATIENCE_S * 1000)} -c lock_timeout={int(PATIENCE_S * 1000)}"
    return create_engine(
        url,
        connect_args={"connect_timeout": _CONNECT_S, "options": patience, "application_name": "agentkeys-broker"},
        pool_size=_POOL,
        pool_timeout=PATIENCE_S,
        pool_pre_ping=True,
    )


def _migrate(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL lock_timeout = 0"))
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
