"""Signing in with one's own wallet at the broker's real desk: composed for this device and this once, by Anvil signed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.siwe import SiweMessage, device_resource
from device.agents import state_now
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11.page import Task
from device.session import Device
from device.show import Show
from device.signed_in import SignInMethod
from device.wallet_page.questions import sign_message
from device.wallet_sign_in import message_for, own_wallet, sign_in
from tests.fakes.anvil import Anvil
from tests.unit.device.deployment import Deployment
from tests.unit.device.persons import Person


@pytest.fixture
def device(wallet_owner: Person) -> Iterator[Device]:
    with Home.open(wallet_owner.home) as home, Device.open(home, Show(as_json=True)) as opened:
        yield opened


@pytest.fixture
def wallet(device: Device) -> bytes:
    return own_wallet(state_now(device))


class Page:
    """The page and its wallet: what is asked, and `signer`, Anvil's account of that number."""

    def __init__(self, anvil: Anvil, signer: int = 0) -> None:
        self.anvil = anvil
        self.signer = signer
        self.tasks: list[Task] = []
        self.change: Callable[[str], str] = lambda text: text

    def ask(self, task: Task) -> None:
        self.tasks.append(task)
        account = self.anvil.request("eth_accounts")[self.signer]
        words = self.change(str(task.options["message"])).encode()
        task.accept({"signature": self.anvil.request("personal_sign", ["0x" + words.hex(), account])})

    def sign(self, intent: Intent, message: SiweMessage) -> bytes:
        return sign_message(self.ask, intent, message)

    def word(self, message: SiweMessage) -> Mapping[str, object]:
        """What a wallet says that signs whatever it is given."""
        account = self.anvil.request("eth_accounts")[self.signer]
        signature = self.anvil.request("personal_sign", ["0x" + message.encode().encode().hex(), account])
        return {"message": message.encode(), "signature": b64u_encode(bytes.fromhex(signature[2:]))}


def reason(begin: Callable[[], object]) -> str:
    try:
        begin()
    except (KeyServiceError, DeviceError) as refusal:
        return str(refusal.reason)
    pytest.fail("nobody refused")


def test_the_session_rests_on_the_wallet_and_the_one_before_is_over(
    anvil: Anvil, device: Device, wallet: bytes, deployment: Deployment
) -> None:
    session = BrokerSession(device)
    session.ask("GET", "/v1/sessions")
    assert deployment.identity.sessions_left() == ["device"]
    page = Page(anvil)
    made = sign_in(device, session, wallet, page.sign)
    assert (made.method, made.device) == (SignInMethod.WALLET, device.k10.key_hash)
    assert session.signed_in == made
    assert deployment.identity.sessions_left() == ["wallet"]
    told: Any = session.ask("GET", "/v1/sessions")
    assert [entry["id"] for entry in told["sessions"]] == [made.id.hex()]
    session.end()
    assert deployment.identity.sessions_left() == []


def test_the_message_says_who_asks_for_what_and_for_which_device(device: Device, wallet: bytes) -> None:
    message = message_for(device, wallet, "ab" * 56)
    assert message.domain == "localhost:8722"  # the page that asks: a wallet compares
    assert message.uri == device.profile.broker
    assert message.resources == (device_resource(device.k10.key_hash),)
    assert message.expiration_time is not None
    assert message.expiration_time.unix - message.issued_at.unix == 300
    assert SiweMessage.parse(message.encode()) == message


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_no_signature_of_the_wallet_over_this_message_is_refused_here(
    anvil: Anvil, device: Device, wallet: bytes, deployment: Deployment, number: int
) -> None:
    """Another account, or another message: the broker never sees it."""
    page = Page(anvil, signer=number)
    if number == 0:
        page.change = lambda text: text.replace("localhost:8722", "evil.example")
    deployment.seen.clear()
    session = BrokerSession(device)
    assert reason(lambda: sign_in(device, session, wallet, page.sign)) == "wallet_signature_invalid"
    assert ("broker", "/v1/session") not in deployment.seen
    assert session.signed_in is None


