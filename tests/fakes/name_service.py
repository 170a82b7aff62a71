"""`agentkeys` where the names of the tests lead to this machine, as a browser of theirs has it. Nothing else differs.

A name under `.test` is in no DNS (RFC 6761), so nothing of this ever leaves the machine.
"""

import socket
from typing import Any

from device.cli import main

_asked = socket.getaddrinfo


def _here(host: Any, *rest: Any, **more: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    return _asked("127.0.0.1" if isinstance(name, str) and name.endswith(".test") else host, *rest, **more)


if __name__ == "__main__":
    socket.getaddrinfo = _here
    main()
