"""Signatures by a wallet: composed and shown by the command, and believed only where everything fits."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.checksum import checksum_encode
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey, eip191_digest, recover_address
from agentkeys_core.ops import Op, Service
from agentkeys_core.sealing import seal
from agentkeys_core.signing_bodies import SiweAnswer, TypedDataBody
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.typed_data import TypedData
from device.approval import ApprovalRequest, parse_approval
from device.client import prepare
from device.errors import DeviceError, Trouble
from device.home import Home
from device.session import Device
from device.show import Show
from device.wallet import Ground, Wallet
from tests.fakes.signing_policy import HOST, POLICY_ID, permit
from tests.unit.device.conftest import Outcome, Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.terminal import Terminal

SIWE = ("sign", "siwe", "--domain", HOST, "--uri", f"https://{HOST}/login")


def actor_of(person: Person) -> bytes:
    return bytes.fromhex(person("whoami").data["actor_omni"])


@pytest.fixture
def wallet(agent: Person, deployment: Deployment) -> DeviceKey:
    """The agent's wallet, as the signer has it."""
    key = DeviceKey.generate()
    deployment.wallets[actor_of(agent)] = key
    return key


def permit_file(tmp_path: Path, owner: bytes, **changed: Any) -> Path:
    file = tmp_path / "permit.json"
    file.write_text(json.dumps(permit(owner, **changed)))
    return file


def sign_permit(person: Person, tmp_path: Path, owner: bytes, *words: object) -> Outcome:
    return person("sign", "typed-data", permit_file(tmp_path, owner), "--policy", POLICY_ID, *words)


# --- wallet show


def test_an_agents_wallet_is_told_then_proven_by_a_signed_row(agent: Person, wallet: DeviceKey) -> None:
    shown = agent("wallet", "show")
    assert shown.data == {"address": checksum_encode(wallet.address), "known_by": "broker", "proven": False}
    assert agent(*SIWE).code == 0
    assert agent("wallet", "show").data["known_by"] == "signed_row"


def test_a_broker_that_changes_its_mind_is_not_believed(
    agent: Person, wallet: DeviceKey, deployment: Deployment
) -> None:
    agent("wallet", "show")
    deployment.wallets[actor_of(agent)] = DeviceKey.generate()
    told = agent("wallet", "show")
    assert (told.code, told.reason) == (6, "answer_not_trusted")


def test_a_proven_wallet_is_not_asked_for_again(agent: Person, wallet: DeviceKey, deployment: Deployment) -> None:
    agent(*SIWE)
    deployment.seen.clear()
    assert agent("wallet", "show").data["proven"] is True
    assert ("broker", "/v1/derive-address") not in deployment.seen


def test_a_masters_wallet_is_proven_by_its_operators_name(master: Person, deployment: Deployment) -> None:
    deployment.seen.clear()
    shown = master("wallet", "show").data
    assert (shown["known_by"], shown["proven"]) == ("operator_omni", True)
    assert ("broker", "/v1/derive-address") not in deployment.seen


@pytest.mark.parametrize("data", [b"", b"{}", b'{"address":"0x00","ground":"broker","ver":1}'])
def test_a_damaged_wallet_file_is_refused(agent: Person, wallet: DeviceKey, data: bytes) -> None:
    agent("wallet", "show")
    (agent.home / "wallet.json").write_bytes(data)
    assert agent("wallet", "show").reason == "bad_file"


@pytest.mark.parametrize("changed", [{"ver": 2}, {"ground": "hope"}])
def test_a_wallet_file_of_another_version_is_refused(changed: dict[str, Any]) -> None:
    members = json.loads(Wallet(address=bytes(20), ground=Ground.BROKER).encode())
    with pytest.raises(KeyServiceError):
        Wallet.parse(canonical_json({**members, **changed}))


# --- sign siwe


def test_signs_in(agent: Person, wallet: DeviceKey) -> None:
    signed = agent(*SIWE, "--statement", "Hello.", "--nonce", "12345678", "--chain-id", 8453)
    assert signed.code == 0, signed.err
    message = SiweMessage.parse(signed.data["message"])
    assert (message.domain, message.address, message.statement, message.nonce, message.chain_id) == (
        HOST,
        wallet.address,
        "Hello.",
        "12345678",
        8453,
    )
    assert message.expiration_time is not None
    assert message.expiration_time.unix - message.issued_at.unix == 300
    digest = eip191_digest(signed.data["message"].encode())
    assert signed.data["digest"] == digest.hex()
    assert recover_address(digest, bytes.fromhex(signed.data["signature"][2:])) == wallet.address


