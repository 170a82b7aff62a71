"""A signing policy of the kind that hosts write, and what it allows."""

from typing import Any

from agentkeys_core.checksum import checksum_encode
from agentkeys_core.siwe import SiweMessage

HOST = "app.example.com"
POLICY_ID = "usdc-permit"
TOKEN, SPENDER = "0x" + "33" * 20, "0x" + "22" * 20
PERMIT = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
BOUND = 1_000_000
#: Times as the messages below write them, one after another.
ISSUED, NOW, EXPIRES = "2025-11-24T16:00:00Z", 1_764_000_000, "2025-11-24T16:05:00Z"

POLICY = f"""\
[siwe."{HOST}"]
chain_ids = [1, 8453]
max_lifetime_s = 600

[[sign.{POLICY_ID}.allow]]
type = "{PERMIT}"
chain_ids = [8453]
verifying_contracts = ["{TOKEN}"]
only = {{ spender = ["{SPENDER}"] }}
ends_within_s = {{ deadline = 3600 }}
k11_above = {{ value = "{BOUND}" }}

[[sign.always-k11.allow]]
type = "Order(Item[] items,address buyer)Item(uint256 price,string name)"
chain_ids = [1]
verifying_contracts = ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"]
"""


def siwe(address: bytes, **changed: Any) -> str:
    """A sign-in to HOST that the policy allows at NOW."""
    members: dict[str, Any] = {
        "domain": HOST,
        "address": address,
        "uri": f"https://{HOST}/login",
        "chain_id": 1,
        "nonce": "32891756aB",
        "issued_at": ISSUED,
        "expiration_time": EXPIRES,
        "statement": "Sign in to Example.",
    }
    return SiweMessage.compose(**(members | changed)).encode()


def permit(owner: bytes, *, domain: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """A permit of TOKEN that the policy allows at NOW without K11."""
    members = [part.split(" ") for part in PERMIT[len("Permit(") : -1].split(",")]
    message = {
        "owner": checksum_encode(owner),
        "spender": SPENDER,
        "value": BOUND,
        "nonce": 0,
        "deadline": str(NOW + 600),
    }
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Permit": [{"name": name, "type": kind} for kind, name in members],
        },
        "primaryType": "Permit",
        "domain": {"name": "USD Coin", "version": "2", "chainId": 8453, "verifyingContract": TOKEN} | (domain or {}),
        "message": message | changed,
    }
