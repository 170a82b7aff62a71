"""Signatures of wallets pass through the broker: asked for by a device, readable by it alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.audit import AuditRow, OpKind
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataAnswer, TypedDataBody
from broker.quota import QuotaLimits
from signer.ports import WalletRef
from signer.signing_policy import SigningPolicy
from tests.fakes.services_kit import Answered, Asked, Services, services_in
from tests.fakes.signing_policy import BOUND, HOST, NOW, POLICY, POLICY_ID, permit, siwe

SIWE, TYPED = "/v1/sign/siwe", "/v1/sign/typed-data"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    (tmp_path / "signing.toml").write_text(POLICY)
    limits = QuotaLimits(device_per_minute=3, user_per_minute=10)
    with services_in(tmp_path, limits=limits, signing=SigningPolicy.load(tmp_path / "signing.toml")) as made:
        world = made.world
        world.clock.at = NOW
        scope = frozenset({f"siwe:{HOST}", f"sign:{POLICY_ID}"})
        world.registry.bend_operator(world.user.operator, scopes={world.user.agent_actor: scope})
        world.registry.wallets = {
            world.user.operator: None,
            world.user.agent_actor: WalletRef(omni=world.user.agent_actor, epoch=1),
        }
        yield made


def wallet(services: Services) -> bytes:
    return services.world.keyring.address(services.world.user.agent_actor, 1)


def sign_in(services: Services, **changed: Any) -> Asked:
    body = SiweBody(message=siwe(wallet(services))).encode()
    return services.ask(Op.SIWE_SIGN, f"siwe:{HOST}", body, **({"key": services.world.user.agent} | changed))


def sign(services: Services, value: int = 1, **changed: Any) -> Asked:
    body = TypedDataBody(typed_data=permit(wallet(services), value=value)).encode()
    given = {"key": services.world.user.agent} | changed
    return services.ask(Op.TYPED_DATA_SIGN, f"sign:{POLICY_ID}", body, **given)


def post(services: Services, path: str, asked: Asked, **changed: Any) -> Answered:
    content = {"body": asked.json()["body"], "cap": asked.uncosigned.to_json()} | changed
    return Answered(services.broker.post(path, json=content), asked)


def test_a_sign_in_comes_back_sealed_with_its_row(services: Services) -> None:
    asked = sign_in(services)
    answered = post(services, SIWE, asked)
    assert answered.reason == "ok"
    assert SiweAnswer.parse(answered.plaintext).address == wallet(services)
    row = AuditRow.from_json(answered.row).content()
    assert (row.op_kind, row.op_body.cap) == (OpKind.SIGN_EIP191, asked.digest)
    assert set(answered.json) == {"cap_digest", "row", "sealed"}


def test_typed_data_comes_back_sealed_with_its_row(services: Services) -> None:
    answered = post(services, TYPED, sign(services))
    assert TypedDataAnswer.parse(answered.plaintext).address == wallet(services)
    assert AuditRow.from_json(answered.row).content().op_kind == OpKind.SIGN_EIP712


def test_k11_is_the_signers_to_ask_for(services: Services) -> None:
    assert post(services, TYPED, sign(services, value=BOUND + 1)).reason == "k11_required"
    assert services.broker_signer.calls == ["typed"]
    assert post(services, TYPED, sign(services, value=BOUND + 1, touch=True)).reason == "ok"


@pytest.mark.parametrize("path", [SIWE, TYPED])
def test_another_op_is_not_asked_for_here(services: Services, path: str) -> None:
    asked = sign(services) if path == SIWE else sign_in(services)
    assert post(services, path, asked).reason == "invalid_cap"
    assert post(services, path, services.fetch()).reason == "invalid_cap"
    assert services.broker_signer.calls == []


def test_another_body_than_the_request_commits_to(services: Services) -> None:
    others = (
        (SIWE, sign_in(services), SiweBody(message="other").encode()),
        (TYPED, sign(services), TypedDataBody(typed_data={}).encode()),
    )
    for path, asked, other in others:
        assert post(services, path, asked, body=b64u_encode(other)).reason == "invalid_body"
    assert post(services, SIWE, sign_in(services), body="==").reason == "invalid_body"
    assert services.broker_signer.calls == []


@pytest.mark.parametrize("content", [{}, {"body": ""}, {"cap": {}}, {"body": "", "cap": {}, "more": 1}, []])
def test_another_shape(services: Services, content: Any) -> None:
    answer = services.broker.post(SIWE, json=content)
    assert answer.status_code == 400
    assert answer.json()["reason"] in {"invalid_body", "unknown_fields", "invalid_cap"}


def test_what_caps_are_checked_for_is_checked_before_the_signer_is_asked(services: Services) -> None:
    user = services.world.user
    assert post(services, SIWE, sign_in(services, k3_epoch=2)).reason == "future_epoch"
    assert post(services, SIWE, sign_in(services, aud="cd" * 32)).reason == "wrong_audience"
    services.world.registry.bend_operator(user.operator, scopes={})
    assert post(services, SIWE, sign_in(services)).reason == "service_not_in_scope"
    services.world.registry.bend_device(user.agent.key_hash, revoked=True)
    assert post(services, SIWE, sign_in(services)).reason == "device_revoked"
    assert services.broker_signer.calls == []


def test_signatures_count_in_the_quota(services: Services) -> None:
    reasons = [post(services, SIWE, sign_in(services)).reason for _ in range(4)]
    assert reasons == ["ok", "ok", "ok", "rate_limited"]


def test_a_signature_is_given_once(services: Services) -> None:
    asked = sign_in(services)
    assert [post(services, SIWE, asked).reason for _ in range(2)] == ["ok", "cap_replayed"]


def test_the_signers_refusals_pass_through(services: Services) -> None:
    def down(_: str) -> None:
        raise KeyServiceError(Reason.SIGNER_UNREACHABLE)

    services.broker_signer.before = down
    assert post(services, SIWE, sign_in(services)).reason == "signer_unreachable"


def test_the_address_of_a_wallet(services: Services) -> None:
    user = services.world.user
    answer = services.broker.post("/v1/derive-address", json={"omni": user.agent_actor.hex(), "wallet": True})
    assert answer.json() == {"address": "0x" + wallet(services).hex(), "epoch": 1}
    answer = services.broker.post("/v1/derive-address", json={"omni": user.operator.hex(), "wallet": True})
    assert (answer.status_code, answer.json()["reason"]) == (403, "policy_refused")
