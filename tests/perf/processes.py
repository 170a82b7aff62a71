"""Processes of the bench: started on one core, their CPU time read from the kernel's own clock, stopped by their id."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import psutil

_CORES: Final = sorted(os.sched_getaffinity(0))
#: Where servers run, and where whoever asks them does; one and the same on a machine with a single core.
SERVER_CORE: Final = _CORES[0]
LOAD_CORE: Final = _CORES[-1]
START_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 20.0
_SCHED_CLOCK: Final = 2  # CPUCLOCK_SCHED of the kernel's posix-timers.h
_US: Final = 1_000_000


class BenchError(Exception):
    """Something that the bench needs did not work; the text says what."""


def cpu_us(processes: Iterable[int]) -> float:
    """CPU time (user and system, all threads, microseconds) that these processes have used since they started."""
    return sum(_cpu_s(process) for process in processes) * _US


def _cpu_s(process: int) -> float:
    try:
        return time.clock_gettime((~process << 3) | _SCHED_CLOCK)  # as clock_getcpuclockid(3) makes it: nanoseconds
    except OSError:
        times = psutil.Process(process).cpu_times()  # coarser: clock ticks
        return float(times.user + times.system)


def rss_mib(process: int) -> float:
    """Resident memory of a process, in MiB."""
    return float(psutil.Process(process).memory_info().rss) / 2**20


def pin(process: int, cores: set[int]) -> None:
    """Keep every thread of a process, and those that these will start, on the given cores."""
    for thread in (Path("/proc") / str(process) / "task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def _on(cores: set[int] | None) -> Iterator[None]:
    """Run this thread on these cores for a moment: a process that it starts inherits them, and so do all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or _CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Running:
    """One process that said `ready ...` on its standard output. Stopped when the block ends."""

    def __init__(
        self, module: str, *words: str | Path, log: Path, cores: set[int] | None = None, stdin: bool = False
    ) -> None:
        command = [sys.executable, "-m", module, *(str(word) for word in words)]

        with log.open("ab") as errors, _on(cores):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._name, self._log = module, log
        self._rest = b""
        try:
            self.said = self.line(START_LIMIT_S).removeprefix("ready").strip()
        except BenchError:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def family(self) -> list[int]:
        """The process and those that it forked."""
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]

    def tell(self, line: str) -> None:
        """Write one line to the process' standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def line(self, limit_s: float) -> str:
        """The next line of its standard output. Raises BenchError with the end of its log where none comes."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 65_536) if ready else b""
            if not chunk:
                raise BenchError(f"{self._name} says nothing:\n{self._log.read_text(errors='replace')[-2000:]}")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def stop(self) -> None:
        """End the process: SIGTERM, after a while SIGKILL."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def run(module: str, *words: str | Path) -> bytes:
    """What a command printed, once it ended well. Raises BenchError with the end of its error output."""
    command: Sequence[str] = [sys.executable, "-m", module, *(str(word) for word in words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"{module} {words[0]}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout
