"""`DeriveCredKek`: what is derived, for whom, and under which version rule."""

import secrets
from collections.abc import Callable
from typing import Any

from agentkeys_core.audit import OpKind, OpResult
from agentkeys_core.errors import Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.objects import acknowledge, delete, fetch, release, released, store
from tests.conformance.people import master
from tests.conformance.refusals import refusal_of
from tests.conformance.site import AUDIT, CREDENTIALS, MEMORY, Site

KEK = "DeriveCredKek"


@case(KEK, "a store is read with the same key, each release with a row of its own")
def same_key(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    first, second = fetch(site, user, kept)(), fetch(site, user, kept)()
    for read in (first, second):
        equal((read.key, read.commitment), (kept.released.key, kept.released.commitment), "key and commitment")
        equal((read.salt, read.epoch), (kept.released.salt, kept.released.epoch), "salt and epoch")
    equal((len(first.key), len(first.commitment), len(first.salt)), (32, 32, 32), "lengths")
    expect(first.row != second.row, "two releases have one row")
    expect(first.key != first.commitment, "the commitment is the key")


@case(KEK, "the same cap of a read is answered again inside its window")
def read_again(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    ask = fetch(site, user, kept)
    equal(ask().key, ask().key, "key")


@case(KEK, "two versions and two objects have different keys")
def different_keys(site: Site) -> None:
    user = master(site)
    first, other = store(site, user), store(site, user, "cred:other")
    second = store(site, user, expect=first.cap.digest)
    keys = {found.released.key for found in (first, other, second)}
    equal(len(keys | {found.released.salt for found in (first, other, second)}), 6, "different keys and salts")


@case(KEK, "is that of the object key", needs="k3_current")
def known_key(site: Site) -> None:
    user = master(site)
    agent = user.agent("memory:known")
    for client, service, owner, object_class in (
        (CREDENTIALS, "cred:known", user.operator, derived.CREDENTIALS),
        (MEMORY, "memory:known", agent.actor, derived.MEMORY),
    ):
        found = store(site, user if client == CREDENTIALS else agent, service, client=client).released
        wanted = derived.object_key(site.manifest.k3[found.epoch], object_class, owner, service, found.salt)
        equal((found.key, found.commitment), wanted, "key and commitment")


@case(KEK, "the row says who, what and which version")
def row_of_store(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    row, content = site.row(kept.released.row)
    body = content.op_body
    equal((content.op_kind, content.result), (OpKind.CRED_STORE, OpResult.SUCCESS), "kind and result")
    equal((content.actor_omni, content.operator_omni), (user.actor, user.operator), "actor and operator")
    equal((body.cap, body.req, body.svc), (kept.cap.digest, sha256(kept.cap.body), "cred:kept"), "cap, req and svc")
    equal((body.salt, body.epoch, row.epoch), (kept.released.salt, site.epoch, site.epoch), "salt and epoch")
    expect(abs(content.ts_unix - site.now) <= 5, "the row is of another time")
    equal((content.intent_text, content.intent_commitment), (None, None), "intent")


@case(KEK, "rows are chained an actor, without a gap")
def chained_rows(site: Site) -> None:
    user = master(site)
    agent = user.agent("cred:kept", "memory:kept")
    kept = store(site, user)
    rows = [site.row(fetch(site, agent, kept)().row)[0] for _ in range(3)]
    equal([row.seq for row in rows], [0, 1, 2], "sequence")
    equal([row.prev for row in rows], [bytes(32), rows[0].row_hash, rows[1].row_hash], "hash of the row before")
    equal({row.actor for row in rows}, {agent.actor}, "actor")


@case(KEK, "an agent reads what its scope grants, from its operator's vault")
def agent_reads(site: Site) -> None:
    user = master(site)
    agent = user.agent("cred:kept")
    kept = store(site, user)
    equal(fetch(site, agent, kept)().key, kept.released.key, "key")


@case(KEK, "the memory of an actor is its own")
def own_memory(site: Site) -> None:
    user = master(site)
    one, two = user.agent("memory:kept", label="one"), user.agent("memory:kept", label="two")
    kept = store(site, one, "memory:kept", client=MEMORY)
    equal(fetch(site, one, kept, "memory:kept", client=MEMORY)().key, kept.released.key, "key")
    found = refusal_of(fetch(site, two, kept, "memory:kept", client=MEMORY))
    equal(found and found.reason, Reason.VERSION_NOT_CURRENT.value, "another actor's memory")


@case(KEK, "a user's salt is nobody else's", gives=Reason.VERSION_NOT_CURRENT)
def foreign_salt(site: Site) -> Callable[[], Any]:
    kept = store(site, master(site))
    other = master(site)
    store(site, other)
    return fetch(site, other, kept)


@case(KEK, "a salt is that of one object", gives=Reason.VERSION_NOT_CURRENT)
def salt_of_another(site: Site) -> Callable[[], Any]:
    user = master(site)
    kept = store(site, user)
    store(site, user, "cred:other")
    return fetch(site, user, kept, "cred:other")


@case(KEK, "a salt that was never issued", gives=Reason.VERSION_NOT_CURRENT)
def invented_salt(site: Site) -> Callable[[], Any]:
    user = master(site)
    return fetch(site, user, store(site, user), salt=secrets.token_bytes(32))


@case(KEK, "an object that was never stored", gives=Reason.VERSION_NOT_CURRENT)
def never_stored(site: Site) -> Callable[[], Any]:
    user = master(site)
    return release(site, user.cap(Op.CRED_FETCH, "cred:never"), epoch=1, salt=bytes(32))


@case(KEK, "an older version is closed", gives=Reason.VERSION_NOT_CURRENT)
def older_version(site: Site) -> Callable[[], Any]:
    user = master(site)
    first = store(site, user)
    store(site, user, expect=first.cap.digest)
    return fetch(site, user, first)


@case(KEK, "the older version stays open until the newer one is acknowledged")
def not_yet_closed(site: Site) -> None:
    user = master(site)
    first = store(site, user)
    store(site, user, expect=first.cap.digest, done=False)
    equal(fetch(site, user, first)().key, first.released.key, "key")


@case(KEK, "reading a newer version makes it current", gives=Reason.VERSION_NOT_CURRENT)
def read_makes_current(site: Site) -> Callable[[], Any]:
    user = master(site)
    first = store(site, user)
    second = store(site, user, expect=first.cap.digest, done=False)
    equal(fetch(site, user, second)().key, second.released.key, "key")
    return fetch(site, user, first)


@case(KEK, "reading a newer version while another store is under way", gives=Reason.OVERLOADED)
def read_while_under_way(site: Site) -> Callable[[], Any]:
    """It would become current, and be overwritten by a store that is then refused."""
    user = master(site)
    written = store(site, user, done=False)
    store(site, user, done=False)
    return fetch(site, user, written)


@case(KEK, "a first store that lost its race supersedes nothing", gives=Reason.VERSION_NOT_CURRENT)
def lost_race(site: Site) -> Callable[[], Any]:
    user = master(site)
    winner, loser = store(site, user, done=False), store(site, user, done=False)
    acknowledge(site, winner.cap)()
    return fetch(site, user, loser)


@case(KEK, "a salt is of one epoch", gives=Reason.EPOCH_NOT_HELD)
def foreign_epoch(site: Site) -> Callable[[], Any]:
    user = master(site)
    return fetch(site, user, store(site, user), epoch=4_000_000_000)


@case(KEK, "a deleted object opens no more", gives=Reason.VERSION_NOT_CURRENT)
def deleted(site: Site) -> Callable[[], Any]:
    user = master(site)
    kept = store(site, user)
    acknowledge(site, delete(site, user))()
    return fetch(site, user, kept)


def _expecting(*, there: bool, expect: bytes) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user = master(site)
        if there:
            store(site, user)
        return release(site, user.cap(Op.CRED_STORE, "cred:kept", touch=True), expect=expect)

    return steps


for _title, _there, _expect in (
    ("a store that expects nothing where something is", True, b""),
    ("a store that expects another store", True, bytes(32)),
    ("a store that expects something where nothing is", False, bytes(32)),
):
    add(Case(group=KEK, title=_title, steps=_expecting(there=_there, expect=_expect), gives=Reason.VERSION_NOT_CURRENT))


@case(KEK, "a spent cap of a store", gives=Reason.CAP_REPLAYED)
def spent(site: Site) -> Callable[[], Any]:
    return release(site, store(site, master(site), done=False).cap)


@case(KEK, "a spent cap of a put", gives=Reason.CAP_REPLAYED)
def spent_put(site: Site) -> Callable[[], Any]:
    return release(site, store(site, master(site), "memory:kept", client=MEMORY, done=False).cap, MEMORY)


@case(KEK, "the replay of an acknowledged store brings its row, that of another none")
def replay_with_row(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    found = refusal_of(release(site, kept.cap))
    equal(found and (found.reason, found.row), (Reason.CAP_REPLAYED.value, kept.row), "reason and row")
    pending = store(site, user, "cred:pending", done=False)
    found = refusal_of(release(site, pending.cap))
    equal(found and (found.reason, found.row), (Reason.CAP_REPLAYED.value, None), "reason and row of a pending store")


def _shaped(op: Op, **fields: Any) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        return release(site, master(site).cap(op, "cred:kept"), **fields)

    return steps


for _title, _op, _fields, _reason in (
    ("a read without a salt", Op.CRED_FETCH, {"epoch": 1}, Reason.INVALID_ENCODING),
    ("a read with a salt of 31 bytes", Op.CRED_FETCH, {"epoch": 1, "salt": bytes(31)}, Reason.INVALID_ENCODING),
    ("a read without an epoch", Op.CRED_FETCH, {"salt": bytes(32)}, Reason.INVALID_ENCODING),
    ("a read that expects", Op.CRED_FETCH, {"epoch": 1, "salt": bytes(32), "expect": bytes(32)}, Reason.INVALID_BODY),
    ("a store that brings its salt", Op.CRED_STORE, {"salt": bytes(32)}, Reason.INVALID_BODY),
    ("a store that brings its epoch", Op.CRED_STORE, {"epoch": 1}, Reason.INVALID_BODY),
    ("an expect of 31 bytes", Op.CRED_STORE, {"expect": bytes(31)}, Reason.INVALID_ENCODING),
    ("a delete", Op.CRED_DELETE, {}, Reason.INVALID_CAP),
):
    add(Case(group=KEK, title=_title, steps=_shaped(_op, **_fields), gives=_reason))


@case(KEK, "a list", gives=Reason.INVALID_CAP)
def no_list(site: Site) -> Callable[[], Any]:
    return release(site, master(site).cap(Op.CRED_LIST, "cred:list", body=b'{"after":null,"limit":1}'))


@case(KEK, "a read that commits to a body", gives=Reason.INVALID_BODY)
def read_with_body(site: Site) -> Callable[[], Any]:
    user = master(site)
    store(site, user)
    cap = user.cap(Op.CRED_FETCH, "cred:kept", body=b'{"a":1}')
    return release(site, cap, epoch=1, salt=bytes(32))


def _by(client: str, op: Op, service: str) -> Steps:
    return lambda site: release(site, master(site).cap(op, service), client)


for _client, _op, _service in (
    (MEMORY, Op.CRED_STORE, "cred:kept"),
    (AUDIT, Op.CRED_STORE, "cred:kept"),
    (CREDENTIALS, Op.MEMORY_PUT, "memory:kept"),
    (AUDIT, Op.MEMORY_GET, "memory:kept"),
    (CREDENTIALS, Op.SIWE_SIGN, "siwe:app.example.org"),
    (CREDENTIALS, Op.AUDIT_LIST, "audit:own"),
):
    add(
        Case(
            group=KEK,
            title=f"{_op} is not for a {_client} worker",
            steps=_by(_client, _op, _service),
            gives=Reason.CLASS_MISMATCH,
        )
    )


@case(KEK, "stops when the device is revoked", gives=Reason.DEVICE_REVOKED)
def revoked_device(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:kept")
    kept = store(site, user)
    equal(fetch(site, agent, kept)().key, kept.released.key, "key")
    user.changed(user.revocation(agent.k10.key_hash))
    return fetch(site, agent, kept)


@case(KEK, "an agent whose grant was withdrawn", gives=Reason.SERVICE_NOT_IN_SCOPE)
def withdrawn(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:kept")
    kept = store(site, user)
    fetch(site, agent, kept)()
    user.changed(user.set_scope(agent.actor, revoke=("cred:kept",)))
    return fetch(site, agent, kept)


@case(KEK, "a frozen user", gives=Reason.OPERATOR_FROZEN)
def frozen(site: Site) -> Callable[[], Any]:
    user = master(site)
    kept = store(site, user)
    user.apply(user.freezing())
    return fetch(site, user, kept)


@case(KEK, "another device of the same user signs", gives=Reason.DEVICE_SIGNATURE_INVALID)
def sibling(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:kept")
    return release(site, user.cap(Op.CRED_STORE, "cred:kept", signed_by=agent.k10))


@case(KEK, "the public key of another device", gives=Reason.DEVICE_SIGNATURE_INVALID)
def other_public_key(site: Site) -> Callable[[], Any]:
    other = DeviceKey.generate()
    return release(site, master(site).cap(Op.CRED_STORE, "cred:kept", public_key=other.public_key))


@case(KEK, "a request that is not acknowledged is listed nowhere and reads all the same")
def unacknowledged_first(site: Site) -> None:
    user = master(site)
    pending = store(site, user, done=False)
    equal(fetch(site, user, pending)().key, pending.released.key, "key")


@case(KEK, "two callers share no state but the user's")
def second_user(site: Site) -> None:
    one, two = master(site), master(site)
    first, second = store(site, one), store(site, two)
    expect(first.released.key != second.released.key, "two users have one key")
    equal(released(site, two.cap(Op.CRED_STORE, "cred:more")).epoch, site.epoch, "epoch")
