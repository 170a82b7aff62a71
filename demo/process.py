"""Processes of the demo: started, awaited until they say `ready`, and ended by their own id."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

START_LIMIT_S = 30.0
STOP_LIMIT_S = 8.0
_LOG_END = 2000


class StackError(Exception):
    """A part of the stack did not do its work; the message holds the end of what it said."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> list[str]:
    """Return the command line that runs one of our console commands in this very environment."""
    return [sys.executable, "-m", name]


def run(command: Sequence[str | Path], *, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; StackError with its error output where it fails."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-_LOG_END:].strip()
        raise StackError(f"{' '.join(str(part) for part in command[2:5])} ended with {done.returncode}: {said}")
    return done


@dataclass(slots=True, kw_only=True)
class Service:
    """One process: its command, its log, the process while it runs."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait for its `ready` line."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the process, in a session of its own: Ctrl-C reaches us, and we end it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def await_ready(self) -> None:
        """Wait for the `ready` line; StackError with the end of the log where it does not come."""
        if self.process is None or self.process.stdout is None:
            raise StackError(f"{self.name} is not running")
        pipe = self.process.stdout
        deadline = time.monotonic() + START_LIMIT_S
        seen = b""
        while b"\n" not in seen:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(pipe.fileno(), 4096) if ready else b""
            if not chunk:
                self.stop()
                raise StackError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-_LOG_END:]}")
            seen += chunk
        if not seen.startswith(b"ready "):
            self.stop()
            raise StackError(f"{self.name} said {seen!r} instead of ready")

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        if self.process is None:
            raise StackError(f"{self.name} is not running")
        return self.process.pid

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL; nothing where it does not run."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reap()

    def kill(self) -> None:
        """End the process by SIGKILL, as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        if self.process is None:
            return
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
