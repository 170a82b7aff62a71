"""The batches: each item is answered as the single call would be, in order, and none spoils another."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from google.rpc import code_pb2

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.objects import acknowledge, delete, fetch, released, store
from tests.conformance.groups.order import FAULTS, Asked
from tests.conformance.groups.verify import signed
from tests.conformance.people import MadeCap, master
from tests.conformance.refusals import METADATA, refusal_of
from tests.conformance.site import BROKER, CREDENTIALS, MEMORY, Site

KEK = "DeriveCredKekBatch"
ROW = "SignAuditRowBatch"
K10 = "VerifyK10SigBatch"
MOST: Final = 256
#: Single call, message of the batch and of an item, for each batch.
SINGLE: Final[dict[str, tuple[Any, Any]]] = {
    KEK: (signer_pb2.DeriveCredKekBatchRequest, signer_pb2.DeriveCredKekRequest),
    ROW: (signer_pb2.SignAuditRowBatchRequest, signer_pb2.SignAuditRowRequest),
    K10: (signer_pb2.VerifyK10SigBatchRequest, signer_pb2.VerifyK10SigRequest),
}


def batch(site: Site, name: str, items: Sequence[Any], client: str = CREDENTIALS) -> list[Any]:
    """What the items of the answer hold: a response, or an ItemError."""
    request = SINGLE[name][0](items=items)
    answered = getattr(site.signer(client), name)(request).items
    equal(len(answered), len(items), "items answered")
    return [getattr(item, item.WhichOneof("outcome")) for item in answered]


def refused(item: Any, reason: Reason, row: bytes = b"") -> None:
    """Fail unless the item is this refusal, as the single call would have given it."""
    expect(isinstance(item, signer_pb2.ItemError), f"served, where {reason} is due")
    code = code_pb2.Code.Value(reason.code.value)
    equal((item.reason, item.code, item.row), (reason.value, code, row), "reason, code and row")
    told = [name for name in METADATA.get(reason, ()) if item.metadata.get(name, "").isdigit()]
    equal(told, list(METADATA.get(reason, ())), "metadata")


def keys(*caps: MadeCap, **more: Any) -> list[signer_pb2.DeriveCredKekRequest]:
    """Items that ask for keys."""
    return [signer_pb2.DeriveCredKekRequest(cap=cap.data, **more) for cap in caps]


def rows(*caps: MadeCap, result: int = 0) -> list[signer_pb2.SignAuditRowRequest]:
    """Items that ask for rows."""
    return [signer_pb2.SignAuditRowRequest(cap=cap.data, result=result) for cap in caps]


@case(KEK, "each item is answered in its place")
def in_order(site: Site) -> None:
    users = [master(site) for _ in range(3)]
    caps = [user.cap(Op.CRED_STORE, "cred:batch") for user in users]
    found = batch(site, KEK, keys(*caps))
    for item, cap, user in zip(found, caps, users, strict=True):
        _, content = site.row(item.row)
        equal((content.op_body.cap, content.actor_omni), (cap.digest, user.actor), "cap and actor of the row")
        equal(acknowledge(site, cap)(), item.row, "acknowledged row")


@case(KEK, "an item that is refused spoils none of the others")
def unspoilt(site: Site) -> None:
    user = master(site)
    good = [user.cap(Op.CRED_STORE, f"cred:{name}") for name in ("a", "b")]
    bad = user.cap(Op.CRED_STORE, "cred:c", request={"aud": "ab" * 32})
    forged = user.cap(Op.CRED_STORE, "cred:d", signed_by=DeviceKey.generate())
    first, second, third, fourth = batch(site, KEK, keys(bad, good[0], forged, good[1]))
    refused(first, Reason.WRONG_AUDIENCE)
    refused(third, Reason.DEVICE_SIGNATURE_INVALID)
    sequence = [site.row(item.row)[0].seq for item in (second, fourth)]
    equal(sequence, [1, 2], "sequence of the rows: the refused left none between them")


@case(KEK, "reads and stores may stand side by side")
def mixed(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    read = keys(user.cap(Op.CRED_FETCH, "cred:kept"), epoch=kept.released.epoch, salt=kept.released.salt)
    written, found = batch(site, KEK, [*keys(user.cap(Op.CRED_STORE, "cred:new")), *read])
    equal(found.key, kept.released.key, "key of the read")
    expect(len(written.salt) == 32 and written.key != found.key, "the store has no key of its own")


@case(KEK, "the same cap twice is spent once")
def twice(site: Site) -> None:
    cap = master(site).cap(Op.CRED_STORE, "cred:batch")
    first, second = batch(site, KEK, keys(cap, cap))
    site.row(first.row)
    refused(second, Reason.CAP_REPLAYED)


@case(KEK, "the replay of an acknowledged store brings its row")
def replayed_row(site: Site) -> None:
    kept = store(site, master(site))
    (item,) = batch(site, KEK, keys(kept.cap))
    refused(item, Reason.CAP_REPLAYED, kept.row)


@case(KEK, "two stores of one name cannot both follow the same one")
def two_first_stores(site: Site) -> None:
    user = master(site)
    caps = [user.cap(Op.CRED_STORE, "cred:batch") for _ in range(2)]
    batch(site, KEK, keys(*caps))
    first, second = batch(site, ROW, rows(*caps))
    site.row(first.row)
    refused(second, Reason.VERSION_NOT_CURRENT)


@case(KEK, "a batch is for callers of each item's class")
def classes(site: Site) -> None:
    user = master(site)
    caps = [user.cap(Op.CRED_STORE, "cred:batch"), user.cap(Op.MEMORY_PUT, "memory:batch")]
    first, second = batch(site, KEK, keys(*caps), MEMORY)
    refused(first, Reason.CLASS_MISMATCH)
    site.row(second.row)


def _same_as_single(fault: Callable[[Asked], None], reason: Reason) -> Steps:
    def steps(site: Site) -> None:
        asked = Asked(site=site, user=master(site))
        fault(asked)
        cap = asked.user.cap(Op.CRED_STORE, "cred:order", request=asked.request, **asked.how)
        good = master(site).cap(Op.CRED_STORE, "cred:order")
        first, second = batch(site, KEK, keys(cap, good))
        refused(first, reason)
        site.row(second.row)

    return steps


for _name, (_reason, _fault) in FAULTS.items():
    if _name != "class":
        add(Case(group=KEK, title=f"{_name} in an item", steps=_same_as_single(_fault, _reason)))


@case(ROW, "rows in order, and the same bytes again")
def rows_in_order(site: Site) -> None:
    user = master(site)
    pending = [store(site, user, f"cred:{name}", done=False) for name in ("a", "b")]
    caps = [found.cap for found in pending]
    found = [item.row for item in batch(site, ROW, rows(*caps))]
    equal(found, [stored.released.row for stored in pending], "rows")
    equal([item.row for item in batch(site, ROW, rows(*caps))], found, "rows of the same batch again")


@case(ROW, "an item that is refused spoils none of the others")
def rows_unspoilt(site: Site) -> None:
    user = master(site)
    pending = store(site, user, done=False)
    never = user.cap(Op.CRED_STORE, "cred:never")
    first, second, third = batch(site, ROW, [*rows(never), *rows(pending.cap), *rows(pending.cap, result=1)])
    refused(first, Reason.INVALID_BODY)
    equal(second.row, pending.released.row, "row")
    refused(third, Reason.CAP_REPLAYED, pending.released.row)


@case(ROW, "the same delete twice has one row, and closes the object")
def delete_twice(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    gone = delete(site, user)
    first, second = batch(site, ROW, rows(gone, gone))
    equal(first.row, second.row, "row")
    found = refusal_of(fetch(site, user, kept))
    equal(found and found.reason, Reason.VERSION_NOT_CURRENT.value, "the deleted object")


@case(K10, "verdicts in order")
def verdicts(site: Site) -> None:
    key = DeviceKey.generate()
    good, bad, malformed = signed(key), signed(key), signed(key)
    bad.payload = b"another"
    malformed.purpose = "registry"
    for client in (BROKER, CREDENTIALS):
        found = batch(site, K10, [bad, malformed, good], client)
        equal((found[0].valid, found[0].reason), (False, Reason.DEVICE_SIGNATURE_INVALID.value), "the first verdict")
        refused(found[1], Reason.INVALID_ENCODING)
        equal((found[2].valid, found[2].binding), (True, key.key_hash), "the third verdict")


@case(K10, "256 items")
def full(site: Site) -> None:
    request = signed(DeviceKey.generate())
    found = batch(site, K10, [request] * MOST, BROKER)
    equal([item.valid for item in found], [True] * MOST, "verdicts")


@case(K10, "an item over 64 KiB alone is too large")
def large_item(site: Site) -> None:
    key = DeviceKey.generate()
    first, second = batch(site, K10, [signed(key, payload=bytes(64 * 1024)), signed(key)], BROKER)
    refused(first, Reason.TOO_LARGE)
    equal(second.valid, True, "the other verdict")


def _whole(name: str, items: Callable[[Any], list[Any]]) -> Steps:
    many, one = SINGLE[name]

    def steps(site: Site) -> Callable[[], Any]:
        client = BROKER if name == K10 else CREDENTIALS
        request = many(items=items(one))
        return lambda: getattr(site.signer(client), name)(request)

    return steps


for _name in SINGLE:
    for _title, _items, _reason in (
        ("no item", lambda one: [], Reason.INVALID_ENCODING),
        ("257 items", lambda one: [one()] * (MOST + 1), Reason.TOO_LARGE),
    ):
        add(Case(group=_name, title=_title, steps=_whole(_name, _items), gives=_reason))
add(
    Case(
        group=K10,
        title="more than 1 MiB in all",
        steps=_whole(K10, lambda one: [one(payload=bytes(63 * 1024))] * 17),
        gives=Reason.TOO_LARGE,
    )
)


@case(KEK, "what a batch released is what a single call releases")
def same_release(site: Site) -> None:
    user = master(site)
    (item,) = batch(site, KEK, keys(user.cap(Op.CRED_STORE, "cred:kept")))
    read = user.cap(Op.CRED_FETCH, "cred:kept")
    found = released(site, read, epoch=item.epoch, salt=item.salt)
    equal((found.key, found.commitment), (item.key, item.commitment), "key and commitment")
