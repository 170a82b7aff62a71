"""`StsCredentials`: cloud sessions, each for one object and verb of one cap."""

from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import OpKind
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from tests.conformance.cases import case, equal, expect
from tests.conformance.groups.objects import acknowledge, delete, fetch, release, store
from tests.conformance.people import MadeCap, master
from tests.conformance.site import CREDENTIALS, MEMORY, Site

STS = "StsCredentials"


def session(site: Site, cap: MadeCap, arn: str | None = None, client: str = CREDENTIALS) -> Callable[[], Any]:
    """The call that asks for a session."""
    if arn is None:
        arn = site.manifest.sts.role_arn if site.manifest.sts else ""
    request = signer_pb2.StsCredentialsRequest(cap=cap.data, role_arn=arn)
    return lambda: site.signer(client).StsCredentials(request)


@case(STS, "a session of 900 s at most, recorded without epoch and salt", needs="sts")
def a_session(site: Site) -> None:
    user = master(site)
    for op, kind in (
        (Op.CRED_STORE, OpKind.CRED_STORE),
        (Op.CRED_FETCH, OpKind.CRED_FETCH),
        (Op.CRED_DELETE, OpKind.CRED_DELETE),
    ):
        cap = user.cap(op, f"cred:{op}")  # an object each: the session of a store holds its object
        found = session(site, cap)()
        expect(found.access_key_id and found.secret_access_key and found.session_token, "a part of it is empty")
        expect(0 < found.expires_at - site.now <= 901, "it lasts too long")
        _, content = site.row(found.row)
        body = content.op_body
        equal((content.op_kind, body.cap, body.epoch, body.salt), (kind, cap.digest, None, None), "row")


@case(STS, "a session does not spend the cap for the key", needs="sts")
def key_after_session(site: Site) -> None:
    cap = master(site).cap(Op.CRED_STORE, "cred:cloud")
    session(site, cap)()
    release(site, cap)()


@case(STS, "a spent cap of a store", gives=Reason.CAP_REPLAYED, needs="sts")
def spent(site: Site) -> Callable[[], Any]:
    cap = master(site).cap(Op.CRED_STORE, "cred:cloud")
    session(site, cap)()
    return session(site, cap)


@case(STS, "the cap of an acknowledged store", gives=Reason.CAP_REPLAYED, needs="sts")
def after_store(site: Site) -> Callable[[], Any]:
    return session(site, store(site, master(site)).cap)


@case(STS, "the cap of a read opens more than one session", needs="sts")
def reads_again(site: Site) -> None:
    cap = master(site).cap(Op.CRED_FETCH, "cred:cloud")
    rows = {session(site, cap)().row for _ in range(2)}
    equal(len(rows), 2, "rows")


@case(STS, "a role that is not on the list", gives=Reason.ROLE_ARN_NOT_ALLOWED)
def other_role(site: Site) -> Callable[[], Any]:
    return session(site, master(site).cap(Op.CRED_STORE, "cred:cloud"), "arn:aws:iam::000000000000:role/other")


@case(STS, "a role of another class", gives=Reason.ROLE_ARN_NOT_ALLOWED, needs="sts")
def role_of_another(site: Site) -> Callable[[], Any]:
    return session(site, master(site).cap(Op.MEMORY_PUT, "memory:cloud"), client=MEMORY)


@case(STS, "an endpoint that refuses", gives=Reason.STS_UNREACHABLE, needs="sts")
def refused(site: Site) -> Callable[[], Any]:
    arn = site.manifest.sts.refused_role_arn if site.manifest.sts else ""
    return session(site, master(site).cap(Op.CRED_FETCH, "cred:cloud"), arn)


@case(STS, "a list", gives=Reason.INVALID_CAP)
def a_list(site: Site) -> Callable[[], Any]:
    return session(site, master(site).cap(Op.CRED_LIST, "cred:list", body=b'{"after":null,"limit":1}'))


@case(STS, "the op of another class", gives=Reason.CLASS_MISMATCH)
def other_class(site: Site) -> Callable[[], Any]:
    return session(site, master(site).cap(Op.CRED_STORE, "cred:cloud"), client=MEMORY)