def test_shows_what_is_signed(agent: Person, wallet: DeviceKey) -> None:
    signed = agent(*SIWE, "--statement", "Hello.", as_json=False)
    for words in (HOST, checksum_encode(wallet.address), "Hello.", f"siwe:{HOST}", "Sign in with the wallet"):
        assert words in signed.err
    assert "signature: 0x" in signed.out


def test_signs_a_message_of_the_host(agent: Person, wallet: DeviceKey, tmp_path: Path) -> None:
    message = agent(*SIWE).data["message"]
    file = tmp_path / "message"
    file.write_text(f"{message}\n")
    signed = agent("sign", "siwe", "--file", file)
    assert signed.data["message"] == message


@pytest.mark.parametrize("text", [b"hello", b"\xff", b"x" * 9000])
def test_free_text_is_not_signed(agent: Person, wallet: DeviceKey, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "message").write_bytes(text)
    refused = agent("sign", "siwe", "--file", tmp_path / "message")
    assert refused.code == 2
    assert refused.reason in {"invalid_siwe", "bad_file"}


@pytest.mark.parametrize("words", [(), ("--domain", HOST), ("--uri", "https://x"), ("--domain", HOST, "--file", "x")])
def test_arguments_that_do_not_fit(agent: Person, words: tuple[str, ...]) -> None:
    assert agent("sign", "siwe", *words).reason == "usage"


def test_a_domain_with_a_port_can_be_no_service(agent: Person, wallet: DeviceKey) -> None:
    assert agent("sign", "siwe", "--domain", f"{HOST}:80", "--uri", "https://x").reason == "invalid_cap"


def test_another_wallets_signature_is_not_used(agent: Person, wallet: DeviceKey, deployment: Deployment) -> None:
    deployment.signed_by = DeviceKey.generate()
    refused = agent(*SIWE)
    assert (refused.code, refused.reason, refused.out) == (6, "answer_not_trusted", "")


def test_a_signature_over_something_else_is_not_used(agent: Person, wallet: DeviceKey, deployment: Deployment) -> None:
    def other(body: bytes) -> Any:
        request = UncosignedCap.from_json(json.loads(body)["cap"]).request
        answer: Any
        status, answer = deployment.sign(body)
        plain = SiweAnswer(address=wallet.address, signature=wallet.sign_recoverable(bytes(32))).encode()
        answer["sealed"] = b64u_encode(seal(request.reply_key, request.digest, plain))
        return status, answer

    deployment.hooks["broker", "/v1/sign/siwe"] = other
    assert agent(*SIWE).reason == "answer_not_trusted"


@pytest.mark.parametrize("words", [None, "Sign in to evil.example.com"])
def test_a_row_with_other_words_is_not_believed(
    agent: Person, wallet: DeviceKey, deployment: Deployment, words: str | None
) -> None:
    deployment.words = words
    refused = agent(*SIWE)
    assert (refused.code, refused.reason) == (6, "row_not_trusted")
    assert agent("wallet", "show").data["proven"] is False


def test_a_lost_answer_is_asked_for_by_a_new_request(agent: Person, wallet: DeviceKey, deployment: Deployment) -> None:
    lost: list[int] = []

    def lose(_: bytes) -> Any:
        lost.append(1)
        return problem(Reason.CAP_REPLAYED, 409) if len(lost) == 1 else None

    deployment.hooks["broker", "/v1/sign/siwe"] = lose
    assert agent(*SIWE).code == 0
    assert len(lost) == 2


def test_a_request_that_is_replayed_again_and_again_is_given_up(
    agent: Person, wallet: DeviceKey, deployment: Deployment
) -> None:
    deployment.hooks["broker", "/v1/sign/siwe"] = lambda _: problem(Reason.CAP_REPLAYED, 409)
    assert agent(*SIWE).reason == "cap_replayed"


# --- sign typed-data


