"""What the host can tell a running signer: say how you are, seal, reset the clock's high water. Each is journalled."""

import logging
import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import OPS
from signer.gate import Gate
from signer.hostsocket import Handler
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ledger import Journalist, Transaction

#: The longest that any cap can still be valid for, with the tolerance of clocks on both sides and some.
CLOCK_RESET_WAIT_S: Final = max(rule.window_s for rule in OPS.values()) + 120.0
#: A window for re-wrapping is a bounded exception to "every release needs a device": an afternoon is enough.
MAX_WINDOW_MIN: Final = 240
_LOG: Final = logging.getLogger("agentkeys.signer.host")


class HostJournal(Journalist, Protocol):
    """The committer, as far as host actions need it."""

    def reset_clock(self) -> None:
        """Set the high-water mark of time to the present clock."""
        ...


class HostActions:
    """The commands of the host socket. `close` ends a wait that is under way; the mark then stays what it was."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        journal: HostJournal,
        gate: Gate,
        facts: Handler,
        clock_reset_wait_s: float = CLOCK_RESET_WAIT_S,
    ) -> None:
        self._keyring = keyring
        self._journal = journal
        self._gate = gate
        self._facts = facts
        self._wait_s = clock_reset_wait_s
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._reset: threading.Thread | None = None

    def handlers(self) -> Mapping[str, Handler]:
        """Each command by name."""
        return {
            "status": self.status,
            "seal": self.seal,
            "clock-reset": self.clock_reset,
            "rewrap-window": self.rewrap_window,
        }

    def status(self) -> Mapping[str, object]:
        """How the signer is; no secret, nothing of any user."""
        sealed = self._gate.sealed or self._keyring.sealed
        held: list[int] = []
        with suppress(KeyServiceError):
            held = list(self._keyring.epochs)
        self._note("status")
        return {
            **self._facts(),
            "epochs_held": held,
            "sealed": sealed,
            "serving": not sealed and self._gate.held_s == 0,
            "waiting_s": round(self._gate.held_s),
            "rewrap_window_s": math.ceil(self._gate.window_s),
        }

    def seal(self) -> Mapping[str, object]:
        """Wipe every secret, in all processes. Only a new start opens the vault again."""
        self._note("seal")  # under a MAC that needs the key which is about to go
        self._gate.seal()
        self._keyring.seal()
        return {"sealed": True}

    def clock_reset(self) -> Mapping[str, object]:
        """Begin the wait after which the high-water mark is set to the present clock; nothing is served until then."""
        with self._starting:
            if self._reset is not None and self._reset.is_alive():
                raise KeyServiceError(Reason.CLOCK_BEHIND, "a reset is under way")
            self._gate.hold(self._wait_s)
            self._reset = threading.Thread(target=self._reset_later, name="clock-reset", daemon=True)
            self._reset.start()
        return {"wait_s": round(self._wait_s)}

    def rewrap_window(self, minutes: object = None) -> Mapping[str, object]:
        """Open the window of `Rewrap` for so many minutes, close it with 0, or say how long it is open yet.

        What cannot be journalled is not opened. No window outlives the process.

        Raises:
            KeyServiceError: invalid_body; journal_unavailable.
        """
        if minutes is not None:
            if type(minutes) is not int or not 0 <= minutes <= MAX_WINDOW_MIN:
                raise KeyServiceError(Reason.INVALID_BODY, f"a window is open for 1 to {MAX_WINDOW_MIN} minutes")
            if not minutes:
                self._gate.open_window(0)  # whether or not it can be journalled
                self._note("rewrap-window-close")
            else:
                self._journal.run(lambda tx: _write_line(tx, "rewrap-window-open", f"{minutes} min"))
                self._gate.open_window(minutes * 60.0)
        return {"rewrap_window_s": math.ceil(self._gate.window_s)}

    def close(self) -> None:
        """Give up a wait that is under way."""
        self._stopping.set()
        if self._reset is not None:
            self._reset.join()

    def _reset_later(self) -> None:
        if self._stopping.wait(self._wait_s):
            return
        try:
            self._journal.reset_clock()
        except KeyServiceError as exc:
            _LOG.error("the clock's high-water mark was not reset: %s", exc.reason)

    def _note(self, method: str) -> None:
        try:
            self._journal.run(lambda tx: _write_line(tx, method))
        except KeyServiceError as exc:  # a host must be able to seal also where nothing can be written
            _LOG.error("host command %s was not journalled: %s", method, exc.reason)


def _write_line(tx: Transaction, method: str, reason: str = "") -> None:
    tx.journal(JournalLine(at=tx.now, kind=LineKind.HOST, method=method, caller="host", reason=reason))
