"""K11's one port, which tests in other processes may want at the same moment."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkeys_core.k11 import K11_PORT


@contextmanager
def k11_port() -> Iterator[None]:
    """Have the port for oneself."""
    with (Path(tempfile.gettempdir()) / f"agentkeys-tests-{K11_PORT}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
