"""The machine's clock as the signer's port of it."""

import time


class SystemClock:
    """Wall-clock time."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()
