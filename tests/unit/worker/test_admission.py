"""What the worker refuses by itself, before the signer is asked."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.bodies import StoreBody, request_hash
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.registry import Role
from tests.fakes.services_kit import BLIND, Asked, Services
from tests.unit.core.material import SoftwareK11
from tests.unit.core.refusal import refused
from worker.admission import Admitted

Bend = Callable[[Services], Asked]


def signed(services: Services, op: Op = Op.CRED_LIST, service: str = "cred:list", **bent: Any) -> Asked:
    """A list request whose signatures are bent."""
    good = services.names() if op is Op.CRED_LIST else services.ask(op, service)
    return Asked(services.world.signed(good.parsed.request, **bent), good.body, good.reply)


def stranger(services: Services) -> Asked:
    return services.names(key=DeviceKey.generate())


def revoked(services: Services) -> Asked:
    services.world.registry.bend_device(services.world.user.agent.key_hash, revoked=True)
    return services.names(key=services.world.user.agent)


def without_role(services: Services) -> Asked:
    services.world.registry.bend_device(services.world.user.agent.key_hash, roles=Role(0))
    return services.names(key=services.world.user.agent)


def frozen(services: Services) -> Asked:
    services.world.registry.bend_operator(services.world.user.operator, frozen=True)
    return services.names()


REFUSALS: dict[str, tuple[str, Bend]] = {
    "another registry": ("wrong_audience", lambda s: s.names(aud="cd" * 32)),
    "issued in the future": (
        "cap_not_yet_valid",
        lambda s: s.names(issued_at=int(s.world.clock.now()) + 100, expires_at=int(s.world.clock.now()) + 200),
    ),
    "expired": (
        "cap_expired",
        lambda s: s.names(issued_at=int(s.world.clock.now()) - 200, expires_at=int(s.world.clock.now()) - 100),
    ),
    "a later epoch": ("future_epoch", lambda s: s.names(k3_epoch=2)),
    "another broker": ("broker_signature_invalid", lambda s: signed(s, k1=ec.generate_private_key(ec.SECP256R1()))),
    "another device's signature": (
        "device_signature_invalid",
        lambda s: signed(s, device_signature=s.world.user.second.sign(bytes(32))),
    ),
    "another device's key": ("device_signature_invalid", lambda s: signed(s, key=s.world.user.second)),
    "an unknown device": ("device_unknown", stranger),
    "a revoked device": ("device_revoked", revoked),
    "a device without CAP_MINT": ("device_role_missing", without_role),
    "an agent that stores": ("device_role_missing", lambda s: s.store(key=s.world.user.agent)),
    "another actor": ("actor_binding_mismatch", lambda s: s.names(actor_omni=s.world.user.agent_actor)),
    "another operator": ("actor_binding_mismatch", lambda s: s.names(operator_omni=bytes(32))),
    "a frozen operator": ("operator_frozen", frozen),
    "a service out of scope": (
        "service_not_in_scope",
        lambda s: s.fetch(key=s.world.user.agent, service="cred:other"),
    ),
    "a master without K11": ("k11_required", lambda s: s.fetch(touch=False)),
    "a delete without K11": ("k11_required", lambda s: s.delete(touch=False)),
    "a replacing store without K11": ("k11_required", lambda s: s.store(expect=bytes(32), touch=False)),
    "a stranger's K11": ("k11_invalid", lambda s: signed(s, k11=SoftwareK11(b"stranger"))),
    "another body": ("invalid_body", lambda s: _with_body(s.names(), b'{"after":null,"limit":1}')),
    "a body that is none": ("invalid_body", lambda s: s.ask(Op.CRED_LIST, "cred:list", b"[]")),
    "a page of nothing": ("invalid_body", lambda s: s.ask(Op.CRED_LIST, "cred:list", b'{"after":null,"limit":0}')),
    "a fetch with a body": ("invalid_body", lambda s: s.ask(Op.CRED_FETCH, "cred:a", b'{"a":1}')),
    "an empty value": ("invalid_body", lambda s: s.store(b"")),
    "a value too long": ("too_large", lambda s: s.store(bytes(65_537))),
    "another class": ("class_mismatch", lambda s: s.ask(Op.MEMORY_GET, "memory:travel")),
    "a broker's op": ("class_mismatch", lambda s: s.ask(Op.SIWE_SIGN, "siwe:example.org")),
}


def _with_body(asked: Asked, body: bytes) -> Asked:
    return Asked(asked.cap, body, asked.reply)


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_without_asking_the_signer(services: Services, name: str) -> None:
    reason, bend = REFUSALS[name]
    asked = bend(services)
    op = asked.parsed.request.op.value.partition("-")[2]
    path = f"/v1/credentials/{op}" if op in {"store", "fetch", "list", "delete"} else "/v1/credentials/fetch"
    answered = services.send(asked, path=path)
    assert answered.reason == reason
    assert services.signer.calls == []
    assert answered.json["server_time"] >= services.world.clock.now()


@pytest.mark.parametrize("path", ["fetch", "list", "delete"])
def test_refuses_a_cap_on_the_path_of_another_operation(services: Services, path: str) -> None:
    assert services.send(services.store(), path=f"/v1/credentials/{path}").reason == "invalid_cap"
    assert services.signer.calls == []


def test_a_stale_epoch_is_refused_with_the_current_one(services: Services) -> None:
    asked = services.names()
    services.world.registry.set_epoch(2)
    answered = services.send(asked)
    assert answered.reason == "stale_epoch"
    assert answered.json["current_epoch"] == 2


@pytest.mark.parametrize("reason", [Reason.REGISTRY_STALE, Reason.REGISTRY_UNREACHABLE, Reason.REGISTRY_ROLLED_BACK])
def test_without_a_fresh_registry_nothing_is_asked(services: Services, reason: Reason) -> None:
    services.followed.failing = reason
    assert services.send(services.names()).reason == reason
    assert services.signer.calls == []


def test_a_registry_that_is_not_the_pinned_one_counts_as_none(services: Services) -> None:
    services.world.registry._status = dataclasses.replace(services.world.registry._status, registry_id="cd" * 32)
    assert services.send(services.names()).reason == "registry_unreachable"
    assert services.signer.calls == []


def test_a_grant_that_the_stream_has_not_told_yet_counts(services: Services) -> None:
    agent = services.world.user.agent
    state = services.world.registry.lookup_device(agent.key_hash)
    assert state is not None
    services.followed.cached[agent.key_hash] = dataclasses.replace(state, scopes={})
    asked = services.fetch(key=agent)
    assert services.send(asked).reason == "object_not_found"
    assert services.followed.rereads == 1


def test_a_revocation_is_not_looked_up_again(services: Services) -> None:
    assert services.send(revoked(services)).reason == "device_revoked"
    assert services.followed.rereads == 0


def test_only_admission_makes_an_admitted_request(services: Services) -> None:
    asked = services.names()
    request = asked.parsed.request
    with pytest.raises(TypeError):
        Admitted(cap=asked.cap, request=request, owner=bytes(32), body_bytes=b"{}", body=None)
    admitted = services.admission().admit(request.op, asked.cap, asked.body)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(admitted, owner=bytes(32))


def test_the_body_of_another_operation_is_not_handed_out(services: Services) -> None:
    asked = services.store()
    admitted = services.admission().admit(asked.parsed.request.op, asked.cap, asked.body)
    assert admitted.store == StoreBody(blind=BLIND, expect=None, value=b"secret")
    with refused("invalid_body"):
        _ = admitted.page
    with refused("invalid_body"):
        _ = admitted.audit_page


def test_what_goes_on_to_the_signer_is_the_canonical_cap(services: Services) -> None:
    asked = services.store()
    loose = {"body": asked.json()["body"], "cap": dict(reversed(asked.json()["cap"].items()))}
    assert services.worker.post("/v1/credentials/store", json=loose).status_code == 200
    assert asked.parsed.request.request_hash == request_hash(asked.body)
