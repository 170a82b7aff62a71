"""What the broker co-signs, and what it refuses before K1 is used."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from agentkeys_core.authorisation import verify_cosign
from agentkeys_core.captoken import Cap, UncosignedCap
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.registry import Role
from broker.quota import QuotaLimits
from tests.fakes.services_kit import Services, services_in
from tests.unit.core.material import SoftwareK11

Bend = Callable[[Services], UncosignedCap]


def bent(services: Services, **changed: Any) -> UncosignedCap:
    return dataclasses.replace(services.names().uncosigned, **changed)


def of_agent(services: Services, **changed: Any) -> UncosignedCap:
    agent = services.world.user.agent
    services.world.registry.bend_device(agent.key_hash, **changed)
    return services.names(key=agent).uncosigned


def frozen(services: Services) -> UncosignedCap:
    services.world.registry.bend_operator(services.world.user.operator, frozen=True)
    return services.names().uncosigned


def with_strangers_k11(services: Services) -> UncosignedCap:
    asked = services.names()
    return dataclasses.replace(asked.uncosigned, k11=SoftwareK11(b"stranger").answer(asked.digest))


REFUSALS: dict[str, tuple[str, Bend]] = {
    "another registry": ("wrong_audience", lambda s: s.names(aud="cd" * 32).uncosigned),
    "issued in the future": (
        "cap_not_yet_valid",
        lambda s: (
            s.names(issued_at=int(s.world.clock.now()) + 100, expires_at=int(s.world.clock.now()) + 200).uncosigned
        ),
    ),
    "expired": (
        "cap_expired",
        lambda s: (
            s.names(issued_at=int(s.world.clock.now()) - 200, expires_at=int(s.world.clock.now()) - 100).uncosigned
        ),
    ),
    "a later epoch": ("future_epoch", lambda s: s.names(k3_epoch=2).uncosigned),
    "a bad signature": ("device_signature_invalid", lambda s: bent(s, device_signature=bytes(64))),
    "another device's key": (
        "device_signature_invalid",
        lambda s: bent(s, device_public_key=s.world.user.second.public_key),
    ),
    "an unknown device": ("device_unknown", lambda s: s.names(key=DeviceKey.generate()).uncosigned),
    "a revoked device": ("device_revoked", lambda s: of_agent(s, revoked=True)),
    "a device without CAP_MINT": ("device_role_missing", lambda s: of_agent(s, roles=Role(0))),
    "an agent that stores": ("device_role_missing", lambda s: s.store(key=s.world.user.agent).uncosigned),
    "another actor": (
        "actor_binding_mismatch",
        lambda s: s.names(actor_omni=s.world.user.agent_actor).uncosigned,
    ),
    "a frozen operator": ("operator_frozen", frozen),
    "out of scope": (
        "service_not_in_scope",
        lambda s: s.fetch(key=s.world.user.agent, service="cred:other").uncosigned,
    ),
    "a master without K11": ("k11_required", lambda s: s.fetch(touch=False).uncosigned),
    "a stranger's K11": ("k11_invalid", with_strangers_k11),
}


def post(services: Services, cap: UncosignedCap) -> Any:
    return services.broker.post("/v1/caps", content=cap.encode(), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_what_signer_and_workers_would_refuse(services: Services, name: str) -> None:
    reason, bend = REFUSALS[name]
    answer = post(services, bend(services))
    assert answer.json()["reason"] == reason
    assert "cosign" not in answer.json()


def test_what_it_co_signs_is_accepted_under_the_pinned_key(services: Services) -> None:
    for asked in (services.store(), services.fetch(), services.names(), services.fetch(key=services.world.user.agent)):
        answer = post(services, asked.uncosigned).json()
        assert sorted(answer) == ["cosign", "kid"]
        cap = asked.uncosigned.cosigned(b64u_decode(answer["cosign"], length=64), answer["kid"])
        verify_cosign(Cap.parse(cap.encode()), {services.world.k1_public.kid: services.world.k1_public})


def test_a_store_that_may_replace_is_left_to_worker_and_signer(services: Services) -> None:
    assert post(services, services.store(expect=bytes(32), touch=False).uncosigned).status_code == 200


def test_caps_for_the_broker_itself_and_for_other_classes_are_co_signed(services: Services) -> None:
    asked = services.ask(Op.MEMORY_GET, "memory:travel", key=services.world.user.agent)
    assert post(services, asked.uncosigned).status_code == 200


def test_a_stale_epoch_is_refused_with_the_current_one(services: Services) -> None:
    asked = services.names()
    services.world.registry.set_epoch(2)
    answer = post(services, asked.uncosigned).json()
    assert (answer["reason"], answer["current_epoch"]) == ("stale_epoch", 2)


@pytest.mark.parametrize("reason", [Reason.REGISTRY_STALE, Reason.REGISTRY_UNREACHABLE, Reason.REGISTRY_ROLLED_BACK])
def test_without_a_fresh_registry_nothing_is_co_signed(services: Services, reason: Reason) -> None:
    services.followed.failing = reason
    assert post(services, services.names().uncosigned).json()["reason"] == reason


def test_another_registry_than_the_pinned_one_counts_as_none(services: Services) -> None:
    services.world.registry._status = dataclasses.replace(services.world.registry._status, registry_id="cd" * 32)
    assert post(services, services.names().uncosigned).json()["reason"] == "registry_unreachable"


def test_a_grant_that_the_stream_has_not_told_yet_counts(services: Services) -> None:
    agent = services.world.user.agent
    state = services.world.registry.lookup_device(agent.key_hash)
    assert state is not None
    services.followed.cached[agent.key_hash] = dataclasses.replace(state, scopes={})
    assert post(services, services.fetch(key=agent).uncosigned).status_code == 200
    assert services.followed.rereads == 1


def test_a_cap_that_leaves_no_room_for_the_co_signature_is_refused(services: Services) -> None:
    cap = services.names().uncosigned
    # Fits without, but not with, the co-signature's own hundred and fifty bytes.
    room = 16 * 1024 - len(cap.encode()) - 20
    wide = dataclasses.replace(cap, device_signature=bytes(64 + room * 3 // 4))
    assert UncosignedCap.parse(wide.encode()) == wide
    assert post(services, wide).json()["reason"] == "too_large"


def test_k1_shows_nowhere(services: Services) -> None:
    assert repr(services.cosigner) == f"<Cosigner {services.world.k1_public.kid}>"


# Quota.


def limited(tmp_path: Any, **limits: int) -> Any:
    return services_in(tmp_path, limits=QuotaLimits(**({"device_per_minute": 100, "user_per_minute": 100} | limits)))


def used_up(services: Services, request: Callable[[], UncosignedCap], count: int) -> Any:
    services.world.clock.at = services.world.clock.at // 60 * 60 + 10
    for _ in range(count):
        assert post(services, request()).status_code == 200
    return post(services, request())


def test_a_device_has_its_requests_a_minute_and_no_more(tmp_path: Any) -> None:
    with limited(tmp_path, device_per_minute=3) as services:
        answer = used_up(services, lambda: services.names().uncosigned, 3)
        assert (answer.status_code, answer.json()["reason"]) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "50"
        agent = services.world.user.agent
        assert post(services, services.names(key=agent).uncosigned).status_code == 200
        services.world.clock.at += 60
        assert post(services, services.names().uncosigned).status_code == 200


def test_a_user_has_its_requests_a_minute_over_all_devices(tmp_path: Any) -> None:
    with limited(tmp_path, user_per_minute=3) as services:
        assert used_up(services, lambda: services.names().uncosigned, 3).json()["reason"] == "rate_limited"
        answer = post(services, services.names(key=services.world.user.agent).uncosigned)
        assert answer.json()["reason"] == "rate_limited"


@pytest.mark.parametrize("signature", [bytes(64), None])
def test_whoever_names_a_device_without_its_key_uses_up_nothing(tmp_path: Any, signature: bytes | None) -> None:
    with limited(tmp_path, device_per_minute=1, user_per_minute=1) as services:
        cap = services.names().uncosigned
        stranger = DeviceKey.generate()
        for _ in range(5):
            forged = dataclasses.replace(cap, device_signature=signature or stranger.sign(bytes(32)))
            assert post(services, forged).json()["reason"] == "device_signature_invalid"
        assert post(services, cap).status_code == 200


def test_a_revoked_device_does_not_use_up_its_users_minute(tmp_path: Any) -> None:
    with limited(tmp_path, user_per_minute=1) as services:
        for _ in range(5):
            assert post(services, of_agent(services, revoked=True)).json()["reason"] == "device_revoked"
        assert post(services, services.names().uncosigned).status_code == 200


def test_a_wayward_device_uses_up_its_own_minute(tmp_path: Any) -> None:
    with limited(tmp_path, device_per_minute=2) as services:
        services.world.clock.at = services.world.clock.at // 60 * 60 + 10
        agent = services.world.user.agent
        reasons = [
            post(services, services.fetch(key=agent, service="cred:other").uncosigned).json()["reason"]
            for _ in range(3)
        ]
        assert reasons == ["service_not_in_scope", "service_not_in_scope", "rate_limited"]


def test_unknown_devices_are_not_counted(services: Services) -> None:
    for _ in range(5):
        cap = services.names(key=DeviceKey.generate()).uncosigned
        assert post(services, cap).json()["reason"] == "device_unknown"
    with services.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM counts")).scalar() == 0


def test_what_cannot_be_counted_is_not_co_signed(services: Services) -> None:
    with services.engine.begin() as conn:
        conn.execute(text("DROP TABLE counts"))
    answer = post(services, services.names().uncosigned)
    assert (answer.status_code, answer.json()["reason"]) == (429, "overloaded")
