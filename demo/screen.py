"""What a person reads: one line a step with its time; colour on a terminal only."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

_TITLE_WIDTH = 24
_ATTEMPT_WIDTH = 72
_GREEN, _RED, _BOLD, _DIM = "32", "31", "1", "2"


def size(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count:,} byte{'' if count == 1 else 's'}"


class Screen:
    """Prints steps and attempts as they end, and counts what went wrong."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._is_terminal = self._out.isatty()
        self._colour = self._is_terminal and "NO_COLOR" not in os.environ
        self.failed = 0
        self.attempts = 0

    def heading(self, text: str) -> None:
        """Begin a part."""
        self._line(f"\n{self._paint(text, _BOLD)}")

    def say(self, text: str = "") -> None:
        """Print a line as it is."""
        self._line(text)

    def step(self, title: str, work: Callable[[], str]) -> None:
        """Do one step of the main job and print its line; whatever it raises is printed as its end, and raised."""
        started = self._begin(title)
        try:
            note = work()
        except BaseException as exc:
            words = str(exc).splitlines() or [type(exc).__name__]
            self._end(started, _RED, "FAIL", f"{title:<{_TITLE_WIDTH}} {words[0]}")
            self.failed += 1
            raise
        self._end(started, _GREEN, "ok", f"{title:<{_TITLE_WIDTH}} {self._paint(note, _DIM)}")

    def attempt(self, title: str, expected: str, work: Callable[[], str]) -> None:
        """Make one attempt and print what it got; one that gets anything but `expected` counts as failed."""
        started = self._begin(title)
        self.attempts += 1
        try:
            got = work()
        except Exception as exc:  # noqa: BLE001 - an attempt that ends otherwise is a finding, and the others go on
            got = f"{type(exc).__name__}: {exc}".splitlines()[0]
        if got == expected:
            self._end(started, _GREEN, "ok", f"{title:<{_ATTEMPT_WIDTH}} {self._paint(got, _GREEN)}")
            return
        self.failed += 1
        self._end(started, _RED, "FAIL", f"{title:<{_ATTEMPT_WIDTH}} {got}; expected {expected}")

    def _begin(self, title: str) -> float:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns  # a line that wraps could not be taken back
            self._out.write(f"  ...          {title}"[: width - 1])
            self._out.flush()
        return time.monotonic()

    def _end(self, started: float, colour: str, mark: str, text: str) -> None:
        if self._is_terminal:
            self._out.write("\r\x1b[2K")
        self._line(f"  {self._paint(f'{mark:<4}', colour)} {time.monotonic() - started:5.2f} s  {text}")

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
