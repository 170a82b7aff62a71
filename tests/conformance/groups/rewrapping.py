"""`Rewrap`: an envelope of a held epoch, or a legacy one, comes back under the current epoch while the window is open."""

import secrets
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import AuditRow
from agentkeys_core.bodies import StoreBody
from agentkeys_core.envelope import Envelope, ObjectPlaintext, seal_envelope
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import ObjectClass, Op, Service
from agentkeys_core.secret import Secret
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.masters import torn
from tests.conformance.groups.objects import Stored, acknowledge, delete, fetch, release, released, store
from tests.conformance.groups.rows import listed, names, page
from tests.conformance.people import Device, Master, master
from tests.conformance.refusals import refusal_of
from tests.conformance.site import CREDENTIALS, MEMORY, Site

REWRAP = "Rewrap"
CLASSES = {CREDENTIALS: ObjectClass.CREDENTIALS, MEMORY: ObjectClass.MEMORY}
#: Long enough that, taken for an envelope of today, it fails by its version and not by its length.
LEGACY_VALUE = b"what an old writer left " * 6


def envelope_of(kept: Stored, owner: bytes, service: str, plaintext: bytes | None = None) -> bytes:
    """The object as a worker keeps it: sealed under what was released, with the row of that store inside."""
    if plaintext is None:
        body = StoreBody(blind=secrets.token_bytes(32), expect=None, value=b"a secret").encode()
        plaintext = ObjectPlaintext(body=body, row=AuditRow.parse(kept.released.row)).encode()
    kind = ObjectClass.CREDENTIALS if service.startswith("cred:") else ObjectClass.MEMORY
    with Secret.copy_of(kept.released.key) as key:
        return seal_envelope(
            key,
            epoch=kept.released.epoch,
            object_class=kind,
            salt=kept.released.salt,
            commitment=kept.released.commitment,
            owner=owner,
            service=Service.parse(service),
            plaintext=plaintext,
        )


def rewrap(
    site: Site, owner: bytes, service: str, envelope: bytes, client: str = CREDENTIALS, /, **bent: Any
) -> Callable[[], bytes]:
    """The call; returns the new envelope."""
    fields = {"class": CLASSES[client], "owner": owner, "service": service, "envelope": envelope, **bent}
    request = signer_pb2.RewrapRequest(**fields)
    return lambda: site.signer(client).Rewrap(request).envelope


def opened(site: Site, user: Device, service: str, envelope: bytes, client: str = CREDENTIALS) -> bytes:
    """What a reader finds inside: the key by a read, then the plaintext."""
    found = Envelope.parse(envelope)
    op = Op.CRED_FETCH if client == CREDENTIALS else Op.MEMORY_GET
    answer = released(site, user.cap(op, service), client, epoch=found.epoch, salt=found.salt)
    owner = user.operator if client == CREDENTIALS else user.actor
    with Secret.copy_of(answer.key) as key:
        return found.decrypt(key, answer.commitment, owner=owner, service=Service.parse(service))


def kept_by(site: Site) -> tuple[Master, Stored, bytes]:
    """A user, a store of theirs and its envelope."""
    user = master(site)
    kept = store(site, user)
    return user, kept, envelope_of(kept, user.operator, "cred:kept")


def legacy(site: Site, user: Master, *, spelling: str = "old", epoch: int = 1) -> bytes:
    """What a writer of the old format left for this user."""
    return derived.legacy_envelope(
        site.manifest.k3[epoch], epoch=epoch, omni=user.operator, service=spelling, plaintext=LEGACY_VALUE
    )


@case(REWRAP, "the window is closed", gives=Reason.WINDOW_CLOSED, needs="rewrap_closed")
def window_closed(site: Site) -> Callable[[], Any]:
    user, _, envelope = kept_by(site)
    return rewrap(site, user.operator, "cred:kept", envelope)


