"""The exceptions of the promise, and the residual risks as far as a test can show where each of them ends."""

import re
import time
from pathlib import Path

import grpc
import pytest

from agentkeys.signer.v1 import signer_pb2, signer_pb2_grpc
from agentkeys_core.changes import Freeze
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_runtime.grpc_errors import from_rpc_error
from device.errors import DeviceError, Trouble
from device.home import Home
from device.keys import SignedDigest
from tests.adversarial.town import OPENROUTER, Town, reason
from tests.fakes.evidence_kit import Member, change_json


def test_derive_address_gives_an_address_and_nothing_else(town: Town) -> None:
    """An exception by intent: no device signature, for brokers alone, 20 bytes from which no key follows."""
    members = [found.name for found in signer_pb2.DeriveAddressResponse.DESCRIPTOR.fields]
    assert members == ["address", "epoch"]
    assert len(town.signer("broker").derive_address(bytes(32), epoch=1)) == 20
    assert reason(lambda: town.signer().derive_address(bytes(32), epoch=1)) == "role_not_allowed"
    assert reason(lambda: town.signer("broker").derive_address(bytes(32), epoch=2)) == "epoch_not_held"
    assert reason(lambda: town.signer("broker").derive_address(bytes(31), epoch=1)) == "invalid_omni"


def test_attest_enrol_gives_a_first_bind_and_only_against_evidence(town: Town) -> None:
    """An exception by intent: for brokers alone, and of nothing that the host did not configure."""
    members = [found.name for found in signer_pb2.AttestEnrolResponse.DESCRIPTOR.fields]
    assert members == ["signature"]
    alice = Member(kind=IdentityType.EMAIL, value="alice@example.com", now=int(time.time()))
    alice.address = town.signer("broker").derive_address(alice.identity, epoch=1)
    change, evidence = change_json(alice.bind()), alice.by_email()
    assert reason(lambda: town.signer("broker").attest_enrol(change, evidence)) == "invalid_evidence"
    assert reason(lambda: town.signer("broker").attest_enrol(b"{}", evidence)) == "invalid_change"
    assert reason(lambda: town.signer().attest_enrol(change, evidence)) == "role_not_allowed"


@pytest.mark.parametrize(("method", "part", "reason"), [("Rewrap", "credentials", "invalid_body")])
def test_the_other_exceptions_have_their_callers(town: Town, method: str, part: str, reason: str) -> None:
    other = "credentials" if part == "broker" else "broker"
    expected = {part: reason, other: "role_not_allowed", "daemon": "role_not_allowed"}
    for certificate, wanted in expected.items():
        with town.channel(certificate) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/agentkeys.signer.v1.Signer/{method}")(b"", timeout=5)
        assert from_rpc_error(caught.value).reason == wanted


def test_rewrap_is_closed_until_the_host_opens_it(town: Town) -> None:
    """An exception by intent: ciphertext in, ciphertext out, and no worker can open the window."""
    request = signer_pb2.RewrapRequest(owner=bytes(32), service=OPENROUTER, envelope=bytes(200))
    setattr(request, "class", signer_pb2.OBJECT_CLASS_CREDENTIALS)
    members = [found.name for found in signer_pb2.RewrapResponse.DESCRIPTOR.fields]
    assert members == ["envelope"], "no key"
    with town.channel("credentials") as channel, pytest.raises(grpc.RpcError) as caught:
        signer_pb2_grpc.SignerStub(channel).Rewrap(request, timeout=5)
    assert from_rpc_error(caught.value).reason == "window_closed"


def test_k11_is_asked_for_nothing_that_k10_did_not_sign(town: Town) -> None:
    """A page on another localhost port may ask for a touch; never for a digest that this device's K10 signed."""
    master = town.master()
    digest = bytes(range(32))
    foreign = SignedDigest(
        public_key=master.key.public_key,
        digest=digest,
        signature=DeviceKey.generate().sign(digest),
        challenge=digest,
        name=digest,
    )
    with pytest.raises(DeviceError) as caught:
        master.assertion(foreign)
    assert caught.value.reason is Trouble.INTERNAL


def test_a_request_that_a_thief_had_signed_beforehand_ends_with_a_freeze(town: Town) -> None:
    """Brief access to a key is enough to sign requests for later; freezing or revoking kills them."""
    master = town.master()
    agent = town.agent(master, OPENROUTER)
    version = town.store(master, OPENROUTER, b"x")
    kept = agent.cap(Op.CRED_FETCH, OPENROUTER, age_s=-30).encode()
    stop = Freeze(operator_omni=master.who.operator, incarnation=1, freeze_nonce=0)
    town.apply(master.signed_change(stop, k11=False))
    assert reason(lambda: town.signer().derive_cred_kek(kept, **version.salt)) == "operator_frozen"


def test_a_device_folder_that_others_can_read_is_refused(town: Town) -> None:
    """Another Unix user cannot read K10; whoever runs as the same one can, and the documents say so."""
    home: Path = town.master().device.home.path
    assert home.stat().st_mode & 0o077 == 0
    assert (home / "k10.json").stat().st_mode & 0o077 == 0
    home.chmod(0o750)
    try:
        with pytest.raises(DeviceError) as caught:
            Home.open(home)
        assert caught.value.reason is Trouble.UNSAFE_FILE
    finally:
        home.chmod(0o700)


def test_the_residual_risks_stand_where_users_read_them() -> None:
    root = Path(__file__).parents[2]
    told = ("second", "unix user", "localhost", "pre-sign")
    for name, words in {"SECURITY.md": told, "docs/threat-model.md": (*told, "by email")}.items():
        text = " ".join((root / name).read_text().lower().split())
        missing = [word for word in words if word not in text]
        assert not missing, name


def test_the_threat_model_names_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    model = (root / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"\btest_[a-z_]{8,}[a-z]\b(?!\.py|…)", model))
    files = [path.read_text() for path in (root / "tests").rglob("test_*.py")]
    assert len(named) > 25
    assert not [name for name in sorted(named) if not any(f"def {name}(" in text for text in files)]
    parts = set(re.findall(r"`((?:signer|worker|broker|device|agentkeys_\w+)/[\w/]+\.py)", model))
    assert not [name for name in sorted(parts) if not (root / name).exists()]
