"""Notices a journal that is older than it was: by the high-water stamp on this host, and by heads that clients know.

A release or a burn changes no registry state, so the registry's own head would not show that one was undone.
"""

import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import Never

from agentkeys_core.errors import KeyServiceError, Reason
from signer.adapters.database import Database
from signer.adapters.registry_stamp import StampHolder
from signer.adapters.registry_store import read_status
from signer.journal import JournalHead, StreamHead, read_head, read_line_hash, stream_message
from signer.keyring import Keyring

#: Stops releasing anything, for this reason and on this caller's word; raises registry_rolled_back.
RollBack = Callable[[str, str], Never]


def refuse_to_start(detail: str, _caller: str) -> Never:
    """What a rollback means before anything is served."""
    raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, detail)


class JournalWatch(StampHolder):
    """Safe for many threads; open it after a fork."""

    def __init__(self, database: Database, keyring: Keyring, *, roll_back: RollBack) -> None:
        """Watch the journal of `database`. Raises registry_rolled_back where it is older than the stamp knows."""
        self._database = database
        self._keyring = keyring
        self._roll_back = roll_back
        with database.reading() as conn:
            status = read_status(conn)
        self._registry_id, self._incarnation = status.registry_id, status.incarnation
        self._hold(database.path, self._registry_id, self.look)

    def look(self) -> None:
        """Compare with the high water and raise it. Raises registry_rolled_back, journal_unavailable."""
        if self._shared.incarnation > self._incarnation:
            self._roll_back(f"incarnation {self._shared.incarnation} of this state was here", "signer")
        high_water = self._shared.journal_high_water(self._incarnation)  # before the snapshot: that is as new, or newer
        sequence = self._own_head().sequence
        if sequence < high_water:
            self._roll_back(f"journal line {high_water} is missing", "signer")
        self._shared.raise_journal(self._incarnation, sequence)

    def head(self) -> StreamHead:
        """The newest head, MACed for clients to keep and to echo.

        The key is that of the oldest held epoch: whatever older vault is put back, it can check what it once said.
        """
        own = self._own_head()
        epoch = min(self._keyring.epochs)
        unsigned = StreamHead(sequence=own.sequence, hash=own.hash, epoch=epoch, mac=b"", incarnation=self._incarnation)
        return replace(unsigned, mac=self._mac(unsigned))

    def check_known(self, known: StreamHead, *, caller: str) -> None:
        """Compare with a head that a client has seen; one without our MAC, or from before a restore, says nothing.

        Raises:
            KeyServiceError: registry_rolled_back where that line is not here, or another one is.
        """
        if known.sequence == 0 or known.incarnation < self._incarnation or not self._keyring.holds(known.epoch):
            return
        if not hmac.compare_digest(self._mac(known), known.mac):
            return
        if known.incarnation > self._incarnation:
            self._roll_back(f"{caller} has seen incarnation {known.incarnation}", caller)
        with self._database.reading() as conn:
            own = read_line_hash(conn, known.sequence)
        if own != known.hash:
            self._shared.raise_journal(self._incarnation, known.sequence)
            self._roll_back(f"{caller} has seen journal line {known.sequence}, which is not here", caller)

    def _own_head(self) -> JournalHead:
        with self._database.reading() as conn:
            return read_head(conn)

    def _mac(self, head: StreamHead) -> bytes:
        message = stream_message(
            self._registry_id, incarnation=head.incarnation, sequence=head.sequence, head_hash=head.hash
        )
        return self._keyring.journal_mac(head.epoch, message)
