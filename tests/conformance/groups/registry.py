"""The `Registry` service: reads, the changes that exist since the first version, and their stream."""

import secrets
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import registry_pb2
from agentkeys_core.audit import OpKind
from agentkeys_core.errors import Reason
from tests.conformance.cases import case, equal, expect
from tests.conformance.people import Master, master, stranger
from tests.conformance.site import BROKER, CREDENTIALS, Site

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
    told = [(device.evidence, device.assurance, device.counter_fell) for device in (first, second)]
    equal(told, [("wallet", "high", False), ("master", "high", False)], "evidence, assurance, counter")
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
