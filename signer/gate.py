"""Whether this signer serves at all: one small block of memory that all of its processes share.

Host commands reach one process; the others learn of them here, at their next call.
"""

import mmap
import struct
import time
from collections.abc import Callable
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

_SEALED: Final = 0
_HOLD: Final = struct.Struct("=d")  # monotonic seconds; the clock is one for all processes of a machine
_HOLD_AT: Final = 8
_WINDOW_AT: Final = 16


class Gate:
    """Open at first; closed for ever by `seal`, for a while by `hold`. Make it before the processes fork."""

    __slots__ = ("_memory", "_monotonic")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)  # anonymous and shared with every child
        self._monotonic = monotonic

    def seal(self) -> None:
        """From now on nothing is served by any process."""
        self._memory[_SEALED] = 1

    @property
    def sealed(self) -> bool:
        """Whether `seal` was called in any process."""
        return self._memory[_SEALED] != 0

    def hold(self, wait_s: float) -> None:
        """Serve nothing for `wait_s` seconds."""
        _HOLD.pack_into(self._memory, _HOLD_AT, self._monotonic() + wait_s)

    @property
    def held_s(self) -> float:
        """Seconds until a hold ends; 0 where there is none."""
        (until,) = _HOLD.unpack_from(self._memory, _HOLD_AT)
        return max(0.0, float(until) - self._monotonic())

    def open_window(self, length_s: float) -> None:
        """Let envelopes be re-wrapped for `length_s` seconds from now; 0 closes the window."""
        _HOLD.pack_into(self._memory, _WINDOW_AT, self._monotonic() + length_s)

    @property
    def window_s(self) -> float:
        """Seconds until the window closes; 0 where it is closed, as it is at every start."""
        (until,) = _HOLD.unpack_from(self._memory, _WINDOW_AT)
        return max(0.0, float(until) - self._monotonic())

    def check_window(self) -> None:
        """Return while the host lets envelopes be re-wrapped.

        Raises:
            KeyServiceError: window_closed.
        """
        if self.window_s <= 0:
            raise KeyServiceError(Reason.WINDOW_CLOSED, "the host has opened no window")

    def check(self) -> None:
        """Return where calls may be served.

        Raises:
            KeyServiceError: sealed; clock_behind during the wait of a clock reset.
        """
        if self._memory[_SEALED]:
            raise KeyServiceError(Reason.SEALED, "sealed by the host")
        if self.held_s > 0:
            raise KeyServiceError(Reason.CLOCK_BEHIND, "waiting out the longest window before the clock is reset")
