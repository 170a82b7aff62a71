"""K11 by WebAuthn in the person's own browser: a security key, or what the laptop has built in."""

import secrets
from collections.abc import Callable

from agentkeys_core.encoding import hex_encode
from agentkeys_core.k11 import K11_PORT, K11Assertion
from device.home import Home
from device.intent import Intent
from device.k11.ceremony import read_assertion, read_creation
from device.k11.options import creation_options, request_options
from device.k11.page import TIMEOUT_S, Ceremony, Task, run_ceremony
from device.k11.port import K11Record, check_shown
from device.keys import SignedDigest


class BrowserAuthenticator:
    """Asks on the device's own page, `http://localhost:8722`; `ceremony` in its place has the console open that."""

    __slots__ = ("_announce", "_ceremony", "_port", "_timeout_s")

    def __init__(
        self,
        announce: Callable[[str], None],
        *,
        port: int = K11_PORT,
        timeout_s: float = TIMEOUT_S,
        ceremony: Callable[[Task], None] | None = None,
    ) -> None:
        self._announce = announce
        self._port = port
        self._timeout_s = timeout_s
        self._ceremony = ceremony

    def create(self, home: Home, *, device_key_hash: bytes) -> K11Record:  # noqa: ARG002 - nothing of it is kept in the folder
        """Have the browser make a key with user verification and return its public half."""
        challenge = secrets.token_bytes(32)
        made: list[K11Record] = []
        task = Task(
            kind="create",
            title="Make this device's K11 key",
            lines=(("used for", "approving what this device signs"), ("device", hex_encode(device_key_hash))),
            digest="",  # nothing is signed yet that a terminal could show
            options=creation_options(challenge, device_key_hash=device_key_hash, timeout_s=self._timeout_s),
            accept=lambda obj: made.append(read_creation(obj, challenge=challenge)),
        )
        self._run(task)
        return made[0]

    def approve(self, record: K11Record, signed: SignedDigest, intent: Intent) -> K11Assertion:
        """Show the intent on the page and return the assertion of whoever approved it."""
        check_shown(signed, intent)
        given: list[K11Assertion] = []
        task = Task(
            kind="get",
            title=intent.title,
            lines=intent.lines,
            digest=hex_encode(intent.digest),
            options=request_options(signed.challenge, record=record, timeout_s=self._timeout_s),
            accept=lambda obj: given.append(read_assertion(obj, challenge=signed.challenge, record=record)),
        )
        self._run(task)
        return given[0]

    def _run(self, task: Task) -> None:
        if self._ceremony is not None:
            return self._ceremony(task)
        return run_ceremony(Ceremony(task=task), self._announce, port=self._port, timeout_s=self._timeout_s)
