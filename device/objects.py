"""Stored objects of any class: put, get, list, remove. `credentials` and `memories` say which class is meant."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.audit import AuditRow, OpKind
from agentkeys_core.bodies import (
    EMPTY_BODY,
    DeleteAnswer,
    FetchAnswer,
    ListAnswer,
    ListBody,
    ListedName,
    StoreAnswer,
    StoreBody,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import OPS, Op, Service, k11_required, owner_of
from agentkeys_core.registry import MASTER
from device.client import Prepared, Reply, ask, at_current_epoch, prepare, send
from device.errors import DeviceError, Trouble
from device.paging import paged
from device.session import Device
from device.trust import check_released, check_stored_row

_PAGE: Final = 1000
_PUT_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKind:
    """One class of objects as devices ask for it. `word` names one for people; `max_bytes` is of its value."""

    word: str
    prefix: str
    max_bytes: int
    write: Op
    read: Op
    delete: Op
    listing: Op

    def service(self, name: str, op: Op) -> Service:
        """The service of a name; raises `invalid_cap`."""
        return Service.parse(f"{self.prefix}:{name}", op)

    def named(self, name: str, op: Op) -> Service:
        """The service of a name that a person gave. Raises `usage` for one that no object can have."""
        try:
            return self.service(name, op)
        except KeyServiceError as exc:
            words = "a name has 1 to 64 of a-z, 0-9, and . _ - inside; list is taken"
            raise DeviceError(Trouble.USAGE, words) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a put or rm did: the cap digest by which it is known, and its verified row."""

    cap_digest: bytes
    row: AuditRow
    replaced: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A value with the cap digests of this read and of the store that it comes from.

    `migrated`: no device signed that store; the signer took the value over from a legacy envelope.
    """

    value: bytes = field(repr=False)
    cap_digest: bytes
    store: bytes
    stored_at: int  # Unix seconds
    migrated: bool = False


def _needs_k11(device: Device, op: Op, *, replacing: bool = False) -> bool:
    # An agent has no K11 to give; where policy asks for one, the services say so by name.
    return device.is_master() and k11_required(OPS[op], tier=MASTER, replacing=replacing)


def _not_trusted(what: str, exc: KeyServiceError) -> DeviceError:
    return DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"{what}: {exc}")


def listed(kind: ObjectKind, device: Device) -> Iterator[tuple[str, bytes]]:
    """Yield (name, cap digest of its current store) of every object that this actor may see, in order of names.

    Raises:
        DeviceError: `answer_not_trusted` for a malformed name or a list that does not go forward; otherwise as `ask`.
    """
    service = kind.service("list", kind.listing)

    def page(after: str | None) -> tuple[Sequence[ListedName], str | None]:
        reply = ask(device, kind.listing, service, ListBody(after=after, limit=_PAGE).encode())
        try:
            found = ListAnswer.parse(reply.plaintext or b"")
            for entry in found.names:
                kind.service(entry.name, kind.read)
        except KeyServiceError as exc:
            raise _not_trusted("the list", exc) from exc
        return found.names, found.next

    last = ""
    for names in paged(page, limit=_PAGE):
        for entry in names:
            if entry.name <= last:
                raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the list is out of order")
            yield entry.name, entry.store
            last = entry.name


def current_store(kind: ObjectKind, device: Device, name: str) -> bytes | None:
    """Return the cap digest of the store that is current under a name, None where there is none."""
    return next((store for found, store in listed(kind, device) if found == name), None)


def put(kind: ObjectKind, device: Device, name: str, value: bytes) -> Stored:
    """Store a value under a name, new or instead of the one that is current there now.

    Raises:
        DeviceError: `usage` for an empty or too long value; `changed_meanwhile` where somebody else stored under
            that name.
        KeyServiceError: `version_not_current` likewise; otherwise the services' refusal.
    """
    if not 1 <= len(value) <= kind.max_bytes:
        raise DeviceError(Trouble.USAGE, f"a {kind.word} has 1 to {kind.max_bytes} bytes, this one {len(value)}")
    service = kind.named(name, kind.write)
    expect = current_store(kind, device, name)
    body = StoreBody(blind=secrets.token_bytes(32), expect=expect, value=value).encode()
    k11 = _needs_k11(device, kind.write, replacing=expect is not None)
    made: list[Prepared] = []

    def attempt(epoch: int) -> Reply:
        made.append(prepare(device, kind.write, service, body, epoch=epoch, k11=k11, replaces=expect))
        return send(device, made[-1])

    for _ in range(_PUT_TRIES):
        try:
            return _stored(at_current_epoch(device, attempt), replaced=expect)
        except KeyServiceError as exc:
            if exc.reason is not Reason.CAP_REPLAYED:
                raise
        # Asked before, and not known whether it got through: the list tells whose store is current.
        now = current_store(kind, device, name)
        if now == made[-1].request.digest:
            return _stored(send(device, made[-1]), replaced=expect)
        if now != expect:
            raise DeviceError(Trouble.CHANGED_MEANWHILE, f"somebody else stored under {name}")
    raise DeviceError(Trouble.UNREACHABLE, "the store was not acknowledged")


def _stored(reply: Reply, *, replaced: bytes | None) -> Stored:
    return Stored(cap_digest=reply.request.digest, row=_acknowledged(reply, StoreAnswer), replaced=replaced)


def _acknowledged(reply: Reply, answer: type[StoreAnswer] | type[DeleteAnswer]) -> AuditRow:
    """Return the verified row, once the sealed answer names it too."""
    if reply.row is None:
        raise DeviceError(Trouble.ROW_NOT_TRUSTED, "no row")
    if reply.plaintext is not None:
        try:
            row_hash = answer.parse(reply.plaintext).row_hash
        except KeyServiceError as exc:
            raise _not_trusted("the acknowledgement", exc) from exc
        if row_hash != reply.row.row_hash:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the acknowledgement names another row")
    return reply.row


def remove(kind: ObjectKind, device: Device, name: str) -> Stored:
    """Delete what is stored under a name; done only with the signed row."""
    service = kind.named(name, kind.delete)
    reply = ask(device, kind.delete, service, EMPTY_BODY, k11=_needs_k11(device, kind.delete))
    return Stored(cap_digest=reply.request.digest, row=_acknowledged(reply, DeleteAnswer))


def get(kind: ObjectKind, device: Device, name: str) -> Fetched:
    """Return the value that was last stored under a name by whoever may store there: no other, and no earlier one.

    Raises:
        DeviceError: `row_not_trusted`, `answer_not_trusted`: nothing of the value was used.
        KeyServiceError: `object_not_found`, `service_not_in_scope` and so on.
    """
    service = kind.named(name, kind.read)
    reply = ask(device, kind.read, service, EMPTY_BODY, k11=_needs_k11(device, kind.read))
    try:
        answer = FetchAnswer.parse(reply.plaintext or b"")
        request = reply.request
        owner = owner_of(request.rule, request.operator_omni, request.actor_omni)
        content = check_stored_row(device.keys, answer.row, request, owner=owner, body=answer.body)
        if reply.row is None:
            raise DeviceError(Trouble.ROW_NOT_TRUSTED, "no row")
        check_released(answer.row, reply.row)
        value = StoreBody.parse(answer.body).value
    except KeyServiceError as exc:
        raise _not_trusted("the stored object", exc) from exc
    return Fetched(
        value=value,
        cap_digest=request.digest,
        store=content.op_body.cap or b"",
        stored_at=content.ts_unix,
        migrated=content.op_kind == OpKind.CRED_REWRAP,
    )