@case(STS, "a read that commits to a body", gives=Reason.INVALID_BODY, needs="sts")
def with_body(site: Site) -> Callable[[], Any]:
    return session(site, master(site).cap(Op.CRED_FETCH, "cred:cloud", body=b'{"a":1}'))


@case(STS, "a delete without K11", gives=Reason.K11_REQUIRED, needs="sts")
def no_touch(site: Site) -> Callable[[], Any]:
    return session(site, master(site).cap(Op.CRED_DELETE, "cred:cloud", touch=False))


@case(STS, "a device that was revoked", gives=Reason.DEVICE_REVOKED, needs="sts")
def revoked(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:cloud")
    user.changed(user.revocation(agent.k10.key_hash))
    return session(site, agent.cap(Op.CRED_FETCH, "cred:cloud"))


# --- the session of a store or delete holds its object ------------------------------------------------------------------


@case(STS, "no other cap gets a session that changes an object which one holds", gives=Reason.OVERLOADED, needs="sts")
def held(site: Site) -> Callable[[], Any]:
    user = master(site)
    session(site, user.cap(Op.CRED_STORE, "cred:cloud"))()
    return session(site, user.cap(Op.CRED_DELETE, "cred:cloud"))


@case(STS, "a read waits for nobody", needs="sts")
def read_while_held(site: Site) -> None:
    user = master(site)
    kept = store(site, user, "cred:cloud")
    session(site, user.cap(Op.CRED_STORE, "cred:cloud", touch=True))()
    session(site, user.cap(Op.CRED_FETCH, "cred:cloud"))()
    fetch(site, user, kept, "cred:cloud")()


@case(STS, "another object of the same user is free", needs="sts")
def other_object(site: Site) -> None:
    user = master(site)
    for service in ("cred:a", "cred:b"):
        session(site, user.cap(Op.CRED_STORE, service))()


@case(STS, "the acknowledgement ends the hold", needs="sts")
def acknowledged(site: Site) -> None:
    user = master(site)
    cap = user.cap(Op.CRED_STORE, "cred:cloud")
    session(site, cap)()
    release(site, cap)()
    acknowledge(site, cap)()
    session(site, user.cap(Op.CRED_STORE, "cred:cloud", touch=True))()


@case(STS, "a failure before a key was released ends the hold", needs="sts")
def failed_early(site: Site) -> None:
    user = master(site)
    cap = user.cap(Op.CRED_STORE, "cred:cloud")
    session(site, cap)()
    acknowledge(site, cap, 1)()
    session(site, user.cap(Op.CRED_STORE, "cred:cloud"))()


@case(
    STS, "a failure after a key was released does not: a write may still arrive", gives=Reason.OVERLOADED, needs="sts"
)
def failed_late(site: Site) -> Callable[[], Any]:
    user = master(site)
    cap = user.cap(Op.CRED_STORE, "cred:cloud")
    session(site, cap)()
    release(site, cap)()
    acknowledge(site, cap, 1)()
    return session(site, user.cap(Op.CRED_STORE, "cred:cloud"))


@case(STS, "a delete that was authorised gets another session, and its repeat ends the hold", needs="sts")
def delete_again(site: Site) -> None:
    user = master(site)
    store(site, user, "cred:cloud")
    gone = delete(site, user, "cred:cloud")
    row = acknowledge(site, gone)()
    for _ in range(2):
        session(site, gone)()
    equal(acknowledge(site, gone)(), row, "row")
    session(site, user.cap(Op.CRED_STORE, "cred:cloud"))()


@case(STS, "a delete after which something was stored", gives=Reason.VERSION_NOT_CURRENT, needs="sts")
def delete_too_late(site: Site) -> Callable[[], Any]:
    user = master(site)
    store(site, user, "cred:cloud")
    gone = delete(site, user, "cred:cloud")
    acknowledge(site, gone)()
    store(site, user, "cred:cloud")
    return session(site, gone)


@case(STS, "a read makes nothing current while another cap holds the object", gives=Reason.OVERLOADED, needs="sts")
def read_of_newer(site: Site) -> Callable[[], Any]:
    user = master(site)
    pending = store(site, user, "cred:cloud", done=False)
    session(site, user.cap(Op.CRED_STORE, "cred:cloud"))()
    return fetch(site, user, pending, "cred:cloud")
