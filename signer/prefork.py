"""Several serving processes on one port: forked before grpc is imported, because grpc does not survive a fork.

The parent holds the host socket and watches; the children serve. Where one ends, all do.
"""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

READY_LIMIT_S: Final = 30.0
STOP_LIMIT_S: Final = 15.0
_POLL_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LOG: Final = logging.getLogger("agentkeys.signer.prefork")


class ChildError(Exception):
    """A serving process did not start, or ended by itself."""


class StopFlag:
    """Raised by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.raised = False

    def install(self) -> None:
        """From now on both signals raise the flag."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._raise)

    def _raise(self, _number: int, _frame: object) -> None:
        self.raised = True

    def wait(self) -> None:
        """Return once the flag is raised."""
        while not self.raised:
            time.sleep(_POLL_S)  # a signal ends the sleep early


@dataclass(slots=True, kw_only=True)
class Children:
    """The serving processes of one signer, by process id."""

    running: set[int] = field(default_factory=set)
    _ready: dict[int, int] = field(default_factory=dict)  # process id → descriptor that it reports on

    def fork(self, count: int, serve: Callable[[Callable[[], None]], None]) -> None:
        """Start `count` processes that run `serve(report_ready)` and then end with 0, or 1 where it raised."""
        for _ in range(count):
            reading, writing = os.pipe()
            process = os.fork()
            if process == 0:
                os.close(reading)
                _child(serve, writing)
            os.close(writing)
            self.running.add(process)
            self._ready[process] = reading

    def wait_ready(self) -> None:
        """Return once each child has reported. Raises ChildError where one ended first or takes longer than 30 s."""
        deadline = time.monotonic() + READY_LIMIT_S
        for process, descriptor in self._ready.items():
            os.set_blocking(descriptor, False)
            while not _reported(descriptor):
                if time.monotonic() > deadline:
                    raise ChildError(f"process {process} is not ready after {READY_LIMIT_S:.0f} s")
                time.sleep(_POLL_S)

    def supervise(self, stop: StopFlag) -> None:
        """Return once `stop` is raised. Raises ChildError as soon as a child ended by itself."""
        while not stop.raised:
            ended = self._reap()
            if ended:
                raise ChildError(f"serving process {min(ended)} ended")
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Ask every child to stop, wait for up to 15 s, and kill what is left."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_S
        while self.running and time.monotonic() < deadline:
            self._reap()
            time.sleep(_POLL_S)
        self._signal(signal.SIGKILL)
        while self.running:
            self._reap()
            time.sleep(_POLL_S)
        for descriptor in self._ready.values():
            os.close(descriptor)
        self._ready.clear()

    def _signal(self, number: int) -> None:
        for process in self.running:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _reap(self) -> set[int]:
        """The children that ended since the last look."""
        ended = {process for process in self.running if os.waitpid(process, os.WNOHANG)[0] == process}
        self.running -= ended
        return ended


def _reported(descriptor: int) -> bool:
    try:
        said = os.read(descriptor, 1)
    except BlockingIOError:
        return False
    if not said:
        raise ChildError("a serving process ended while it started")
    return True


def _child(serve: Callable[[Callable[[], None]], None], writing: int) -> None:
    """Never returns."""
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # not to outlive a killed parent

        def report() -> None:
            os.write(writing, b"1")

        serve(report)
        status = 0
    except BaseException:  # noqa: BLE001  # the parent's stack must not be unwound a second time
        _LOG.exception("a serving process failed")
    finally:
        logging.shutdown()
        os._exit(status)
