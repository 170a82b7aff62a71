"""`SignAuditRow`, `ListObjects` and `GetAuditRows`: what is recorded, and who may read it."""

import json
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import OpKind, OpResult, verify_chain
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.objects import LISTS, acknowledge, delete, fetch, release, store
from tests.conformance.people import Device, master
from tests.conformance.refusals import refusal_of
from tests.conformance.site import AUDIT, CREDENTIALS, MEMORY, Site

SIGN = "SignAuditRow"
LIST = "ListObjects"
ROWS = "GetAuditRows"


@case(SIGN, "success of a store returns the row of its release, byte for byte")
def row_of_release(site: Site) -> None:
    kept = store(site, master(site))
    equal(kept.row, kept.released.row, "row")


@case(SIGN, "the same call again returns the same bytes")
def idempotent(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    equal(acknowledge(site, kept.cap)(), kept.row, "row of a store")
    failed = store(site, user, "cred:failed", done=False)
    equal(acknowledge(site, failed.cap, 1)(), acknowledge(site, failed.cap, 1)(), "row of a failure")
    gone = delete(site, user)
    equal(acknowledge(site, gone)(), acknowledge(site, gone)(), "row of a delete")


@case(SIGN, "a failure of a store appends a row and leaves the version as it was")
def failure(site: Site) -> None:
    user = master(site)
    first = store(site, user)
    second = store(site, user, expect=first.cap.digest, done=False)
    row, content = site.row(acknowledge(site, second.cap, 1)())
    equal((content.result, content.op_body.cap), (OpResult.FAILURE, second.cap.digest), "result and cap")
    expect(row.seq > site.row(second.released.row)[0].seq, "the failure is not a row of its own")
    fetch(site, user, first)()


@case(SIGN, "another result after the first, with the row of the first")
def other_result(site: Site) -> None:
    kept = store(site, master(site))
    found = refusal_of(acknowledge(site, kept.cap, 1))
    equal(found and (found.reason, found.row), (Reason.CAP_REPLAYED.value, kept.row), "reason and row")


@case(SIGN, "success after a failure", gives=Reason.CAP_REPLAYED)
def too_late(site: Site) -> Callable[[], Any]:
    failed = store(site, master(site), done=False)
    acknowledge(site, failed.cap, 1)()
    return acknowledge(site, failed.cap, 0)


@case(SIGN, "a store whose expected store is no longer current", gives=Reason.VERSION_NOT_CURRENT)
def overtaken(site: Site) -> Callable[[], Any]:
    user = master(site)
    first, second = store(site, user, done=False), store(site, user, done=False)
    acknowledge(site, second.cap)()
    return acknowledge(site, first.cap)


@case(SIGN, "an older store after a newer one", gives=Reason.VERSION_NOT_CURRENT)
def out_of_turn(site: Site) -> Callable[[], Any]:
    user = master(site)
    first = store(site, user)
    old = store(site, user, expect=first.cap.digest, done=False)
    new = store(site, user, expect=first.cap.digest, done=False)
    acknowledge(site, new.cap)()
    return acknowledge(site, old.cap)


@case(SIGN, "success of what was never released", gives=Reason.INVALID_BODY)
def never_released(site: Site) -> Callable[[], Any]:
    return acknowledge(site, master(site).cap(Op.CRED_STORE, "cred:kept"))


@case(SIGN, "a result that is none", gives=Reason.INVALID_BODY)
def no_result(site: Site) -> Callable[[], Any]:
    return acknowledge(site, store(site, master(site), done=False).cap, 3)


@case(SIGN, "a failure of what was never released is recorded")
def early_failure(site: Site) -> None:
    user = master(site)
    cap = user.cap(Op.CRED_FETCH, "cred:kept")
    _, content = site.row(acknowledge(site, cap, 2)())
    found = (content.op_kind, content.result, content.op_body.cap)
    equal(found, (OpKind.CRED_FETCH, OpResult.NOT_PERMITTED, cap.digest), "kind, result and cap")


@case(SIGN, "a delete is authorised and recorded before its effect")
def delete_recorded(site: Site) -> None:
    user = master(site)
    store(site, user)
    gone = delete(site, user)
    _, content = site.row(acknowledge(site, gone)())
    body = content.op_body
    equal((content.op_kind, body.cap, body.svc), (OpKind.CRED_DELETE, gone.digest, "cred:kept"), "kind, cap and svc")
    equal((body.epoch, body.salt), (None, None), "epoch and salt")


@case(SIGN, "a delete that commits to a body", gives=Reason.INVALID_BODY)
def delete_with_body(site: Site) -> Callable[[], Any]:
    return acknowledge(site, master(site).cap(Op.CRED_DELETE, "cred:kept", body=b'{"a":1}'))


@case(SIGN, "a cap that was released here is known whatever has happened since")
def known_for_good(site: Site) -> None:
    user = master(site)
    agent = user.agent("memory:kept")
    pending = store(site, agent, "memory:kept", client=MEMORY, done=False)
    user.changed(user.revocation(agent.k10.key_hash))
    equal(acknowledge(site, pending.cap, client=MEMORY)(), pending.released.row, "row")


@case(SIGN, "a known cap is checked for its class all the same", gives=Reason.CLASS_MISMATCH)
def known_class(site: Site) -> Callable[[], Any]:
    return acknowledge(site, store(site, master(site)).cap, client=MEMORY)


@case(SIGN, "other bytes with the name of a known cap", gives=Reason.DEVICE_SIGNATURE_INVALID)
def not_known(site: Site) -> Callable[[], Any]:
    user = master(site)
    kept = store(site, user)
    other = user.cap(
        Op.CRED_STORE,
        "cred:kept",
        rewrite=lambda _: kept.cap.raw.replace(b'"cred:kept"', b'"cred:mine"'),
        signature=lambda _: bytes(64),
    )
    return acknowledge(site, other, 1)


@case(SIGN, "an audit request", gives=Reason.INVALID_CAP)
def no_audit(site: Site) -> Callable[[], Any]:
    cap = master(site).cap(Op.AUDIT_LIST, "audit:own", body=b'{"after":null,"limit":1}')
    return acknowledge(site, cap, client=AUDIT)


def page(
    user: Device, client: str = CREDENTIALS, *, after: str | None = None, limit: int = 100, **sent: Any
) -> tuple[Site, str, signer_pb2.ListObjectsRequest]:
    """A list request that commits to the page; `sent_after` and `sent_limit` are asked for instead."""
    op, service = LISTS[client]
    cap = user.cap(op, service, body=canonical_json({"after": after, "limit": limit}))
    asked = {"after": sent.get("sent_after", after), "limit": sent.get("sent_limit", limit)}
    return user.site, client, signer_pb2.ListObjectsRequest(cap=cap.data, **asked)


def listed(asked: tuple[Site, str, signer_pb2.ListObjectsRequest]) -> signer_pb2.ListObjectsResponse:
    """What the list answers."""
    site, client, request = asked
    found: signer_pb2.ListObjectsResponse = site.signer(client).ListObjects(request)
    return found


def names(found: signer_pb2.ListObjectsResponse) -> list[str]:
    """The names on a page."""
    return [entry.name for entry in found.names]


@case(LIST, "names with the cap digest of their current store, in order")
def list_names(site: Site) -> None:
    user = master(site)
    second, first = store(site, user, "cred:b"), store(site, user, "cred:a")
    newer = store(site, user, "cred:b", expect=second.cap.digest)
    found = listed(page(user))
    shown = [(entry.name, entry.store) for entry in found.names]
    equal(shown, [("a", first.cap.digest), ("b", newer.cap.digest)], "names and stores")
    expect(not found.HasField("next"), "one page has a next one")
    _, content = site.row(found.row)
    equal((content.op_kind, content.op_body.svc), (OpKind.CRED_LIST, "cred:list"), "kind and svc of the row")


@case(LIST, "what was not acknowledged, failed or was deleted is not listed")
def not_listed(site: Site) -> None:
    user = master(site)
    store(site, user, "cred:pending", done=False)
    acknowledge(site, store(site, user, "cred:failed", done=False).cap, 1)()
    store(site, user, "cred:gone")
    acknowledge(site, delete(site, user, "cred:gone"))()
    equal(names(listed(page(user))), [], "names")


@case(LIST, "an agent sees what its scope grants and nothing else")
def filtered(site: Site) -> None:
    user = master(site)
    agent = user.agent("cred:b", "memory:b")
    for service in ("cred:a", "cred:b", "cred:c"):
        store(site, user, service)
    equal(names(listed(page(agent))), ["b"], "names")
    equal(names(listed(page(user))), ["a", "b", "c"], "names of the master")


@case(LIST, "an agent without a grant sees an empty list")
def empty_scope(site: Site) -> None:
    user = master(site)
    store(site, user)
    equal(names(listed(page(user.agent()))), [], "names")


@case(LIST, "the memory of an actor is listed for that actor")
def memory_list(site: Site) -> None:
    user = master(site)
    one, two = user.agent("memory:kept", label="one"), user.agent("memory:kept", label="two")
    store(site, one, "memory:kept", client=MEMORY)
    equal(names(listed(page(one, MEMORY))), ["kept"], "names of its actor")
    equal(names(listed(page(two, MEMORY))), [], "names of another")


@case(LIST, "pages go on where the last one ended")
def pages(site: Site) -> None:
    user = master(site)
    for service in ("cred:a", "cred:b", "cred:c"):
        store(site, user, service)
    first = listed(page(user, limit=2))
    equal((names(first), first.next), (["a", "b"], "b"), "first page and next")
    second = listed(page(user, after="b", limit=2))
    equal((names(second), second.HasField("next")), (["c"], False), "second page and next")


def _asked(limit: int = 100, **sent: Any) -> Steps:
    """A list that commits to a page of `limit`, and asks for another where `sent` says so."""

    def steps(site: Site) -> Callable[[], Any]:
        asked = page(master(site), limit=limit, **sent)
        return lambda: listed(asked)

    return steps


for _title, _steps in {
    "another limit than the request commits to": _asked(sent_limit=5),
    "another start than the request commits to": _asked(sent_after="a"),
    "a limit of 0": _asked(limit=0),
    "a limit of 1001": _asked(limit=1001),
}.items():
    add(Case(group=LIST, title=_title, steps=_steps, gives=Reason.INVALID_BODY))


@case(LIST, "an op that lists nothing", gives=Reason.INVALID_CAP)
def lists_nothing(site: Site) -> Callable[[], Any]:
    request = signer_pb2.ListObjectsRequest(cap=master(site).cap(Op.CRED_FETCH, "cred:kept").data, limit=1)
    return lambda: site.signer().ListObjects(request)


@case(LIST, "a list of the other class", gives=Reason.CLASS_MISMATCH)
def other_class(site: Site) -> Callable[[], Any]:
    _, _, request = page(master(site))
    return lambda: site.signer(MEMORY).ListObjects(request)


@case(LIST, "a frozen user", gives=Reason.OPERATOR_FROZEN)
def frozen_list(site: Site) -> Callable[[], Any]:
    user = master(site)
    user.apply(user.freezing())
    asked = page(user)
    return lambda: listed(asked)


def rows(
    user: Device, service: str = "audit:own", *, after: int | None = None, limit: int = 100
) -> signer_pb2.GetAuditRowsResponse:
    """Audit rows of a user."""
    body = canonical_json({"after": after, "limit": limit})
    cap = user.cap(Op.AUDIT_LIST, service, body=body)
    request = signer_pb2.GetAuditRowsRequest(cap=cap.data, after=after, limit=limit)
    found: signer_pb2.GetAuditRowsResponse = user.site.signer(AUDIT).GetAuditRows(request)
    return found


@case(ROWS, "the actor's own chain, whole and signed")
def own_rows(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    read = fetch(site, user, kept)()
    found = [site.row(row)[0] for row in rows(user).rows]
    report = verify_chain(found, site.audit_keys)
    expect(report.ok, f"faults of the chain: {[fault.fault for fault in report.faults]}")
    kinds = [row.content().op_kind for row in found]
    equal(kinds, [OpKind.DEVICE_ADD, OpKind.CRED_STORE, OpKind.CRED_FETCH], "kinds")
    equal(found[-1].encode(), read.row, "last row")


@case(ROWS, "reading rows appends none")
def reading_is_silent(site: Site) -> None:
    user = master(site)
    equal(len(rows(user).rows), len(rows(user).rows), "rows")


@case(ROWS, "pages go on where the last one ended")
def row_pages(site: Site) -> None:
    user = master(site)
    for service in ("cred:a", "cred:b"):
        store(site, user, service)
    whole = rows(user)
    first = rows(user, limit=2)
    second = rows(user, after=first.next, limit=2)
    equal([*first.rows, *second.rows], list(whole.rows), "rows of both pages")
    equal((first.HasField("next"), second.HasField("next"), whole.HasField("next")), (True, False, False), "next")


@case(ROWS, "a master reads the whole tree")
def tree(site: Site) -> None:
    user = master(site)
    agent = user.agent("memory:kept")
    put = store(site, agent, "memory:kept", client=MEMORY)
    found = list(rows(user, "audit:tree").rows)
    expect(put.row in found, "the agent's row is missing")
    first = rows(user, "audit:tree", limit=2)
    second = rows(user, "audit:tree", after=first.next, limit=100)
    equal([*first.rows, *second.rows][: len(found)], found, "pages of the tree")


@case(ROWS, "an agent reads its own rows alone")
def agent_rows(site: Site) -> None:
    user = master(site)
    agent = user.agent("memory:kept")
    put = store(site, agent, "memory:kept", client=MEMORY)
    equal(list(rows(agent).rows), [put.row], "rows")


@case(ROWS, "an agent does not read the tree", gives=Reason.DEVICE_ROLE_MISSING)
def agent_tree(site: Site) -> Callable[[], Any]:
    agent = master(site).agent()
    return lambda: rows(agent, "audit:tree")


@case(ROWS, "the tree of another user is not shown")
def foreign_tree(site: Site) -> None:
    one, two = master(site), master(site)
    theirs = store(site, one).row
    expect(theirs not in rows(two, "audit:tree").rows, "another user's row")


@case(ROWS, "another page than the request commits to", gives=Reason.INVALID_BODY)
def other_rows(site: Site) -> Callable[[], Any]:
    cap = master(site).cap(Op.AUDIT_LIST, "audit:own", body=b'{"after":null,"limit":5}')
    request = signer_pb2.GetAuditRowsRequest(cap=cap.data, limit=6)
    return lambda: site.signer(AUDIT).GetAuditRows(request)


@case(ROWS, "a worker of another class", gives=Reason.CLASS_MISMATCH)
def audit_class(site: Site) -> Callable[[], Any]:
    cap = master(site).cap(Op.AUDIT_LIST, "audit:own", body=b'{"after":null,"limit":5}')
    request = signer_pb2.GetAuditRowsRequest(cap=cap.data, limit=5)
    return lambda: site.signer(CREDENTIALS).GetAuditRows(request)


@case(ROWS, "rows tell no secret")
def no_secret(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    told = b"".join(json.dumps(json.loads(row)).encode() for row in rows(user).rows)
    for secret in (kept.released.key, kept.cap.body):
        expect(secret.hex().encode() not in told, "a row holds a secret")
    refusal = refusal_of(release(site, kept.cap))
    expect(refusal is not None, "served twice")
