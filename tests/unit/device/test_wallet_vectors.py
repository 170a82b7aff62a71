"""What this program composes for a wallet, against Anvil: a signer that nobody here wrote agrees on every digest."""

import json

import pytest

from agentkeys_core.changes import Enrol
from agentkeys_core.eip712 import Domain
from agentkeys_core.keys import eip191_digest, recover_address
from tests.fakes.anvil import Anvil


@pytest.fixture
def wallet(anvil: Anvil) -> str:
    return str(anvil.request("eth_accounts")[0])


@pytest.mark.parametrize(
    "domain", [Domain.embedded("ab" * 32), Domain.chain(31337, bytes(range(20)))], ids=["salt", "chain"]
)
@pytest.mark.parametrize("large", [2**256 - 1, 2**53, 2**53 - 1, 0])
def test_wallets_sign_the_digest_of_an_enrol(anvil: Anvil, wallet: str, domain: Domain, large: int) -> None:
    address = bytes.fromhex(wallet[2:])
    change = Enrol(
        identity_omni=bytes(range(32)),
        operator_omni=bytes(range(32)),
        wallet=address,
        wallet_epoch=0,
        device=bytes(range(20)),
        k11_cred_id=bytes(32),
        k11_x=large,
        k11_y=large,
        k11_rp_id_hash=bytes(32),
        k11_origin_hash=b"\xff" * 32,
        roles=7,
        incarnation=0 if domain.is_chain else 1,
        nonce=0,
        deadline=2_000_000_000,
    )
    signature = anvil.request("eth_signTypedData_v4", [wallet, json.dumps(change.typed_data(domain))])
    assert recover_address(change.digest(domain), bytes.fromhex(signature[2:])) == address


def test_wallets_sign_the_digest_of_a_message(anvil: Anvil, wallet: str) -> None:
    text = "localhost:8722 wants you to sign in with your Ethereum account:\n…".encode()
    signature = anvil.request("personal_sign", ["0x" + text.hex(), wallet])
    assert recover_address(eip191_digest(text), bytes.fromhex(signature[2:])) == bytes.fromhex(wallet[2:])