def test_a_signed_message_is_good_once_and_for_one_device(
    anvil: Anvil, device: Device, wallet: bytes, person: Callable[[str], Person], wallet_owner: Person, tmp_path: Any
) -> None:
    page, said = Page(anvil), []

    def word(nonce: str) -> Mapping[str, object]:
        said.append(page.word(message_for(device, wallet, nonce)))
        return said[0]

    BrokerSession(device).begin(word)
    assert reason(lambda: BrokerSession(device).begin(lambda _: said[0])) == "proof_invalid"  # another nonce
    agent = person("agent")
    operator = wallet_owner("whoami", "--offline").data["operator_omni"]
    paired = agent("pair", "--operator", operator, *agent.profile_words(), "--out", tmp_path / "offer.json")
    told = ("--label", "research", "--service", "cred:a", "--pairing-hash", paired.data["pairing_hash"])
    assert wallet_owner("agent", "add", tmp_path / "offer.json", *told).code == 0
    with Home.open(agent.home) as home, Device.open(home, Show(as_json=True)) as other:
        stolen = BrokerSession(other)
        for_us = lambda nonce: page.word(message_for(device, wallet, nonce))  # noqa: E731 - fresh, but another device's
        assert reason(lambda: stolen.begin(for_us)) == "proof_invalid"


@pytest.mark.parametrize(
    "changed",
    [{"domain": "evil.example"}, {"domain": "localhost:8723"}, {"uri": "https://evil.example"}],
    ids=["domain", "port", "broker"],
)
def test_a_message_for_another_site_signs_nobody_in(
    anvil: Anvil, device: Device, wallet: bytes, changed: dict[str, Any]
) -> None:
    page = Page(anvil)

    def word(nonce: str) -> Mapping[str, object]:
        return page.word(replace(message_for(device, wallet, nonce), **changed))

    assert reason(lambda: BrokerSession(device).begin(word)) == "proof_invalid"


def test_who_does_not_sign_keeps_the_session_that_was(anvil: Anvil, device: Device, wallet: bytes) -> None:
    session = BrokerSession(device)
    session.ask("GET", "/v1/sessions")
    before = session.signed_in

    def reject(intent: Intent, message: SiweMessage) -> bytes:
        raise DeviceError(Trouble.DECLINED, "rejected")

    assert reason(lambda: sign_in(device, session, wallet, reject)) == "declined"
    assert session.signed_in == before
    session.ask("GET", "/v1/sessions")


def test_a_broker_that_begins_another_session_is_not_believed(
    anvil: Anvil, device: Device, wallet: bytes, deployment: Deployment
) -> None:
    for lie in ({"method": "device"}, {"device": "00" * 32}, {"id": "x"}, {"method": "magic"}):

        def change(method: str, path: str, told: dict[str, Any], lie: Mapping[str, str] = lie) -> None:
            if (method, path) == ("POST", "/v1/session"):
                told["session"].update(lie)

        deployment.identity.lie = change
        session = BrokerSession(device)
        assert reason(lambda: sign_in(device, session, wallet, Page(anvil).sign)) == "answer_not_trusted"  # noqa: B023
        assert session.signed_in is None


def test_a_wallet_that_the_signer_holds_is_none_to_sign_in_with(
    device: Device, wallet: bytes, deployment: Deployment, anvil: Anvil
) -> None:
    state = state_now(device)
    assert reason(lambda: own_wallet(replace(state, wallet_epoch=1))) == Reason.POLICY_REFUSED
    assert reason(lambda: own_wallet(replace(state, wallet=DeviceKey.generate().address))) == "answer_not_trusted"
    operator = state.operator_omni
    deployment.states[operator] = replace(deployment.states[operator], wallet_epoch=1)
    refused = reason(lambda: sign_in(device, BrokerSession(device), wallet, Page(anvil).sign))
    assert refused == "policy_refused"  # the broker's own word, whatever this program believes


def test_what_is_signed_can_be_no_change_and_no_request(anvil: Anvil, device: Device, wallet: bytes) -> None:
    """Both are 32-byte digests of other beginnings; the wallet never signs a digest as it stands."""
    page = Page(anvil)
    sign_in(device, BrokerSession(device), wallet, page.sign)
    (task,) = page.tasks
    assert (task.kind, set(task.options)) == ("message", {"address", "may_change", "message"})
    text = str(task.options["message"])
    assert text.startswith("localhost:8722 wants you to sign in with your Ethereum account:\n")
