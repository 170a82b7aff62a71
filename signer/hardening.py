"""What the process denies itself and its neighbours before it reads a secret."""

import ctypes
import os
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


class HardeningError(Exception):
    """The operating system refused a protection."""


def harden() -> None:
    """Afterwards the process leaves no core dump, and no process of its account can attach to it or read its memory.

    On Linux by RLIMIT_CORE 0 and PR_SET_DUMPABLE 0, which also stops a core pattern that pipes to a program;
    /proc/self/fd then belongs to root. Elsewhere by RLIMIT_CORE alone. New files are the account's own (umask 077).

    Raises:
        HardeningError: the system refused.
    """
    os.umask(0o077)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as exc:
        raise HardeningError("core dumps cannot be disabled") from exc
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise HardeningError(f"PR_SET_DUMPABLE was refused: {os.strerror(ctypes.get_errno())}")