def test_a_master_signs_typed_data_with_a_touch(master: Person, deployment: Deployment, tmp_path: Path) -> None:
    key = DeviceKey.from_bytes(bytes.fromhex(master.wallet_file.read_text()))
    deployment.wallets[actor_of(master)] = key
    signed = sign_permit(master, tmp_path, key.address)
    assert signed.code == 0, signed.err
    typed = TypedData.parse(permit(key.address))
    assert recover_address(typed.digest, bytes.fromhex(signed.data["signature"][2:])) == key.address
    assert signed.data["digest"] == typed.digest.hex()
    assert "Let another account spend tokens" in signed.data["intent"]


def test_an_agent_signs_without_a_touch_what_policy_allows(agent: Person, wallet: DeviceKey, tmp_path: Path) -> None:
    signed = sign_permit(agent, tmp_path, wallet.address)
    assert signed.code == 0, signed.err


def test_shows_what_typed_data_means(agent: Person, wallet: DeviceKey, tmp_path: Path) -> None:
    file = permit_file(tmp_path, wallet.address)
    shown = agent("sign", "typed-data", file, "--policy", POLICY_ID, as_json=False)
    assert "Let another account spend tokens, on chain 8453" in shown.err
    assert "Let another account spend tokens, on chain 8453" in shown.out


def test_who_is_asked_has_seen_what_it_means(agent: Person, wallet: DeviceKey, tmp_path: Path) -> None:
    file = permit_file(tmp_path, wallet.address)
    for words, meaning in (
        (("sign", "typed-data", file, "--policy", POLICY_ID), "Let another account spend tokens"),
        ((*SIWE, "--statement", "Hello."), "Hello."),
    ):
        with Terminal(agent, *map(str, words)) as terminal:
            before = terminal.until(r"\[y/N\]")
            terminal.write(b"n\n")
            code, _ = terminal.end()
        assert (code, meaning in before, "digest" in before) == (1, True, True)


def test_typed_data_of_another_wallet_is_not_used(
    agent: Person, wallet: DeviceKey, deployment: Deployment, tmp_path: Path
) -> None:
    assert agent("wallet", "show").code == 0
    deployment.signed_by = DeviceKey.generate()
    assert sign_permit(agent, tmp_path, wallet.address).reason == "answer_not_trusted"


def test_another_epochs_wallet_must_be_named(
    agent: Person, wallet: DeviceKey, deployment: Deployment, tmp_path: Path
) -> None:
    older = deployment.signed_by = DeviceKey.generate()
    assert sign_permit(agent, tmp_path, older.address, "--wallet-epoch", 1).reason == "usage"
    assert sign_permit(agent, tmp_path, older.address, "--wallet-epoch", 1, "--wallet", "0x12").reason == "usage"
    named = "0x" + older.address.hex()
    assert sign_permit(agent, tmp_path, older.address, "--wallet-epoch", 1, "--wallet", named).code == 0


