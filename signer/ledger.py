"""What the signer remembers of caps and objects, and what a unit of work may ask of it. `adapters.ledger` keeps it.

Spec: design section 4 ("Once", "Version rule") and section 5 ("Journal and audit are one thing").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntFlag
from typing import Protocol, TypeVar

from agentkeys_core.audit import AuditEnvelope, AuditRow
from agentkeys_core.ops import ObjectClass
from signer.holds import Hold
from signer.journal import JournalLine

T = TypeVar("T")


class Burn(IntFlag):
    """The RPCs for which a cap digest was used up. READ marks releases that may be repeated inside the window."""

    NONE = 0
    DERIVE_CRED_KEK = 1
    STS_CREDENTIALS = 2
    SIGN_AUDIT_ROW = 4
    READ = 8
    SIGN_SIWE = 16
    SIGN_TYPED_DATA = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CapRecord:
    """What became of one cap digest.

    `row_id` is the row of its last release, `outcome` the result that `SignAuditRow` fixed (None: none yet) and
    `outcome_row_id` the row that was answered with. Stores also keep their salt and the `expect` of their body.
    `keep_until` in Unix seconds.
    """

    digest: bytes
    burned: Burn
    keep_until: int
    row_id: int | None = None
    salt: bytes | None = None
    expect: bytes | None = None
    outcome: int | None = None
    outcome_row_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """One object by what the request says of it, never by what an envelope claims."""

    owner: bytes
    object_class: ObjectClass
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What is known of one object: how many salts were issued, and the number and cap digest of the current store.

    `current` is 0 and `store` None where no store was acknowledged yet.
    """

    object_id: int
    issued: int
    current: int
    store: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSalt:
    """One salt that may still be released: its number within the object, its epoch, the cap digest of its store.

    `expect` is the cap digest of the store that it was issued to replace, None for none. `rewrap`: it holds what an
    older envelope held, so that it replaces a store by itself (or by nothing, where a legacy envelope came in).
    """

    number: int
    epoch: int
    store: bytes
    expect: bytes | None = None
    rewrap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredName:
    """One line of a list: the service, and the cap digest (32 bytes) of its current store."""

    service: str
    store: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """The last checkpoint: rows covered, root (32 bytes), the tree's frontier as `Frontier` encodes it, the note."""

    size: int
    root: bytes
    peaks: bytes
    note: bytes


class LedgerReader(Protocol):
    """Reads, from one consistent snapshot."""

    def cap(self, digest: bytes) -> CapRecord | None:
        """What is remembered of a cap digest."""
        ...

    def versions(self, ref: ObjectRef) -> Versions | None:
        """The object's versions; None where no salt of it is open."""
        ...

    def row(self, row_id: int) -> bytes:
        """A row as signed: its canonical JSON."""
        ...

    def operator_of(self, actor: bytes) -> bytes | None:
        """The operator of an actor that has an audit chain, None for any other."""
        ...

    def checkpoint(self) -> SignedCheckpoint | None:
        """The last checkpoint that was signed."""
        ...

    def hold(self, ref: ObjectRef) -> Hold | None:
        """The last hold of the object, over or not; None where it was ended."""
        ...


class Inventory(LedgerReader, Protocol):
    """What lists are read from: only outside a transaction, where nothing waits to be written."""

    def names(self, owner: bytes, object_class: ObjectClass, *, after: str, limit: int) -> Sequence[StoredName]:
        """Services with a current store, in order, after the service `after`."""
        ...

    def named(self, owner: bytes, object_class: ObjectClass, services: Sequence[str]) -> Iterator[StoredName]:
        """Those of `services` that have a current store, in the order given."""
        ...

    def rows_of_actor(self, actor: bytes, *, after: int | None, limit: int) -> Iterator[tuple[int, bytes]]:
        """(sequence, row) of one actor's chain, after a sequence."""
        ...

    def rows_of_operator(self, operator: bytes, *, after: int | None, limit: int) -> Iterator[tuple[int, bytes]]:
        """(global row id, row) of all chains of one operator, after an id."""
        ...

    def row_count(self) -> int:
        """How many rows there are in all chains."""
        ...

    def row_hashes(self, *, after: int, limit: int) -> Iterator[bytes]:
        """Hashes of rows of all chains in the order of writing, after the first `after`."""
        ...

    def salts_by_epoch(self) -> Mapping[int, int]:
        """How many open salts still name each epoch."""
        ...


