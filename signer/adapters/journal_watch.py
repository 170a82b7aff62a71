"""Notices a journal that is older than it was: by the high-water stamp on this host, and by heads that clients know.

A release or a burn changes no registry state, so the registry's own head would not show that one was undone.
"""

import hmac
from collections.abc import Callable
from types import TracebackType
from typing import Never, Self

from agentkeys_core.errors import KeyServiceError, Reason
from signer.adapters.database import Database
from signer.adapters.registry_stamp import SharedStamp
from signer.adapters.registry_store import read_status
from signer.journal import JournalHead, read_head, read_line_hash, stream_message
from signer.keyring import Keyring
from signer.ports import RegistryStatus

#: Stops releasing anything, for this reason and on this caller's word; raises registry_rolled_back.
RollBack = Callable[[str, str], Never]


def refuse_to_start(detail: str, _caller: str) -> Never:
    """What a rollback means before anything is served."""
    raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, detail)


class JournalWatch:
    """Safe for many threads; open it after a fork."""

    def __init__(self, database: Database, keyring: Keyring, *, roll_back: RollBack) -> None:
        """Watch the journal of `database`. Raises registry_rolled_back where it is older than the stamp knows."""
        self._database = database
        self._keyring = keyring
        self._roll_back = roll_back
        with database.reading() as conn:
            self._registry_id = read_status(conn).registry_id
        self._stamp = SharedStamp.beside(database.path, self._registry_id)
        try:
            self.look()
        except BaseException:
            self._stamp.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the stamp."""
        self._stamp.close()

    def look(self) -> None:
        """Compare with the high water and raise it. Raises registry_rolled_back, journal_unavailable."""
        status, _ = self._read()
        high_water = self._stamp.journal_high_water(status.incarnation)  # before the snapshot: it can only be older
        status, head = self._read()
        if head.sequence < high_water:
            self._roll_back(f"journal line {high_water} is missing", "signer")
        self._stamp.raise_journal(status.incarnation, head.sequence)

    def head(self) -> JournalHead:
        """The newest head, MACed for clients to keep and to echo.

        The key is that of the oldest held epoch: whatever older vault is put back, it can check what it once said.
        """
        status, head = self._read()
        epoch = min(self._keyring.epochs)
        return JournalHead(
            sequence=head.sequence, hash=head.hash, epoch=epoch, mac=self._mac(status.incarnation, head, epoch)
        )

    def check_known(self, known: JournalHead, *, caller: str) -> None:
        """Compare with a head that a client has seen; what does not carry our MAC says nothing.

        Raises:
            KeyServiceError: registry_rolled_back where that line is not here, or another one is.
        """
        if known.sequence == 0 or not self._keyring.holds(known.epoch):
            return
        status, _ = self._read()
        if not hmac.compare_digest(self._mac(status.incarnation, known, known.epoch), known.mac):
            return
        with self._database.reading() as conn:
            own = read_line_hash(conn, known.sequence)
        if own != known.hash:
            self._stamp.raise_journal(status.incarnation, known.sequence)
            self._roll_back(f"{caller} has seen journal line {known.sequence}, which is not here", caller)

    def _read(self) -> tuple[RegistryStatus, JournalHead]:
        with self._database.reading() as conn:
            return read_status(conn), read_head(conn)

    def _mac(self, incarnation: int, head: JournalHead, epoch: int) -> bytes:
        message = stream_message(
            self._registry_id, incarnation=incarnation, sequence=head.sequence, head_hash=head.hash
        )
        return self._keyring.journal_mac(epoch, message)