@pytest.mark.parametrize("text", [b"{}", b"[", b"1.5", b"\xff", b'{"types":{}}'])
def test_a_file_that_is_no_typed_data(agent: Person, wallet: DeviceKey, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    refused = agent("sign", "typed-data", tmp_path / "x.json", "--policy", POLICY_ID)
    assert refused.code == 2
    assert refused.reason in {"invalid_typed_data", "bad_file"}


@pytest.mark.parametrize("name", ["digest", "type_hash", "domain_separator"])
def test_other_hashes_than_our_own_are_not_believed(
    agent: Person, wallet: DeviceKey, deployment: Deployment, tmp_path: Path, name: str
) -> None:
    typed = TypedData.parse(permit(wallet.address))
    members: dict[str, Any] = {
        "address": "0x" + wallet.address.hex(),
        "digest": typed.digest.hex(),
        "domain_separator": typed.domain_separator.hex(),
        "intent": None,
        "signature": b64u_encode(wallet.sign_recoverable(typed.digest)),
        "type_hash": typed.type_hash.hex(),
    }

    def other(body: bytes) -> Any:
        request = UncosignedCap.from_json(json.loads(body)["cap"]).request
        answer: Any
        status, answer = deployment.sign(body)
        plain = canonical_json({**members, name: "00" * 32})
        answer["sealed"] = b64u_encode(seal(request.reply_key, request.digest, plain))
        return status, answer

    deployment.hooks["broker", "/v1/sign/typed-data"] = other
    assert sign_permit(agent, tmp_path, wallet.address).reason == "answer_not_trusted"


# --- a master's approval of an agent's request


class Conversation(io.TextIOBase):
    """Standard input of the agent: the master reads what the agent printed, and its answer is the next line."""

    def __init__(self, agent: Person, master: Person, bend: Any = lambda line: line) -> None:
        self.agent, self.master, self.bend = agent, master, bend
        self.said: Outcome | None = None

    def readline(self, _limit: int | None = -1) -> str:  # type: ignore[override]
        asked = self.agent.capture.readouterr().err.strip().splitlines()[-1]
        file = self.agent.home / "asked"
        file.write_text(self.bend(asked))
        self.said = self.master("sign", "approve", file)
        return self.said.data["approval"] + "\n" if self.said.code == 0 else "\n"


def test_a_master_approves_an_agents_request(
    agent: Person,
    master: Person,
    wallet: DeviceKey,
    deployment: Deployment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    deployment.hooks["broker", "/v1/sign/typed-data"] = lambda body: seen.append(json.loads(body)["cap"]["k11"])
    monkeypatch.setattr(sys, "stdin", Conversation(agent, master))
    signed = sign_permit(agent, tmp_path, wallet.address, "--ask-master")
    assert signed.code == 0, signed.err
    assert seen[0] is not None  # and the deployment has verified it against the master's key


@pytest.mark.parametrize("change", ["body", "cap", "junk"])
def test_a_master_approves_nothing_else(
    agent: Person,
    master: Person,
    wallet: DeviceKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    def bend(line: str) -> str:
        members = json.loads(b64u_decode(line))
        if change == "body":
            members["body"] = "e30"
        elif change == "cap":
            members["cap"]["device_signature"] = "A" * 86
        return "junk" if change == "junk" else b64u_encode(canonical_json(members))

    reasons = {"body": "usage", "cap": "device_signature_invalid", "junk": "bad_file"}
    conversation = Conversation(agent, master, bend)
    monkeypatch.setattr(sys, "stdin", conversation)
    told = sign_permit(agent, tmp_path, wallet.address, "--ask-master")
    assert conversation.said is not None
    assert conversation.said.reason == reasons[change]
    assert told.reason == "bad_file"


def test_a_master_approves_typed_data_of_its_own_agents_alone(
    agent: Person, master: Person, person: Callable[[str], Person], wallet: DeviceKey, tmp_path: Path
) -> None:
    """A request that is well signed, but of another kind or of somebody else's agent."""
    body = TypedDataBody(typed_data=permit(wallet.address)).encode()
    with Home.open(agent.home) as home, Device.open(home, Show(as_json=True, yes=True)) as device:
        made = {
            op: prepare(device, op, Service.parse(service, op), body, epoch=1, k11=False)
            for op, service in ((Op.CRED_FETCH, "cred:openrouter"), (Op.TYPED_DATA_SIGN, f"sign:{POLICY_ID}"))
        }
    stranger = person("stranger")
    assert stranger.init().code == 0
    file = tmp_path / "asked"
    file.write_text(ApprovalRequest(cap=_bare(made[Op.CRED_FETCH].cap), body=body).encode())
    assert master("sign", "approve", file).reason == "usage"
    file.write_text(ApprovalRequest(cap=_bare(made[Op.TYPED_DATA_SIGN].cap), body=body).encode())
    assert stranger("sign", "approve", file).reason == "usage"
    assert master("sign", "approve", file).code == 0


def _bare(cap: UncosignedCap) -> UncosignedCap:
    return UncosignedCap(
        request=cap.request, device_public_key=cap.device_public_key, device_signature=cap.device_signature, k11=cap.k11
    )


@given(text=st.text() | st.binary().map(b64u_encode))
def test_any_line_is_an_approval_or_a_named_refusal(text: str) -> None:
    for parse in (ApprovalRequest.parse, parse_approval):
        with pytest.raises(DeviceError) as caught:
            parse(text)
        assert caught.value.reason is Trouble.BAD_FILE


def test_a_master_does_not_ask_a_master(master: Person, tmp_path: Path) -> None:
    assert sign_permit(master, tmp_path, bytes(20), "--ask-master").reason == "usage"