class Ledger(LedgerReader, Protocol):
    """Reads and writes inside one transaction."""

    def put_cap(self, record: CapRecord) -> None:
        """Remember `record` in place of whatever was known of its digest."""
        ...

    def note_read(self, digest: bytes, *, row_id: int, keep_until: int) -> None:
        """Remember a release that may be repeated; what else is known of the digest stays."""
        ...

    def version(self, ref: ObjectRef, salt: bytes) -> tuple[Versions | None, IssuedSalt | None]:
        """The object's versions, and the open salt with these bytes if it was issued for that very object."""
        ...

    def add_salt(
        self, ref: ObjectRef, *, salt: bytes, epoch: int, store: bytes, expect: bytes | None, rewrap: bool = False
    ) -> None:
        """Open the object's next salt, for the store with this cap digest."""
        ...

    def make_current(self, object_id: int, issued: IssuedSalt) -> None:
        """Make that store the current one, forget every older salt, and count the store as acknowledged."""
        ...

    def drop(self, ref: ObjectRef) -> None:
        """Close all salts of the object; it is listed no more, and no legacy envelope ever brings it back."""
        ...

    def put_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        """Keep it in place of the one before."""
        ...

    def was_dropped(self, ref: ObjectRef) -> bool:
        """Whether the object was deleted at any time."""
        ...

    def put_hold(self, ref: ObjectRef, hold: Hold) -> None:
        """Let that cap hold the object, whoever held it before."""
        ...

    def end_hold(self, ref: ObjectRef, digest: bytes) -> None:
        """Nothing of that cap's session is under way any more; another cap's hold stays."""
        ...


class Transaction(Protocol):
    """What a unit of work sees: reads, writes, and the two records that every release leaves.

    `at` is when the unit's turn came, in Unix seconds; `now` the same in whole seconds.
    """

    at: float
    now: int
    epoch: int
    last_row_id: int
    ledger: Ledger

    def append_row(self, envelope: AuditEnvelope) -> AuditRow:
        """Append a signed audit row to its actor's chain."""
        ...

    def journal(self, line: JournalLine) -> None:
        """Append a line to the journal."""
        ...


class Journalist(Protocol):
    """Runs units of work durably: what a unit wrote is on disk when `run` returns, or nothing of it ever was.

    Implemented by `adapters.committer.Committer`.
    """

    def check_clock(self, now: float) -> None:
        """Return unless the clock fell 60 s behind what was recorded. Raises clock_behind, journal_unavailable."""
        ...

    def run(self, unit: Callable[[Transaction], T]) -> T:
        """Raises what the unit raised, clock_behind or journal_unavailable."""
        ...

    def run_all(self, units: Sequence[Callable[[Transaction], T]]) -> "list[T | Exception]":
        """What each unit returned or raised, in order, once all of them went through one commit.

        A unit that raises undoes itself alone; where the commit fails, every one of them has journal_unavailable.
        """
        ...

    def post(self, unit: Callable[[Transaction], object]) -> None:
        """Have the unit committed some time soon, without learning how it ended."""
        ...


#: Opens a consistent snapshot for reading; raises journal_unavailable.
Snapshot = Callable[[], AbstractContextManager[Inventory]]

#: Opens the ledger for reads that need not be of one moment, since the unit looks again; raises journal_unavailable.
Glance = Callable[[], AbstractContextManager[LedgerReader]]