@case(REWRAP, "an envelope of the current epoch comes back as it is", needs="rewrap_open")
def current(site: Site) -> None:
    user, kept, envelope = kept_by(site)
    equal(rewrap(site, user.operator, "cred:kept", envelope)(), envelope, "envelope")
    equal(fetch(site, user, kept)().key, kept.released.key, "key")
    agent = user.agent("memory:kept")
    memory = store(site, agent, "memory:kept", client=MEMORY)
    sealed = envelope_of(memory, agent.actor, "memory:kept")
    equal(rewrap(site, agent.actor, "memory:kept", sealed, MEMORY)(), sealed, "envelope of a memory")


@case(REWRAP, "no key of what is re-wrapped is told, and no row of a device's", needs="rewrap_open")
def tells_nothing(site: Site) -> None:
    fields = {field.name for field in signer_pb2.RewrapResponse.DESCRIPTOR.fields}
    equal(fields, {"envelope"}, "what the answer holds")


def _legacy_comes_back(spelling: str) -> Steps:
    def steps(site: Site) -> None:
        user = master(site)
        envelope = rewrap(site, user.operator, "cred:old", legacy(site, user, spelling=spelling))()
        found = Envelope.parse(envelope)
        equal((found.epoch, found.object_class), (site.epoch, ObjectClass.CREDENTIALS), "epoch and class")
        plaintext = ObjectPlaintext.parse(opened(site, user, "cred:old", envelope))
        equal(StoreBody.parse(plaintext.body).value, LEGACY_VALUE, "value")
        content = plaintext.row.verify(site.audit_keys)
        equal((content.op_body.svc, content.op_body.salt), ("cred:old", found.salt), "svc and salt of the row")
        equal(names(listed(page(user))), ["old"], "names")

    return steps


for _spelling in ("old", "cred:old"):
    add(
        Case(
            group=REWRAP,
            title=f"a legacy envelope that was written for {_spelling} becomes a credential",
            steps=_legacy_comes_back(_spelling),
            needs="rewrap_and_k3",
        )
    )


@case(REWRAP, "a legacy envelope of what was stored since", gives=Reason.VERSION_NOT_CURRENT, needs="rewrap_and_k3")
def legacy_too_late(site: Site) -> Callable[[], Any]:
    user = master(site)
    store(site, user, "cred:old")
    return rewrap(site, user.operator, "cred:old", legacy(site, user))


@case(REWRAP, "a legacy envelope of what was deleted since", gives=Reason.VERSION_NOT_CURRENT, needs="rewrap_and_k3")
def legacy_deleted(site: Site) -> Callable[[], Any]:
    user = master(site)
    store(site, user, "cred:old")
    acknowledge(site, delete(site, user, "cred:old"))()
    return rewrap(site, user.operator, "cred:old", legacy(site, user))


@case(REWRAP, "a legacy envelope of a frozen user", gives=Reason.OPERATOR_FROZEN, needs="rewrap_and_k3")
def legacy_frozen(site: Site) -> Callable[[], Any]:
    user = master(site)
    user.apply(user.freezing())
    return rewrap(site, user.operator, "cred:old", legacy(site, user))


@case(REWRAP, "a legacy envelope of nobody", gives=Reason.INVALID_OMNI, needs="rewrap_and_k3")
def legacy_of_nobody(site: Site) -> Callable[[], Any]:
    user = Master(site)
    return rewrap(site, user.operator, "cred:old", legacy(site, user))


@case(REWRAP, "a legacy envelope of another name", gives=Reason.INVALID_ENVELOPE, needs="rewrap_and_k3")
def legacy_name(site: Site) -> Callable[[], Any]:
    user = master(site)
    return rewrap(site, user.operator, "cred:other", legacy(site, user))


