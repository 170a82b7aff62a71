"""A master whose wallet is Anvil's, enrolled by the way that prints what it signs."""

import json

from tests.fakes.anvil import Anvil
from tests.unit.device.persons import Person


def enrolled_by(anvil: Anvil, person: Person, number: int = 0) -> str:
    """Enrol with --wallet and --wallet-signature, and return the account."""
    account: str = anvil.request("eth_accounts")[number]
    printed = person.init("--wallet", account)
    assert printed.data["status"] == "wallet_signature_needed", printed.err
    signature = anvil.request("eth_signTypedData_v4", [account, json.dumps(printed.data["typed_data"])])
    done = person.init("--wallet-signature", signature)
    assert done.data["status"] == "enrolled", done.err
    return account
