"""The registry that the signer owns: SQLite as the truth, states cached in each process."""

import hmac
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Never, TypeVar

from agentkeys_core.changes import AddMaster, Enrol
from agentkeys_core.eip712 import Domain
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash as key_hash_of
from agentkeys_core.registry import DeviceRecord, K11Public, OperatorState
from agentkeys_core.signed_change import SignedChange
from agentkeys_runtime.registry_cache import StateCache
from signer.adapters import registry_store as store
from signer.adapters.committer import Committer, Tx
from signer.adapters.database import Database
from signer.adapters.registry_lasting import read_next_due
from signer.adapters.registry_stamp import StampHolder
from signer.adapters.registry_writer import ChangeWriter
from signer.attesting import Attestation
from signer.journal import JournalLine, LineKind
from signer.keyring import Keyring
from signer.ports import Clock, RegistryStatus, WalletRef
from signer.registry_head import GENESIS, AppliedChange, RegistryHead, mac_message
from signer.registry_proofs import prove
from signer.registry_shape import check_shape

#: A process that died between its commit and its second stamp is noticed this late, in seconds.
RECHECK_S: Final = 0.2
#: How often a stream looks at the stamp for changes that another process applied, in seconds.
POLL_S: Final = 0.05
#: How soon rotations that are due are tried again where they could not be carried out, in seconds.
_SETTLE_AGAIN_S: Final = 1.0
#: Missed changes beyond this number: forget every state instead of naming the operators.
_MANY_CHANGES: Final = 1000
_log = logging.getLogger(__name__)
T = TypeVar("T")


