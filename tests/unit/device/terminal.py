"""`agentkeys` on a terminal of its own, for a test that reads and answers it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Protocol, Self

import pytest

LIMIT_S = 60
#: The first terminal that the leader of a session opens is the one that rules it: Ctrl-C and PINs go there.
ON_ITS_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"


class Somebody(Protocol):
    """Whose folder it is, and who catches the output of the tests."""

    home: Path
    capture: pytest.CaptureFixture[str]


def unbroken(shown: str) -> str:
    """What was shown without colours, frames and blanks: a value that was cut into lines is whole again."""
    return re.sub(r"\x1b\[[0-9;]*m|[\s│]", "", shown)


class Terminal:
    """One run of `module`. It is ended with the test, whatever happens."""

    def __init__(self, person: Somebody, *words: str, columns: int = 100, module: str = "device") -> None:
        person.capture.readouterr()
        command = [sys.executable, "-m", module, "--home", str(person.home), *words]
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        # Not pty.fork: this process has threads. The environment is what Python knows of it: a library may have put
        # COLUMNS behind its back.
        self._child = subprocess.Popen(
            [sys.executable, "-c", ON_ITS_TERMINAL, *command],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env=dict(os.environ),
        )
        os.close(inside)
        self._shown = b""
        self._deadline = time.monotonic() + LIMIT_S
        self._ended = False

    @property
    def shown(self) -> str:
        """Everything so far."""
        return self._shown.decode(errors="replace")

    def until(self, pattern: str) -> str:
        """Wait until the pattern was shown and return everything so far."""
        while re.search(pattern, self.shown) is None:
            assert self._read(), self.shown
        return self.shown

    def write(self, answer: bytes) -> None:
        """Type this."""
        os.write(self._terminal, answer)

    def end(self) -> tuple[int, str]:
        """Wait for its end and return exit code and everything shown."""
        while self._read():
            pass
        return self._wait(), self.shown

    def _read(self) -> bool:
        """Whether there may be more."""
        assert time.monotonic() < self._deadline, self.shown
        ready, _, _ = select.select([self._terminal], [], [], 1)
        if not ready:
            return True
        try:
            chunk = os.read(self._terminal, 4096)
        except OSError:  # the other side has closed it
            return False
        self._shown += chunk
        return bool(chunk)

    def _wait(self) -> int:
        self._ended = True
        return self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._terminal)
        if not self._ended:
            self._child.kill()
            self._wait()


def drawn(shown: str) -> list[bytes]:
    """The modules of the QR code on a terminal, without its quiet zone: two rows in each line, dark is ink."""
    halves = {" ": (0, 0), "\u2580": (1, 0), "\u2584": (0, 1), "\u2588": (1, 1)}
    found: list[bytes] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines():
        if line and set(line) <= set(halves):
            found += (bytes(halves[cell][half] for cell in line) for half in (0, 1))
    rows = [row[2:-2] for row in found[2:]]
    return rows[: len(rows[0])]
