"""The signing RPCs on a real signer: what its policy file must say for it to start, and what it refuses without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from agentkeys_core.signing_bodies import SiweBody, TypedDataBody
from tests.fakes.signing_policy import HOST, POLICY, POLICY_ID, permit, siwe
from tests.integration.signer_process import SignerProcess, refusal
from tests.integration.signer_user import Deployed, stub


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path, extra='signing_policy = "signing.toml"\n')
    (tmp_path / "signing.toml").write_text(POLICY)
    made.prepare()
    yield made
    made.stop()


def test_a_policy_that_says_something_unknown_keeps_the_signer_from_starting(signer: SignerProcess) -> None:
    (signer.folder / "signing.toml").write_text('[siwe."app.example.com"]\nchains = [1]\n')
    done = signer.command("serve")
    assert done.returncode != 0
    assert "unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    (signer.folder / "signing.toml").unlink()
    assert "cannot be read" in signer.command("serve").stderr


def test_a_user_with_a_wallet_of_his_own_is_told_so(signer: SignerProcess) -> None:
    signer.start("--allow-software-k11")
    user = Deployed(signer)
    user.enrol()
    owner = user.person.wallet.address
    text, typed = siwe(owner), TypedDataBody(typed_data=permit(owner)).encode()
    sign_in = user.cap(Op.SIWE_SIGN, f"siwe:{HOST}", body=SiweBody(message=text).encode())
    sign = user.cap(Op.TYPED_DATA_SIGN, f"sign:{POLICY_ID}", body=typed, touch=True)
    with signer.channel("broker") as channel:
        found = [
            refusal(lambda: stub(channel).SignSiwe(signer_pb2.SignSiweRequest(cap=sign_in, message=text), timeout=10)),
            refusal(
                lambda: stub(channel).SignTypedData(
                    signer_pb2.SignTypedDataRequest(cap=sign, typed_data=typed), timeout=10
                )
            ),
            refusal(
                lambda: stub(channel).DeriveAddress(
                    signer_pb2.DeriveAddressRequest(omni=user.person.operator, wallet=True), timeout=10
                )
            ),
        ]
        free = user.cap(Op.SIWE_SIGN, f"siwe:{HOST}", body=SiweBody(message="hello").encode())
        request = signer_pb2.SignSiweRequest(cap=free, message="hello")
        assert refusal(lambda: stub(channel).SignSiwe(request, timeout=10)).reason is Reason.INVALID_SIWE
    assert {error.reason for error in found} == {Reason.POLICY_REFUSED}
