"""What the worker's own logic needs of the outside. The signer is asked with `Admitted` values, and nothing else."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.bodies import ListAnswer
from worker.admission import Admitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The key (32 bytes) of one version of one object, and the signed row that records its release."""

    key: bytes = field(repr=False)
    commitment: bytes
    salt: bytes
    epoch: int
    row: AuditRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """One page of an inventory as it is answered, and the signed row that records the list."""

    answer: ListAnswer
    row: AuditRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPage:
    """Audit rows as signed; `next` is the `after` of the next page, None on the last."""

    rows: tuple[AuditRow, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSession:
    """What opens one object of the object store for one verb, until it expires. Its secret halves never print."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)


class Signer(Protocol):
    """Every method raises KeyServiceError with the signer's own reason, or `signer_unreachable`."""

    def release_for_store(self, admitted: Admitted) -> Release:
        """A fresh version's key. `cap_replayed` of an acknowledged store carries its row."""

    def release_for_read(self, admitted: Admitted, *, epoch: int, salt: bytes) -> Release:
        """The key of the version that an envelope names."""

    def open_session(self, admitted: Admitted, *, role_arn: str) -> CloudSession:
        """A session for the request's object and effect. `cap_replayed` of an acknowledged store carries its row."""

    def sign_row(self, admitted: Admitted, result: OpResult) -> AuditRow:
        """The row of this outcome: acknowledges a store, authorises a delete, records a failure. Idempotent."""

    def list_objects(self, admitted: Admitted) -> ListPage:
        """The page that the request commits to."""

    def audit_rows(self, admitted: Admitted) -> RowPage:
        """The page that the request commits to."""


class ObjectStore(Protocol):
    """Objects, each reached by the admitted request that names it, for what that request does and nothing else.

    Failures are `object_store_unavailable`. Behind cloud sessions the signer is asked for one, and its refusals go on.
    """

    def reader(self, admitted: Admitted) -> Callable[[], bytes | None]:
        """What reads the object of a fetch, anew on each call; it gives None where there is none."""

    def hold(self, admitted: Admitted) -> AbstractContextManager["Held"]:
        """Keep every other writer of this object out, in this process and in others. `overloaded` after a while."""


class Held(Protocol):
    """The object of one store or delete, which nobody else writes meanwhile."""

    def is_unchanged(self, version: bytes) -> bool:
        """Whether what was written as `version`, maybe some time ago, can still be the object."""

    def claim(self) -> None:
        """Have the object ready to be written. Raises `cap_replayed` where this very cap has claimed it before."""

    def write(self, data: bytes) -> bytes:
        """Replace the object durably: after a crash it is the old one or the new one. Returns its version."""

    def removal(self) -> "Removal":
        """What this delete would remove: the object as its first attempt meets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashPage:
    """Hashes (32 bytes) of rows in the order of writing; all rows there are, and those of the last checkpoint."""

    hashes: tuple[bytes, ...]
    total: int
    checkpoint_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptNote:
    """A signed checkpoint: rows covered, root (32 bytes), the note."""

    size: int
    root: bytes
    note: bytes


class Tree(Protocol):
    """The tree of all audit rows, kept by the audit worker. Failures are `object_store_unavailable`."""

    def size(self) -> int:
        """How many rows there are."""

    def extend(self, row_hashes: Sequence[bytes]) -> None:
        """Add rows at the end, all or none of them, durably."""

    def node(self, level: int, position: int) -> bytes:
        """The hash of a complete subtree."""

    def position_of(self, row_hash: bytes) -> int | None:
        """Where a row is, None where it is not."""

    def last_note(self) -> KeptNote | None:
        """The checkpoint over most rows."""

    def keep_note(self, note: KeptNote) -> None:
        """Keep a checkpoint durably."""


class Removal(Protocol):
    """One delete, from before the signer is asked to authorise it."""

    def refuse(self) -> None:
        """The signer refused it: a later attempt begins anew."""

    def carry_out(self) -> None:
        """Remove the object durably, unless it was stored since the first attempt; nothing where there is none."""
