"""What a managed wallet signs, for whom, and what stays of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpKind
from agentkeys_core.audit_envelope import intent_commitment
from agentkeys_core.bodies import request_hash
from agentkeys_core.checksum import checksum_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.keys import eip191_digest, recover_address
from agentkeys_core.ops import Op
from agentkeys_core.sealing import open_sealed
from agentkeys_core.secret import Secret
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataAnswer, TypedDataBody
from agentkeys_core.typed_data import TypedData
from signer import eip712_library
from signer.keyring import Keyring
from signer.ports import WalletRef
from signer.signing import SignedSiwe, SignedTypedData
from signer.signing_policy import SigningPolicy
from tests.fakes.signing_policy import BOUND, HOST, NOW, POLICY, POLICY_ID, permit, siwe
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases, document
from tests.unit.signer.world import CREDENTIALS, World, broker, digest_of, keyring, world_in

SIGN_IN, PERMITS = f"siwe:{HOST}", f"sign:{POLICY_ID}"
IDENTITY = b"\x07" * 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "signing.toml").write_text(POLICY)
    with world_in(tmp_path, signing=SigningPolicy.load(tmp_path / "signing.toml")) as made:
        made.clock.at = NOW
        state = made.user.state()
        scope = state.scopes[made.user.agent_actor] | {SIGN_IN, PERMITS}
        made.registry.bend_operator(made.user.operator, scopes={made.user.agent_actor: scope})
        made.registry.wallets = {
            made.user.operator: WalletRef(omni=IDENTITY, epoch=1),
            made.user.agent_actor: WalletRef(omni=made.user.agent_actor, epoch=1),
        }
        yield made


class Asked:
    """A cap over a body, and the key that opens its answer."""

    def __init__(self, world: World, op: Op, service: str, body: bytes, **given: Any) -> None:
        self.world, self.body = world, body
        self.reply = X25519PrivateKey.generate()
        given.setdefault("key", world.user.agent)
        given.setdefault("request_hash", request_hash(body))
        self.cap = world.cap(op, service, reply_key=self.reply.public_key().public_bytes_raw(), **given)

    def opened(self, sealed: bytes) -> bytes:
        return open_sealed(self.reply, digest_of(self.cap), sealed)


def wallet(world: World, epoch: int = 1) -> bytes:
    return world.keyring.address(world.user.agent_actor, epoch)


def ask_siwe(world: World, text: str | None = None, *, service: str = SIGN_IN, **given: Any) -> tuple[Asked, str]:
    text = siwe(wallet(world)) if text is None else text
    return Asked(world, Op.SIWE_SIGN, service, SiweBody(message=text).encode(), **given), text


def sign_siwe(world: World, text: str | None = None, **given: Any) -> tuple[Asked, SignedSiwe]:
    asked, message = ask_siwe(world, text, **given)
    return asked, world.service.sign_siwe(broker(), asked.cap, message)


def ask_typed(
    world: World, obj: Any = None, *, epoch: int | None = None, service: str = PERMITS, **given: Any
) -> Asked:
    obj = permit(wallet(world)) if obj is None else obj
    return Asked(
        world, Op.TYPED_DATA_SIGN, service, TypedDataBody(typed_data=obj, wallet_epoch=epoch).encode(), **given
    )


def sign_typed(world: World, obj: Any = None, **given: Any) -> tuple[Asked, SignedTypedData]:
    asked = ask_typed(world, obj, **given)
    return asked, world.service.sign_typed_data(broker(), asked.cap, asked.body)


def of_the_vectors() -> Keyring:
    return Keyring({int(epoch): Secret.copy_of(bytes.fromhex(k3)) for epoch, k3 in document()["held_epochs"].items()})


def content(row: bytes) -> AuditEnvelope:
    return AuditRow.parse(row).content()


# --- SignSiwe


def test_signs_a_sign_in_for_the_device_alone(world: World) -> None:
    asked, signed = sign_siwe(world)
    answer = SiweAnswer.parse(asked.opened(signed.sealed))
    text = siwe(wallet(world))
    assert answer.address == wallet(world)
    assert answer.signature[64] in (27, 28)
    assert recover_address(eip191_digest(text.encode()), answer.signature) == wallet(world)
    assert answer.signature not in signed.sealed


def test_the_row_says_where_and_as_whom(world: World) -> None:
    asked, signed = sign_siwe(world)
    said = content(signed.row)
    assert said.op_kind == OpKind.SIGN_EIP191
    assert (said.op_body.cap, said.op_body.req) == (digest_of(asked.cap), request_hash(asked.body))
    assert (said.op_body.svc, said.op_body.epoch) == (SIGN_IN, 1)
    assert said.intent_text == f"Sign in to {HOST} as {checksum_encode(wallet(world))}"
    digest = eip191_digest(siwe(wallet(world)).encode())
    assert said.intent_commitment == intent_commitment(said.intent_text, digest)
    line = world.lines()[-1]
    assert (line["method"], line["cap"]) == ("SignSiwe", digest_of(asked.cap).hex())


@pytest.mark.parametrize(("found", "expect"), cases("siwe"))
def test_the_vectors_signatures(found: dict[str, Any], expect: dict[str, Any]) -> None:
    with of_the_vectors() as keys:
        digest = eip191_digest(found["message"].encode())
        signature = keys.wallet_sign(bytes.fromhex(found["omni"]), found["epoch"], digest)
    assert signature.hex() == expect["signature"]


@pytest.mark.parametrize(("found", "expect"), cases("typed_data"))
def test_the_vectors_signatures_of_typed_data(found: dict[str, Any], expect: dict[str, Any]) -> None:
    obj = found["typed_data"]
    agreed = eip712_library.agreed_digest(obj, TypedData.parse(obj))
    assert agreed.digest.hex() == expect["digest"]
    with of_the_vectors() as keys:
        signature = keys.wallet_sign(bytes.fromhex(found["omni"]), found["epoch"], agreed.digest)
    assert signature.hex() == expect["signature"]


def test_a_sign_in_happens_once(world: World) -> None:
    asked, _ = sign_siwe(world)
    before = world.dump()[:5]
    with refused("cap_replayed"):
        world.service.sign_siwe(broker(), asked.cap, siwe(wallet(world)))
    assert world.dump()[:5] == before


def test_a_changed_message_is_another_one(world: World) -> None:
    asked, text = ask_siwe(world)
    with refused("invalid_body"):
        world.service.sign_siwe(broker(), asked.cap, text.replace("Example.", "Example!"))


@pytest.mark.parametrize("text", ["", "hello", "I owe you 5 ETH", "0x" + "00" * 32])
def test_free_text_is_never_signed(world: World, text: str) -> None:
    with refused("invalid_siwe"):
        sign_siwe(world, text)


def test_another_actors_wallet_is_not_signed_for(world: World) -> None:
    for other in (world.keyring.address(IDENTITY, 1), wallet(world, 2), bytes(20)):
        with refused("policy_refused"):
            sign_siwe(world, siwe(other))


def test_the_host_of_the_request_is_the_host_of_the_message(world: World) -> None:
    with refused("policy_refused"):
        sign_siwe(world, siwe(wallet(world), domain="evil.example.com", uri="https://evil.example.com"))


def test_scope_is_asked_for_agents(world: World) -> None:
    world.registry.bend_operator(world.user.operator, scopes={})
    with refused("service_not_in_scope"):
        sign_siwe(world)


def test_a_master_signs_with_the_wallet_of_the_identity(world: World) -> None:
    address = world.keyring.address(IDENTITY, 1)
    asked, signed = sign_siwe(world, siwe(address), key=world.user.master)
    assert SiweAnswer.parse(asked.opened(signed.sealed)).address == address


def test_nobody_signs_with_a_wallet_that_is_the_users_own(world: World) -> None:
    world.registry.wallets[world.user.operator] = None
    with refused("policy_refused"):
        sign_siwe(world, siwe(world.user.wallet), key=world.user.master)
    with refused("policy_refused"):
        sign_typed(world, key=world.user.master, touch=True)
    with refused("policy_refused"):
        world.service.wallet_address(broker(), world.user.operator)


def test_the_address_of_a_wallet(world: World) -> None:
    found = world.service.wallet_address(broker(), world.user.agent_actor)
    assert (found.address, found.epoch) == (wallet(world), 1)
    with refused("invalid_omni"):
        world.service.wallet_address(broker(), bytes(31))


def test_only_the_op_of_the_call_and_only_for_the_broker(world: World) -> None:
    asked, text = ask_siwe(world)
    typed = ask_typed(world)
    with refused("invalid_cap"):
        world.service.sign_siwe(broker(), typed.cap, text)
    with refused("invalid_cap"):
        world.service.sign_typed_data(broker(), asked.cap, typed.body)
    with refused("class_mismatch"):
        world.service.sign_siwe(CREDENTIALS, asked.cap, text)
    with refused("invalid_cap"):
        world.service.sign_audit_row(broker(), asked.cap, 0)


def test_a_refused_signature_leaves_no_row_and_no_burn(world: World) -> None:
    rows = world.count("rows"), world.count("caps")
    with refused("policy_refused"):
        sign_siwe(world, siwe(bytes(20)))
    with refused("k11_required"):
        sign_typed(world, permit(wallet(world), value=BOUND + 1))
    assert (world.count("rows"), world.count("caps")) == rows


def test_what_cannot_be_written_is_not_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(unit: Any) -> Any:
        def full(tx: Any) -> None:
            unit(tx)
            raise KeyServiceError(Reason.JOURNAL_UNAVAILABLE)  # the disk, at the last moment

        return world.committer.run(full)

    asked, text = ask_siwe(world)
    monkeypatch.setattr(world.service._signing, "_journalist", SimpleNamespace(run=failing))
    with refused("journal_unavailable"):
        world.service.sign_siwe(broker(), asked.cap, text)
    monkeypatch.undo()
    assert world.service.sign_siwe(broker(), asked.cap, text).row


# --- SignTypedData


def test_signs_typed_data_with_its_words(world: World) -> None:
    asked, signed = sign_typed(world)
    answer = TypedDataAnswer.parse(asked.opened(signed.sealed))
    typed = TypedData.parse(permit(wallet(world)))
    assert (answer.digest, answer.type_hash, answer.domain_separator) == (
        typed.digest,
        typed.type_hash,
        typed.domain_separator,
    )
    assert signed.hashes == eip712_library.TypedDigest(
        digest=typed.digest, domain_separator=typed.domain_separator, type_hash=typed.type_hash
    )
    assert recover_address(typed.digest, answer.signature) == answer.address == wallet(world)
    assert answer.intent == signed.intent
    said = content(signed.row)
    assert said.op_kind == OpKind.SIGN_EIP712
    assert said.intent_text == signed.intent
    assert signed.intent is not None
    assert "Let another account spend tokens, on chain 8453" in signed.intent
    assert said.intent_commitment == intent_commitment(signed.intent, typed.digest)


def test_above_the_bound_k11_is_needed_and_a_masters_is_enough(world: World) -> None:
    obj = permit(wallet(world), value=BOUND + 1)
    with refused("k11_required"):
        sign_typed(world, obj)
    asked, signed = sign_typed(world, obj, touch=True)  # the master's assertion over the agent's cap
    assert TypedDataAnswer.parse(asked.opened(signed.sealed)).address == wallet(world)


def test_the_touch_is_for_that_very_request(world: World) -> None:
    obj = permit(wallet(world), value=BOUND + 1)
    body = TypedDataBody(typed_data=obj).encode()
    request = world.request(Op.TYPED_DATA_SIGN, PERMITS, key=world.user.agent, request_hash=request_hash(body))

    class OfAnother:
        def answer(self, _: bytes) -> K11Assertion:
            return world.user.k11.answer(bytes(32))

    cap = world.signed(request, key=world.user.agent, k11=OfAnother())  # type: ignore[arg-type]
    with refused("k11_invalid"):
        world.service.sign_typed_data(broker(), cap, body)


def test_what_the_policy_does_not_allow_is_refused_with_and_without_k11(world: World) -> None:
    obj = permit(wallet(world), spender="0x" + "44" * 20)
    for touch in (False, True):
        with refused("policy_refused"):
            sign_typed(world, obj, touch=touch)


def test_the_registrys_domain_is_always_refused(world: World) -> None:
    with refused("invalid_typed_data"):
        sign_typed(world, permit(wallet(world), domain={"name": "AgentKeys Registry"}), touch=True)


def test_a_changed_body_is_another_one(world: World) -> None:
    asked = ask_typed(world)
    other = TypedDataBody(typed_data=permit(wallet(world), value=1)).encode()
    with refused("invalid_body"):
        world.service.sign_typed_data(broker(), asked.cap, other)


def test_typed_data_is_signed_once(world: World) -> None:
    asked, _ = sign_typed(world)
    with refused("cap_replayed"):
        world.service.sign_typed_data(broker(), asked.cap, asked.body)


def test_scope_is_asked_for_typed_data(world: World) -> None:
    world.registry.bend_operator(world.user.operator, scopes={world.user.agent_actor: frozenset({SIGN_IN})})
    with refused("service_not_in_scope"):
        sign_typed(world)


def test_without_a_descriptor_there_are_no_words(world: World) -> None:
    """Here the domain lacks its version, which no permit of ERC-2612 does."""
    obj = permit(wallet(world))
    obj["types"]["EIP712Domain"] = [item for item in obj["types"]["EIP712Domain"] if item["name"] != "version"]
    del obj["domain"]["version"]
    asked, signed = sign_typed(world, obj)
    assert signed.intent is None
    assert TypedDataAnswer.parse(asked.opened(signed.sealed)).intent is None
    assert (content(signed.row).intent_text, content(signed.row).intent_commitment) == (None, None)


def test_the_wallets_epoch_is_the_recorded_one_and_another_held_one_may_be_named(world: World) -> None:
    world.registry.set_epoch(2)
    world.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = 2 WHERE key = 'k3_epoch'"))
    asked, signed = sign_typed(world, k3_epoch=2)
    assert TypedDataAnswer.parse(asked.opened(signed.sealed)).address == wallet(world, 1)
    assert content(signed.row).op_body.epoch == 1
    asked, signed = sign_typed(world, k3_epoch=2, epoch=2)
    assert TypedDataAnswer.parse(asked.opened(signed.sealed)).address == wallet(world, 2)
    assert content(signed.row).op_body.epoch == 2


def test_an_epoch_that_has_not_begun_signs_nothing(world: World) -> None:
    with refused("future_epoch"):
        sign_typed(world, epoch=2)


def test_an_epoch_that_is_not_held_signs_nothing(world: World) -> None:
    world.service._signing._keyring = keyring((2,))
    with refused("epoch_not_held"):
        sign_typed(world, epoch=1)


def test_two_readings_must_agree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eip712_library, "_by_library", lambda _: (bytes(32), bytes(32)))
    with refused("invalid_typed_data"):
        sign_typed(world)


def test_what_was_revoked_while_the_library_was_busy_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = eip712_library._by_library

    def slow(obj: Any) -> tuple[bytes, bytes]:
        world.clock.at += 5
        world.registry.bend_device(world.user.agent.key_hash, revoked=True)
        return real(obj)

    monkeypatch.setattr(eip712_library, "_by_library", slow)
    with refused("device_revoked"):
        sign_typed(world)


def test_a_busy_library_delays_and_refuses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = eip712_library._by_library

    def slow(obj: Any) -> tuple[bytes, bytes]:
        world.clock.at += 5
        return real(obj)

    monkeypatch.setattr(eip712_library, "_by_library", slow)
    assert sign_typed(world)[1].row


def test_whatever_the_library_raises_is_a_refusal() -> None:
    obj = permit(bytes(20))
    typed = TypedData.parse(obj)
    for bent in ({}, {**obj, "message": {}}, {**obj, "types": {}}, {**obj, "domain": {"chainId": []}}, None):
        with refused("invalid_typed_data"):
            eip712_library.agreed_digest(bent, typed)


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    """Half a second and 30 MiB, which most signers never need."""
    look = "import signer.server, sys; sys.exit('eth_account' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False, timeout=60).returncode == 0