@case(REWRAP, "a legacy envelope of another user", gives=Reason.INVALID_ENVELOPE, needs="rewrap_and_k3")
def legacy_owner(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    return rewrap(site, other.operator, "cred:old", legacy(site, user))


@case(REWRAP, "a legacy envelope is no memory", gives=Reason.UNSUPPORTED_VERSION, needs="rewrap_and_k3")
def legacy_memory(site: Site) -> Callable[[], Any]:
    user = master(site)
    return rewrap(site, user.operator, "memory:old", legacy(site, user), MEMORY)


@case(REWRAP, "an older version is not revived", gives=Reason.VERSION_NOT_CURRENT, needs="rewrap_open")
def older(site: Site) -> Callable[[], Any]:
    user, kept, envelope = kept_by(site)
    store(site, user, expect=kept.cap.digest)
    return rewrap(site, user.operator, "cred:kept", envelope)


@case(REWRAP, "a deleted object is not revived", gives=Reason.VERSION_NOT_CURRENT, needs="rewrap_open")
def deleted(site: Site) -> Callable[[], Any]:
    user, _, envelope = kept_by(site)
    acknowledge(site, delete(site, user))()
    return rewrap(site, user.operator, "cred:kept", envelope)


@case(REWRAP, "a store that nobody acknowledged", gives=Reason.VERSION_NOT_CURRENT, needs="rewrap_open")
def pending(site: Site) -> Callable[[], Any]:
    user = master(site)
    kept = store(site, user, done=False)
    return rewrap(site, user.operator, "cred:kept", envelope_of(kept, user.operator, "cred:kept"))


@case(REWRAP, "an object of a class that was torn down", gives=Reason.POLICY_REFUSED, needs="rewrap_open")
def torn_down(site: Site) -> Callable[[], Any]:
    user, _, envelope = kept_by(site)
    user.apply(torn(user, user.operator, int(ObjectClass.CREDENTIALS)))
    return rewrap(site, user.operator, "cred:kept", envelope)


def _bent(bend: Callable[[bytearray], object]) -> Steps:
    """An envelope that is right in all but some bytes."""

    def steps(site: Site) -> Callable[[], Any]:
        user, _, envelope = kept_by(site)
        data = bytearray(envelope)
        bend(data)
        return rewrap(site, user.operator, "cred:kept", bytes(data))

    return steps


def _put(position: int, value: int) -> Callable[[bytearray], object]:
    return lambda data: data.__setitem__(position, value)


def _flip(position: int) -> Callable[[bytearray], object]:
    return lambda data: data.__setitem__(position, data[position] ^ 1)


#: Header: version 0, epoch 1-4, class 5, salt 6-37, commitment 38-69, nonce 70-81.
for _title, _reason, _bend in (
    ("nothing at all", Reason.INVALID_ENVELOPE, lambda data: data.clear()),
    ("a header without a body", Reason.INVALID_ENVELOPE, lambda data: data.__delitem__(slice(70, None))),
    ("version 6", Reason.UNSUPPORTED_VERSION, _put(0, 6)),
    ("an envelope that says it is a memory", Reason.CLASS_MISMATCH, _put(5, 2)),
    ("an envelope of an epoch that is not held", Reason.EPOCH_NOT_HELD, _put(1, 0xEE)),
    ("another salt", Reason.INVALID_ENVELOPE, _flip(6)),
    ("another commitment", Reason.INVALID_ENVELOPE, _flip(38)),
    ("another nonce", Reason.INVALID_ENVELOPE, _flip(70)),
    ("another tag", Reason.INVALID_ENVELOPE, _flip(-1)),
):
    add(Case(group=REWRAP, title=_title, steps=_bent(_bend), gives=_reason, needs="rewrap_open"))


@case(REWRAP, "an envelope of another name", gives=Reason.INVALID_ENVELOPE, needs="rewrap_open")
def other_name(site: Site) -> Callable[[], Any]:
    user, _, envelope = kept_by(site)
    return rewrap(site, user.operator, "cred:other", envelope)


@case(REWRAP, "an envelope of another user", gives=Reason.INVALID_ENVELOPE, needs="rewrap_open")
def other_owner(site: Site) -> Callable[[], Any]:
    _, _, envelope = kept_by(site)
    return rewrap(site, master(site).operator, "cred:kept", envelope)


def _asked(**bent: Any) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user, _, envelope = kept_by(site)
        return rewrap(site, user.operator, "cred:kept", envelope, **bent)

    return steps


for _title, _reason, _fields in (
    ("an owner of 31 bytes", Reason.INVALID_OMNI, {"owner": bytes(31)}),
    ("a service that is none", Reason.INVALID_BODY, {"service": "cred:Open"}),
    ("a service of another class", Reason.INVALID_BODY, {"service": "memory:kept"}),
    ("a reserved service", Reason.INVALID_BODY, {"service": "cred:list"}),
    ("no class", Reason.INVALID_BODY, {"class": 0}),
):
    add(Case(group=REWRAP, title=_title, steps=_asked(**_fields), gives=_reason, needs="rewrap_open"))


@case(REWRAP, "a class that is not the caller's", gives=Reason.CLASS_MISMATCH)
def other_class(site: Site) -> Callable[[], Any]:
    user, _, envelope = kept_by(site)
    fields: dict[str, Any] = {
        "class": ObjectClass.CREDENTIALS,
        "owner": user.operator,
        "service": "cred:kept",
        "envelope": envelope,
    }
    return lambda: site.signer(MEMORY).Rewrap(signer_pb2.RewrapRequest(**fields))


# --- an object that was stored before the epoch was advanced ------------------------------------------------------------


def older_object(site: Site) -> tuple[Device, str, bytes]:
    """The device that reads it, its service and its envelope."""
    facts = site.manifest.older_object
    assert facts is not None
    operator, actor = bytes.fromhex(facts.operator), bytes.fromhex(facts.actor)
    key = DeviceKey.from_bytes(bytes.fromhex(facts.k10))
    agent = Device(site=site, k10=key, k11=master(site).k11, operator=operator, actor=actor, is_master=False)
    return agent, facts.service, bytes.fromhex(facts.envelope)


@case("DeriveCredKek", "an object of an older epoch opens still", needs="older_object")
def opens_still(site: Site) -> None:
    agent, service, envelope = older_object(site)
    found = Envelope.parse(envelope)
    answer = released(site, agent.cap(Op.CRED_FETCH, service), epoch=found.epoch, salt=found.salt)
    equal((answer.epoch, answer.commitment), (found.epoch, found.commitment), "epoch and commitment")


@case("DeriveCredKek", "an older salt at the current epoch", gives=Reason.VERSION_NOT_CURRENT, needs="older_object")
def wrong_epoch(site: Site) -> Callable[[], Any]:
    agent, service, envelope = older_object(site)
    salt = Envelope.parse(envelope).salt
    return release(site, agent.cap(Op.CRED_FETCH, service), epoch=site.epoch, salt=salt)


@case(REWRAP, "an envelope of an older epoch comes back under the current one", needs="older_object_and_window")
def older_epoch(site: Site) -> None:
    agent, service, envelope = older_object(site)
    plaintext = opened(site, agent, service, envelope)
    wrapped = rewrap(site, agent.operator, service, envelope)()
    before, after = Envelope.parse(envelope), Envelope.parse(wrapped)
    expect(before.epoch < after.epoch == site.epoch, "the epochs are not in order")
    expect(before.salt != after.salt, "the salt is the same")
    equal(opened(site, agent, service, wrapped), plaintext, "what is inside")
    found = refusal_of(lambda: opened(site, agent, service, envelope))
    equal(found and found.reason, Reason.VERSION_NOT_CURRENT.value, "the older one, once the newer was read")
    equal(rewrap(site, agent.operator, service, wrapped)(), wrapped, "the same again")
