"""What can be read of the signer's own records: names of stored objects, and audit rows. Pages, bounded in size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agentkeys_core.bodies import MAX_LIMIT, AuditListBody, ListBody, request_hash
from agentkeys_core.captoken import CapRequest
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import AUDIT_TREE
from signer.admission import Admitted
from signer.ledger import Inventory, StoredName

#: An answer is sealed and base64-encoded on its way to the device: this much becomes less than 1 MiB.
PAGE_BYTES: Final = 700 * 1024
_AROUND_ROW_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """One name (what follows the colon) and the cap digest (32 bytes) of its current store."""

    name: str
    store: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """Names in order; `next` is the `after` of the next page, None on the last. `row` records the list."""

    names: tuple[ListedObject, ...]
    next: str | None
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """Rows as signed, in order; `next` is the `after` of the next page, None on the last."""

    rows: tuple[bytes, ...]
    next: int | None


def check_list_body(request: CapRequest, *, after: str | None, limit: int) -> None:
    """Return when the request commits to this page. Raises invalid_body."""
    _check_limit(limit)
    if request.request_hash != request_hash(ListBody(after=after, limit=limit).encode()):
        raise KeyServiceError(Reason.INVALID_BODY, "the request commits to another page")


def check_audit_body(request: CapRequest, *, after: int | None, limit: int) -> None:
    """Return when the request commits to this page. Raises invalid_body."""
    _check_limit(limit)
    if request.request_hash != request_hash(AuditListBody(after=after, limit=limit).encode()):
        raise KeyServiceError(Reason.INVALID_BODY, "the request commits to another page")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise KeyServiceError(Reason.INVALID_BODY, f"a page has 1 to {MAX_LIMIT} entries")


def list_names(
    ledger: Inventory, admitted: Admitted, *, after: str | None, limit: int
) -> tuple[tuple[ListedObject, ...], str | None]:
    """The names of one page and the `after` of the next; an agent sees only what its scope grants."""
    prefix = f"{admitted.request.rule.prefix}:"
    start = prefix + (after or "")
    wanted = limit + 1
    if admitted.device.is_master:
        found = list(ledger.names(admitted.owner, admitted.object_class, after=start, limit=wanted))
    else:
        granted = admitted.operator.scopes.get(admitted.request.actor_omni, frozenset())
        services = sorted(service for service in granted if service.startswith(prefix) and service > start)
        found = _first(ledger.named(admitted.owner, admitted.object_class, services), wanted)
    names = tuple(ListedObject(name=entry.service.removeprefix(prefix), store=entry.store) for entry in found[:limit])
    return names, names[-1].name if len(found) > limit else None


def _first(entries: Iterator[StoredName], limit: int) -> list[StoredName]:
    return [entry for entry, _ in zip(entries, range(limit), strict=False)]


def read_rows(ledger: Inventory, admitted: Admitted, *, after: int | None, limit: int) -> AuditPage:
    """A page of the actor's own chain (positions are its sequences), or of the operator's whole tree (global ids)."""
    request = admitted.request
    if request.service.text == AUDIT_TREE:
        found = ledger.rows_of_operator(request.operator_omni, after=after, limit=limit + 1)
    else:
        found = ledger.rows_of_actor(request.actor_omni, after=after, limit=limit + 1)
    rows: list[bytes] = []
    size, last = 0, None
    for position, row in found:
        size += len(row) + _AROUND_ROW_BYTES
        if rows and (len(rows) == limit or size > PAGE_BYTES):
            return AuditPage(rows=tuple(rows), next=last)
        rows.append(row)
        last = position
    return AuditPage(rows=tuple(rows), next=None)
