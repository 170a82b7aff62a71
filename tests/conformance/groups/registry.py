"""The `Registry` service: reads, the changes that exist since the first version, and their stream."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import SignedChange
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.k11 import SOFTWARE_ORIGIN
from agentkeys_core.keys import DeviceKey
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.people import Master, apply, master, stranger, with_signatures
from tests.conformance.refusals import refusal_of
from tests.conformance.site import BROKER, CREDENTIALS, PATIENCE_S, Site

CHANGE = "ApplyChange"
WATCH = "WatchChanges"


def state(site: Site, user: Master, client: str = BROKER) -> registry_pb2.OperatorRecord:
    """What the registry says of this user."""
    request = registry_pb2.GetOperatorRequest(operator_omni=user.operator)
    found: registry_pb2.OperatorRecord = site.registry(client).GetOperator(request).operator
    return found


def change_of(site: Site, user: Master, row: bytes) -> tuple[int, bytes | None]:
    """Kind and digest in a change's row, which stands in the user's own chain."""
    signed, content = site.row(row)
    equal((signed.actor, content.operator_omni), (user.operator, user.operator), "actor and operator of the row")
    return content.op_kind, content.op_body.change


@case("GetStatus", "names itself, for both callers")
def status(site: Site) -> None:
    for client in (BROKER, CREDENTIALS):
        found = site.registry(client).GetStatus(registry_pb2.GetStatusRequest())
        equal((found.registry_id, found.k3_epoch), (site.registry_id, site.epoch), "registry and epoch")
        expect(found.incarnation >= 1, "incarnation")
        equal((len(found.head.hash), len(found.head.mac)), (32, 32), "lengths of head and MAC")
    equal(len(bytes.fromhex(site.registry_id)), 32, "length of an embedded registry's id")


@case("GetOperator", "an operator that nobody knows is not found")
def unknown_operator(site: Site) -> None:
    request = registry_pb2.GetOperatorRequest(operator_omni=secrets.token_bytes(32))
    equal(site.registry().GetOperator(request).found, False, "found")


@case("GetOperator", "an omni of 31 bytes", gives=Reason.INVALID_OMNI)
def short_omni(site: Site) -> Callable[[], Any]:
    return lambda: site.registry().GetOperator(registry_pb2.GetOperatorRequest(operator_omni=bytes(31)))


@case("GetDevice", "a device that nobody knows is not found")
def unknown_device(site: Site) -> None:
    request = registry_pb2.GetDeviceRequest(device_key_hash=secrets.token_bytes(32))
    equal(site.registry().GetDevice(request).found, False, "found")


@case("GetDevice", "a key hash of 33 bytes", gives=Reason.INVALID_ENCODING)
def long_hash(site: Site) -> Callable[[], Any]:
    return lambda: site.registry().GetDevice(registry_pb2.GetDeviceRequest(device_key_hash=bytes(33)))


@case("GetDevice", "the operator to whom a device belongs, with devices, scopes and counters")
def whole_state(site: Site) -> None:
    user = master(site)
    agent = user.agent("memory:b", "cred:a")
    request = registry_pb2.GetDeviceRequest(device_key_hash=agent.k10.key_hash)
    answer = site.registry(CREDENTIALS).GetDevice(request)
    found = answer.operator
    equal((answer.found, found), (True, state(site, user)), "found and operator")
    equal((found.operator_omni, found.wallet, found.wallet_epoch), (user.operator, user.wallet.address, 0), "operator")
    counters = (found.nonce, found.freeze_nonce, found.threshold, found.frozen)
    equal(counters, (2, 0, 1, False), "nonce, freeze nonce, threshold, frozen")
    equal((found.incarnation, found.k3_epoch), (site.status.incarnation, site.epoch), "incarnation and epoch")
    (first,) = [device for device in found.devices if device.tier == 1]
    (second,) = [device for device in found.devices if device.tier == 2]
    equal((first.roles, first.actor_omni, first.address), (7, user.operator, user.k10.address), "the master")
    public = user.k11.public
    equal((first.k11.x, first.k11.credential_id_hash), (public.x, public.credential_id_hash), "its K11")
    named = (second.roles, second.actor_omni, second.label, second.generation, second.HasField("k11"))
    equal(named, (1, agent.actor, "agent", 0, False), "the agent")
    equal(
        [(scope.actor_omni, list(scope.services)) for scope in found.scopes if scope.services],
        [(agent.actor, ["cred:a", "memory:b"])],
        "scopes",
    )


@case(CHANGE, "a first bind is applied, recorded, and answered alike when it comes again")
def first_bind(site: Site) -> None:
    user = stranger(site)
    signed = user.enrolment()
    row = user.apply(signed)
    equal(change_of(site, user, row), (OpKind.DEVICE_ADD, signed.digest(site.domain)), "kind and digest")
    equal(user.apply(signed), row, "the same change again")
    equal(user.apply(signed, client=CREDENTIALS), row, "the same change through a worker")
    equal(state(site, user).nonce, 1, "nonce")


@case(CHANGE, "each change has its kind, takes its nonce and holds at once")
def every_kind(site: Site) -> None:
    user = master(site)
    agent = user.agent("cred:a")
    kind, _ = change_of(site, user, user.changed(user.set_scope(agent.actor, grant=("cred:b",), revoke=("cred:a",))))
    equal(kind, OpKind.SCOPE_GRANT, "kind of a grant")
    (scope,) = [found for found in state(site, user).scopes if found.actor_omni == agent.actor]
    equal(list(scope.services), ["cred:b"], "scope")
    kind, _ = change_of(site, user, user.changed(user.set_scope(agent.actor, revoke=("cred:b",))))
    equal(kind, OpKind.SCOPE_REVOKE, "kind of a withdrawal")
    kind, _ = change_of(site, user, user.apply(user.freezing()))
    equal((kind, state(site, user).frozen), (OpKind.FREEZE, True), "kind and frozen")
    user.changed(user.revocation(agent.k10.key_hash))  # stays possible while frozen
    kind, _ = change_of(site, user, user.changed(user.unfreezing()))
    found = state(site, user)
    equal((kind, found.frozen, found.freeze_nonce, found.nonce), (OpKind.UNFREEZE, False, 1, user.nonce), "unfrozen")
    equal([device.revoked for device in found.devices if device.tier == 2], [True], "revoked")


@case(CHANGE, "freezing twice changes nothing")
def frozen_twice(site: Site) -> None:
    user = master(site)
    signed = user.freezing()
    equal(user.apply(signed), user.apply(signed), "row")


def _refused(make: Callable[[Master], SignedChange], *, enrolled: bool = True) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user = master(site) if enrolled else stranger(site)
        signed = make(user)
        return lambda: user.apply(signed)

    return steps


def _scope(user: Master, **bent: Any) -> SignedChange:
    actor = user.agent("cred:a").actor
    return user.signed(user.set_scope(actor, grant=("cred:b",), **bent))


def _foreign_wallet(user: Master) -> SignedChange:
    return user.enrolment(signer=DeviceKey.generate())


NOT_AUTHORISED: dict[str, Steps] = {
    "a first bind without the wallet": _refused(
        lambda user: with_signatures(user.enrolment(), wallet=None), enrolled=False
    ),
    "a first bind with another wallet": _refused(_foreign_wallet, enrolled=False),
    "a first bind without K11": _refused(lambda user: with_signatures(user.enrolment(), k11=()), enrolled=False),
    "a first bind with another K10": _refused(
        lambda user: with_signatures(
            user.enrolment(), k10=DeviceKey.generate().sign_recoverable(user.enrolment().digest(user.site.domain))
        ),
        enrolled=False,
    ),
    "a first bind of fewer roles": _refused(lambda user: user.enrolment(roles=1), enrolled=False),
    "a first bind with nonce 1": _refused(lambda user: user.enrolment(nonce=1), enrolled=False),
    "a first bind from another origin": _refused(
        lambda user: user.enrolment(origin="https://broker.example.org"), enrolled=False
    ),
    "another incarnation": _refused(lambda user: _scope(user, incarnation=9)),
    "a nonce that was used": _refused(lambda user: _scope(user, nonce=0)),
    "a nonce ahead": _refused(lambda user: _scope(user, nonce=9)),
    "a deadline that has passed": _refused(lambda user: _scope(user, deadline=user.site.now - 5)),
    "a deadline more than an hour ahead": _refused(lambda user: _scope(user, deadline=user.site.now + 3700)),
    "K10 of a stranger": _refused(
        lambda user: user.signed(user.set_scope(user.agent().actor, grant=("cred:b",)), k10=DeviceKey.generate())
    ),
    "a scope without K11": _refused(lambda user: with_signatures(_scope(user), k11=())),
    "the scope of an actor that is none": _refused(
        lambda user: user.signed(user.set_scope(secrets.token_bytes(32), grant=("cred:b",)))
    ),
    "the scope of the master itself": _refused(
        lambda user: user.signed(user.set_scope(user.operator, grant=("cred:b",)))
    ),
    "an agent without its Pair": _refused(
        lambda user: with_signatures(user.adding(DeviceKey.generate(), ("cred:a",)), pair=None)
    ),
    "a Pair that another device signed": _refused(
        lambda user: user.adding(agent := DeviceKey.generate(), pair=_forged_pair(user, agent))
    ),
    "a Pair for another operator": _refused(
        lambda user: user.adding(agent := DeviceKey.generate(), pair=user.pair(agent, operator_omni=bytes(32)))
    ),
    "a Pair that has expired": _refused(
        lambda user: user.adding(agent := DeviceKey.generate(), pair=user.pair(agent, expires_at=user.site.now - 5))
    ),
    "a freeze with another freeze nonce": _refused(lambda user: user.freezing(freeze_nonce=1)),
    "an unfreeze of who is not frozen": _refused(lambda user: user.signed(user.unfreezing())),
}


def _forged_pair(user: Master, agent: DeviceKey) -> Any:
    pair = user.pair(agent)
    digest = pair.message.digest(user.site.domain)
    return type(pair)(message=pair.message, signature=DeviceKey.generate().sign_recoverable(digest))


for _title, _steps in NOT_AUTHORISED.items():
    add(Case(group=CHANGE, title=_title, steps=_steps, gives=Reason.CHANGE_NOT_AUTHORISED))


@case(
    CHANGE,
    "a software authenticator where the registry takes none",
    gives=Reason.CHANGE_NOT_AUTHORISED,
    needs="no_software_k11",
)
def software(site: Site) -> Callable[[], Any]:
    user = stranger(site)
    signed = user.enrolment(origin=SOFTWARE_ORIGIN)
    return lambda: user.apply(signed)


@case(CHANGE, "an agent's K10 where a master's is due", gives=Reason.CHANGE_NOT_AUTHORISED)
def agents_k10(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    signed = user.signed(user.set_scope(agent.actor, grant=("cred:b",)), k10=agent.k10)
    return lambda: user.apply(signed)


@case(CHANGE, "the K11 of another user", gives=Reason.CHANGE_NOT_AUTHORISED)
def foreign_k11(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    actor = user.agent("cred:a").actor
    user.k11 = other.k11
    signed = user.signed(user.set_scope(actor, grant=("cred:b",)))
    return lambda: user.apply(signed)


@case(CHANGE, "a K11 that approved another change", gives=Reason.CHANGE_NOT_AUTHORISED)
def other_approval(site: Site) -> Callable[[], Any]:
    user = master(site)
    actor = user.agent("cred:a").actor
    approved = user.signed(user.set_scope(actor, grant=("cred:b",)))
    wanted = user.signed(user.set_scope(actor, grant=("cred:c",)))
    signed = with_signatures(wanted, k11=approved.signatures.k11)
    return lambda: user.apply(signed)


@case(CHANGE, "a change made for another registry", gives=Reason.CHANGE_NOT_AUTHORISED)
def other_registry(site: Site) -> Callable[[], Any]:
    user = master(site)
    change = user.set_scope(user.agent("cred:a").actor, grant=("cred:b",))
    digest = change.digest(Domain.embedded("ab" * 32))
    signed = with_signatures(user.signed(change), k10=user.k10.sign_recoverable(digest))
    return lambda: user.apply(signed)


@case(CHANGE, "an identity, a wallet or a device that is taken")
def taken(site: Site) -> None:
    user = master(site)
    again = Master(site)
    again.wallet, again.operator, again.actor = user.wallet, user.operator, user.actor
    found = refusal_of(lambda: again.apply(again.enrolment()))
    equal(found and found.reason, Reason.ALREADY_BOUND.value, "another device for the same wallet")
    other = Master(site)
    other.k10 = user.k10
    found = refusal_of(lambda: other.apply(other.enrolment()))
    equal(found and found.reason, Reason.ALREADY_BOUND.value, "another wallet for the same device")


@case(CHANGE, "an agent's device that is taken", gives=Reason.ALREADY_BOUND)
def agent_taken(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    signed = user.adding(agent.k10, ("cred:a",), label="second")
    return lambda: user.apply(signed)


@case(CHANGE, "a revoked device is never registered again", gives=Reason.ALREADY_BOUND)
def never_again(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    user.changed(user.revocation(agent.k10.key_hash))
    signed = user.adding(agent.k10, ("cred:a",))
    return lambda: user.apply(signed)


@case(CHANGE, "a second device may serve the same actor")
def second_device(site: Site) -> None:
    user = master(site)
    one, two = user.agent("cred:a"), user.agent("cred:b")
    equal(one.actor, two.actor, "actor")
    (scope,) = [found for found in state(site, user).scopes if found.actor_omni == one.actor]
    equal(list(scope.services), ["cred:a", "cred:b"], "scope")


@case(CHANGE, "a device that is revoked already", gives=Reason.DEVICE_REVOKED)
def revoked_twice(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    user.changed(user.revocation(agent.k10.key_hash))
    signed = user.signed(user.revocation(agent.k10.key_hash))
    return lambda: user.apply(signed)


@case(CHANGE, "a device of another user", gives=Reason.DEVICE_UNKNOWN)
def not_mine(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    signed = user.signed(user.revocation(other.k10.key_hash))
    return lambda: user.apply(signed)


@case(CHANGE, "a new agent of a frozen user", gives=Reason.OPERATOR_FROZEN)
def frozen_agent(site: Site) -> Callable[[], Any]:
    user = master(site)
    user.apply(user.freezing())
    signed = user.adding(DeviceKey.generate(), ("cred:a",))
    return lambda: user.apply(signed)


@case(CHANGE, "a grant of a frozen user", gives=Reason.OPERATOR_FROZEN)
def frozen_grant(site: Site) -> Callable[[], Any]:
    user = master(site)
    actor = user.agent("cred:a").actor
    user.apply(user.freezing())
    signed = user.signed(user.set_scope(actor, grant=("cred:b",)))
    return lambda: user.apply(signed)


def _bytes(change: Callable[[Master, dict[str, Any]], object]) -> Steps:
    """A scope change whose JSON `change` bends after it was signed."""

    def steps(site: Site) -> Callable[[], Any]:
        user = master(site)
        document = json.loads(_scope(user).encode())
        bent = change(user, document)
        data = bent if isinstance(bent, bytes) else canonical_json(document)
        return lambda: apply(site, data)

    return steps


def _set(path: str, value: object) -> Callable[[Master, dict[str, Any]], object]:
    *parents, name = path.split(".")

    def bend(_user: Master, document: dict[str, Any]) -> None:
        for parent in parents:
            document = document[parent]
        document[name] = value

    return bend


MALFORMED: dict[str, tuple[Reason, Callable[[Master, dict[str, Any]], object]]] = {
    "not JSON": (Reason.INVALID_CHANGE, lambda _, document: b"{"),
    "nothing at all": (Reason.INVALID_CHANGE, lambda _, document: b""),
    "over 64 KiB": (Reason.TOO_LARGE, lambda _, document: b" " * (64 * 1024 + 1)),
    "an unknown name": (Reason.UNKNOWN_FIELDS, _set("also", 1)),
    "an unknown name in the message": (Reason.UNKNOWN_FIELDS, _set("change.message.also", 1)),
    "an unknown signature": (Reason.UNKNOWN_FIELDS, _set("signatures.k12", "")),
    "a type that nobody knows": (Reason.INVALID_CHANGE, _set("change.type", "Destroy")),
    "a Pair as a change": (Reason.INVALID_CHANGE, _set("change.type", "Pair")),
    "a message of another type": (Reason.UNKNOWN_FIELDS, _set("change.type", "Unfreeze")),
    "an omni without 0x": (Reason.INVALID_CHANGE, _set("change.message.operatorOmni", "ab" * 32)),
    "a nonce as text": (Reason.INVALID_CHANGE, _set("change.message.nonce", "1")),
    "a negative nonce": (Reason.INVALID_CHANGE, _set("change.message.nonce", -1)),
    "a signature of 64 bytes": (Reason.INVALID_CHANGE, _set("signatures.k10", "A" * 86)),
    "a service that is none": (Reason.INVALID_CHANGE, _set("change.message.grant", ["cred:Open"])),
    "a service named twice": (Reason.INVALID_CHANGE, _set("change.message.grant", ["cred:a", "cred:a"])),
    "a reserved service": (Reason.INVALID_CHANGE, _set("change.message.grant", ["cred:list"])),
    "a grant of the audit": (Reason.INVALID_CHANGE, _set("change.message.grant", ["audit:tree"])),
    "nothing to grant and nothing to withdraw": (Reason.INVALID_CHANGE, _set("change.message.grant", [])),
    "a wallet's signature where none is due": (Reason.INVALID_CHANGE, _set("signatures.wallet", "A" * 87)),
}
for _title, (_reason, _bend) in MALFORMED.items():
    add(Case(group=CHANGE, title=_title, steps=_bytes(_bend), gives=_reason))


@case(CHANGE, "an actor that is not that of its label", gives=Reason.INVALID_CHANGE)
def other_actor(site: Site) -> Callable[[], Any]:
    user = master(site)
    document = json.loads(user.adding(DeviceKey.generate(), ("cred:a",)).encode())
    document["change"]["message"]["label"] = "other"
    return lambda: apply(site, canonical_json(document))


@case(CHANGE, "an operator that is not that of its wallet", gives=Reason.INVALID_CHANGE)
def other_wallet(site: Site) -> Callable[[], Any]:
    document = json.loads(stranger(site).enrolment().encode())
    document["change"]["message"]["wallet"] = "0x" + "ab" * 20
    return lambda: apply(site, canonical_json(document))


def watched(site: Site, count: int, *, client: str = BROKER, **fields: Any) -> list[registry_pb2.ChangeEvent]:
    """The first `count` events of a stream."""
    request = registry_pb2.WatchChangesRequest(**fields)
    stream = site.registry(client).WatchChanges(request, timeout=PATIENCE_S)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.cancel()


@case(WATCH, "beats at once, then replays and follows")
def beats(site: Site) -> None:
    (beat,) = watched(site, 1, after=2**62)
    expect(not beat.HasField("change"), "a beat holds a change")
    expect(abs(beat.server_time - site.now) <= 5, "server time")
    equal((beat.k3_epoch, beat.incarnation), (site.epoch, site.status.incarnation), "epoch and incarnation")
    user = stranger(site)
    signed = user.enrolment()
    stream = site.registry().WatchChanges(registry_pb2.WatchChangesRequest(after=beat.head.sequence))
    next(stream)
    user.apply(signed)
    change = next(event for event in stream if event.HasField("change")).change
    stream.cancel()
    found = (change.sequence, change.operator_omni, change.digest, change.type)
    wanted = (beat.head.sequence + 1, user.operator, signed.digest(site.domain), "Enrol")
    equal(found, wanted, "sequence, operator, digest and type")


@case(WATCH, "heads chain every change, and are MACed", needs="k3_current")
def heads(site: Site) -> None:
    user = master(site)
    before = site.registry().GetStatus(registry_pb2.GetStatusRequest()).head
    user.agent("cred:a")
    (event,) = watched(site, 1, after=before.sequence)
    change, head = event.change, event.head
    chained = derived.chained(
        before.hash, sequence=change.sequence, operator=change.operator_omni, digest=change.digest
    )
    equal((head.sequence, head.hash), (change.sequence, chained), "sequence and hash of the head")
    mac = derived.head_mac(
        site.manifest.k3[head.epoch],
        site.registry_id,
        incarnation=site.status.incarnation,
        sequence=head.sequence,
        head=head.hash,
    )
    equal(head.mac, mac, "MAC")


@case(WATCH, "a head that the target knows, or that carries another MAC, is taken")
def known_heads(site: Site) -> None:
    master(site)
    head = site.registry().GetStatus(registry_pb2.GetStatusRequest()).head
    watched(site, 1, after=head.sequence, known=head)
    forged = registry_pb2.RegistryHead(sequence=head.sequence + 9, hash=bytes(32), mac=bytes(32), epoch=head.epoch)
    watched(site, 1, after=head.sequence, known=forged)


@case(WATCH, "one caller cannot take every stream", gives=Reason.OVERLOADED, needs="streams_per_caller")
def too_many_streams(site: Site) -> Callable[[], Any]:
    stub = site.registry("streams")
    streams = [
        stub.WatchChanges(registry_pb2.WatchChangesRequest()) for _ in range(site.manifest.streams_per_caller or 0)
    ]
    for stream in streams:
        next(stream)

    def one_more() -> None:
        try:
            next(stub.WatchChanges(registry_pb2.WatchChangesRequest()))
        finally:
            for stream in streams:
                stream.cancel()

    return one_more


def _newer_head(site: Site) -> registry_pb2.RegistryHead:
    head = site.registry().GetStatus(registry_pb2.GetStatusRequest()).head
    sequence, chain = head.sequence + 1, secrets.token_bytes(32)
    epoch = min(site.manifest.k3)  # a head of any held epoch counts
    mac = derived.head_mac(
        site.manifest.k3[epoch],
        site.registry_id,
        incarnation=site.status.incarnation,
        sequence=sequence,
        head=chain,
    )
    return registry_pb2.RegistryHead(sequence=sequence, hash=chain, mac=mac, epoch=epoch)


@case(WATCH, "a client that has seen a newer head", gives=Reason.REGISTRY_ROLLED_BACK, needs="may_seal", last=True)
def newer_head(site: Site) -> Callable[[], Any]:
    known = _newer_head(site)
    return lambda: watched(site, 1, known=known)


@case(WATCH, "after that the target releases nothing", gives=Reason.SEALED, needs="may_seal", last=True)
def sealed(site: Site) -> Callable[[], Any]:
    request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
    return lambda: site.signer(BROKER).DeriveAddress(request)
