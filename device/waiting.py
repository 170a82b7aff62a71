"""Asking again until another side has done its step, at a pace that the asked part may slow down."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from agentkeys_core.errors import Code, KeyServiceError
from device.errors import DeviceError, Trouble
from device.problems import RETRY_AFTER, metadata_integer

#: How often one side asks whether the other has done its step, and how long: what the broker keeps lasts as long.
POLL_S: Final = 1.0
WAIT_S: Final = 600.0
#: Refusals that say nothing about what was asked, only about now.
TRY_AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})

T = TypeVar("T")
Pause = Callable[[float], None]


def until(ask: Callable[[], T | None], *, otherwise: DeviceError, pause: Pause, limit_s: float = WAIT_S) -> T:
    """Ask until there is something; a part that is away or busy for a while ends nothing, and is asked when it says.

    Raises:
        KeyServiceError, DeviceError: what `ask` raises for good; `otherwise` after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while True:
        found, wait_s = None, POLL_S
        try:
            found = ask()
        except DeviceError as exc:
            if exc.reason is not Trouble.UNREACHABLE:
                raise
        except KeyServiceError as exc:
            if exc.reason.code not in TRY_AGAIN:
                raise
            wait_s = max(POLL_S, metadata_integer(exc, RETRY_AFTER) or 0)
        if found is not None:
            return found
        left = deadline - time.monotonic()
        if left <= 0:
            raise otherwise
        pause(min(wait_s, max(left, POLL_S)))