class EmbeddedRegistry(StampHolder):
    """Implements `RegistryReader` and applies changes. Open it after a fork; safe for many threads.

    Reads raise `registry_unreachable` where the file cannot be read, and `registry_rolled_back` once it is known to be
    older than it was; the signer has sealed itself by then.
    """

    def __init__(
        self,
        database: Database,
        committer: Committer,
        keyring: Keyring,
        clock: Clock,
        allow_software_k11: bool = False,
        *,
        seal_all: Callable[[], None] | None = None,
    ) -> None:
        """Open the registry of `database`; `seal_all` tells the signer's other processes to seal themselves as well."""
        self._database = database
        self._committer = committer
        self._keyring = keyring
        self._clock = clock
        self._software_k11 = allow_software_k11
        self._seal_all = seal_all
        self._cache = StateCache()
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._rolled_back = False
        self._checked_at = 0.0
        self._next_due: int | None = None
        self._settle_from = 0.0
        with self._reading() as conn:
            self._status = store.read_status(conn)
        self._sequence = 0
        self._domain = Domain.embedded(self._status.registry_id)
        self._writer = ChangeWriter(keyring, self._domain, software_k11=allow_software_k11)
        self._hold(database.path, self._status.registry_id, self._first_look)

    def _first_look(self) -> None:
        self._stamp = self._shared.read()
        self._refresh()

    def lookup_device(self, device_key_hash: bytes) -> OperatorState | None:
        """State of the operator to which the device belongs; None for a key hash never registered."""
        self._refresh_if_due()
        state = self._cache.of_device(device_key_hash)
        return state or self._load(lambda conn: store.read_operator_of(conn, device_key_hash), device_key_hash)

    def operator(self, operator_omni: bytes) -> OperatorState | None:
        """State of one operator; None where no such operator is registered."""
        self._refresh_if_due()
        return self._cache.of_operator(operator_omni) or self._load(lambda _: operator_omni)

    def k11_by_credential(self, credential_id_hash: bytes) -> DeviceRecord | None:
        """The unrevoked master device that registered this credential first; None for an unknown one."""
        self._refresh_if_due()
        with self._reading() as conn:
            return store.read_k11_device(conn, credential_id_hash, software_k11=self._software_k11)

    def wallet(self, actor_omni: bytes) -> WalletRef | None:
        """What the actor's K4 is derived from; None where the actor has a wallet of its own."""
        self._refresh_if_due()
        with self._reading() as conn:
            return store.read_wallet(conn, actor_omni)

    def status(self) -> RegistryStatus:
        """Registry id, current K3 epoch and incarnation."""
        self._refresh_if_due()
        return self._status

    def sequence(self) -> int:
        """Number of the newest change that reads from now on are sure to show."""
        self._refresh_if_due()
        return self._sequence

    def head(self) -> RegistryHead:
        """The newest head, MACed anew under the current epoch. Raises also `sealed`."""
        self._refresh_if_due()
        with self._reading() as conn:
            stored = store.read_head(conn)
            status = store.read_status(conn)
        if stored is not None and not hmac.compare_digest(self._mac(stored, stored.incarnation), stored.mac):
            self.roll_back("the MAC of the stored head is not ours", "signer")
        sequence, digest = (0, GENESIS) if stored is None else (stored.sequence, stored.hash)
        message = mac_message(status.registry_id, incarnation=status.incarnation, sequence=sequence, head=digest)
        mac = self._keyring.journal_mac(status.k3_epoch, message)
        return RegistryHead(sequence=sequence, hash=digest, mac=mac, epoch=status.k3_epoch)

    def changes_after(self, sequence: int, limit: int = 256) -> tuple[AppliedChange, ...]:
        """The first `limit` changes beyond `sequence`, in order."""
        self._refresh_if_due()
        with self._reading() as conn:
            return store.read_changes(conn, after=sequence, limit=limit)

    def wait_for_change(self, timeout_s: float, *, after: int) -> bool:
        """Return true as soon as a change beyond `after` is committed by any process, false after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.sequence() <= after:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                if self._shared.read() == self._stamp:
                    self._changed.wait(min(left, POLL_S))
        return True

    def check_known(self, known: RegistryHead, *, caller: str) -> None:
        """Compare with a head that a client has seen; what does not carry our MAC says nothing.

        Raises:
            KeyServiceError: `registry_rolled_back` if the client has seen changes that this registry does not have. The
                signer is sealed then, and the journal says so.
        """
        if known.sequence == 0 or not self._keyring.holds(known.epoch):
            return
        status = self.status()
        if not hmac.compare_digest(self._mac(known, status.incarnation), known.mac):
            return
        with self._reading() as conn:
            own = store.read_head(conn, at=known.sequence)
        if own is None:
            self._shared.raise_high_water(status.incarnation, known.sequence)
        if own is None or own.hash != known.hash:
            self.roll_back(f"{caller} has seen change {known.sequence}, which is not here", caller)

    def apply(self, signed: SignedChange, *, caller: str = "unknown") -> bytes:
        """Apply a change and return its signed audit row (canonical JSON), once both are on disk.

        A change that was applied before returns the same bytes, whatever has changed since. `caller` names the
        certificate that relayed it, for the journal.

        Raises:
            KeyServiceError: as `check_shape`, `prove` and `decide`; `registry_unreachable`, `journal_unavailable`.
        """
        self._refresh_if_due()
        digest = signed.digest(self._domain)
        with self._reading() as conn:
            applied = store.read_row(conn, digest)
        if applied is not None:
            return applied
        check_shape(signed, now=int(self._clock.now()))
        proofs = prove(signed, domain=self._domain, k11_of=self._k11_source(signed))
        return self._commit(lambda tx: self._writer.write(tx, signed, proofs, caller=caller))

    def attest(self, attestation: Attestation, *, caller: str) -> None:
        """Remember what was attested for an Enrol, durably and journalled, so that `apply` lets it through.

        Raises:
            KeyServiceError: already_bound, invalid_evidence, stale_epoch, future_epoch; `journal_unavailable`.
        """
        self._refresh_if_due()
        self._commit(lambda tx: self._writer.attest(tx, attestation, caller=caller))

    def annul(self, operator_omni: bytes) -> bytes:
        """Annul a first bind by e-mail that never released anything, on the host's word; returns the signed row.

        Raises:
            KeyServiceError: not_found, already_bound; `journal_unavailable`.
        """
        self._refresh_if_due()
        return self._commit(lambda tx: self._writer.write_annulment(tx, operator_omni))

    def settle(self) -> None:
        """Carry out key rotations whose time has come; any process may, and one of them does. Cheap where none is due.

        What cannot be written now is tried again; reads show the old key until it is.
        """
        due, now = self._next_due, time.monotonic()
        if due is None or self._clock.now() < due or now < self._settle_from:
            return
        self._settle_from = now + _SETTLE_AGAIN_S
        try:
            self._commit(self._writer.settle)
        except Exception:  # noqa: BLE001  # whatever it was, the thread that asks must go on asking
            _log.exception("key rotations that are due wait on")
        else:
            self._settle_from = now

    def _commit(self, unit: Callable[[Tx], T]) -> T:
        """What `unit` returns, once it is on disk and every state that it made old is forgotten here."""
        self._shared.bump()  # nobody trusts a state that is read while this is being committed
        try:
            found = self._committer.run(unit)
        except sqlite3.Error as exc:
            raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, "the change could not be written") from exc
        self._shared.bump()
        self._refresh()
        return found

    def _k11_source(self, signed: SignedChange) -> Callable[[bytes], K11Public | None]:
        """Where the K11 keys of a change are found: its own for a new master, else those of the operator's devices."""
        change = signed.change
        own = {key_hash_of(change.device): change.k11} if isinstance(change, (Enrol, AddMaster)) else {}
        if isinstance(change, Enrol):
            return own.get
        state = self.operator(change.operator_omni)
        known = {} if state is None else {key_hash: device.k11 for key_hash, device in state.devices.items()}
        return {**known, **own}.get  # the rules never count a newcomer's assertion for a master that it claims to be

    def _mac(self, head: RegistryHead, incarnation: int) -> bytes:
        message = mac_message(self._status.registry_id, incarnation=incarnation, sequence=head.sequence, head=head.hash)
        return self._keyring.journal_mac(head.epoch, message)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent snapshot for several reads."""
        try:
            conn = self._database.reader()
            conn.execute("BEGIN")
            try:
                yield conn
            finally:
                conn.execute("ROLLBACK")
        except sqlite3.Error as exc:
            raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, "the registry cannot be read") from exc

    def _load(
        self, find: Callable[[sqlite3.Connection], bytes | None], device_key_hash: bytes | None = None
    ) -> OperatorState | None:
        """Read a state and keep it, unless a change that it may not show was seen meanwhile."""
        with self._reading() as conn:
            operator = find(conn)
            if operator is None:
                return None
            sequence, status = store.read_sequence(conn), store.read_status(conn)
            state = store.read_operator(conn, operator, status, software_k11=self._software_k11)
        if state is not None:
            with self._lock:
                if sequence >= self._sequence and status == self._status:
                    self._cache.put(state, device_key_hash)
        return state

    def _refresh_if_due(self) -> None:
        """Notice what any process committed: at once by the stamp, and every 200 ms without it."""
        if self._shared.read() != self._stamp or time.monotonic() - self._checked_at >= RECHECK_S or self._rolled_back:
            self._refresh()

    def _refresh(self) -> None:
        """Forget the states that changes since the last look have made old."""
        with self._lock:
            if self._rolled_back:
                raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, "the registry is older than it was")
            # Stamp and high water before the snapshot: what is committed in between is seen now, or looked for again.
            stamp, high_water = self._shared.read(), self._shared.high_water(self._status.incarnation)
            with self._reading() as conn:
                sequence, status = store.read_sequence(conn), store.read_status(conn)
                changes = store.read_changes(conn, after=self._sequence, limit=_MANY_CHANGES)
                self._next_due = read_next_due(conn)
            if status.incarnation == self._status.incarnation and sequence < max(self._sequence, high_water):
                self.roll_back(f"change {max(self._sequence, high_water)} is missing", "signer")
            if status != self._status or len(changes) == _MANY_CHANGES:
                self._cache.clear()
            self._cache.drop(change.operator_omni for change in changes)
            moved = sequence != self._sequence
            self._status, self._sequence = status, sequence
            self._stamp, self._checked_at = stamp, time.monotonic()
            if moved:
                self._shared.raise_high_water(status.incarnation, sequence)
        with self._changed:
            self._changed.notify_all()

    def roll_back(self, detail: str, caller: str) -> Never:
        """Stop releasing anything: refuse every read from here on, say so in the journal, seal."""
        self._rolled_back = True
        _log.critical("registry rolled back, sealing: %s", detail)
        try:
            self._committer.run(lambda tx: tx.journal(_seal_line(tx.now, caller)))
        except KeyServiceError as exc:  # the seal does not wait for a journal that cannot be written
            _log.critical("the seal is not in the journal: %s", exc)
        if self._seal_all is not None:
            self._seal_all()
        self._keyring.seal()
        raise KeyServiceError(Reason.REGISTRY_ROLLED_BACK, detail)


def _seal_line(now: int, caller: str) -> JournalLine:
    reason = Reason.REGISTRY_ROLLED_BACK.value
    return JournalLine(at=now, kind=LineKind.HOST, method="seal", caller=caller, reason=reason)
