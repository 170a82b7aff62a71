"""What the worker's own logic needs of the outside. The signer is asked with `Admitted` values, and nothing else."""

from collections.abc import Sequence
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


class Signer(Protocol):
    """Every method raises KeyServiceError with the signer's own reason, or `signer_unreachable`."""

    def release_for_store(self, admitted: Admitted) -> Release:
        """A fresh version's key. `cap_replayed` of an acknowledged store carries its row."""

    def release_for_read(self, admitted: Admitted, *, epoch: int, salt: bytes) -> Release:
        """The key of the version that an envelope names."""

    def sign_row(self, admitted: Admitted, result: OpResult) -> AuditRow:
        """The row of this outcome: acknowledges a store, authorises a delete, records a failure. Idempotent."""

    def list_objects(self, admitted: Admitted) -> ListPage:
        """The page that the request commits to."""

    def audit_rows(self, admitted: Admitted) -> RowPage:
        """The page that the request commits to."""


class ObjectStore(Protocol):
    """Objects by path (`agentkeys_core.ops.object_path`). Failures are `object_store_unavailable`."""

    def lock(self, path: str) -> AbstractContextManager[None]:
        """Keep every other writer of this object out, in this process and in others. `overloaded` after a while."""

    def read(self, path: str) -> bytes | None:
        """The object, None where there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Replace the object durably: after a crash it is the old one or the new one."""

    def remove(self, path: str) -> None:
        """Remove the object durably; nothing where there is none."""


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


class Deletions(Protocol):
    """Which version of its object each delete met first, so that a repeat never removes a newer one."""

    def begin(self, digest: bytes, version: bytes, *, keep_until: float) -> "Begun":
        """Note durably what the delete with this cap digest meets; what an earlier attempt noted stands."""

    def withdraw(self, digest: bytes) -> None:
        """Forget a delete that was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """`version` is what the first attempt of a delete met, empty for nothing; `first` says that this is it."""

    version: bytes
    first: bool
