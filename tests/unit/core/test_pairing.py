from typing import Any

import pytest

from agentkeys_core.encoding import address_decode
from agentkeys_core.pairing import oidc_nonce, pairing_hash
from tests.unit.core.vectors import cases


@pytest.mark.parametrize(("given", "expect"), cases("pairing_hash"))
def test_vectors_of_pairing_hashes(given: Any, expect: Any) -> None:
    made = pairing_hash(
        device_public_key=bytes.fromhex(given["device_public_key"]),
        profile_hash=bytes.fromhex(given["profile_hash"]),
        k11_cred_id=bytes.fromhex(given["k11CredId"]),
        k11_x=bytes.fromhex(given["x"]),
        k11_y=bytes.fromhex(given["y"]),
    )
    assert made.hex() == expect["pairing_hash"]


def test_agents_have_zeros_in_place_of_k11() -> None:
    zeros = {"k11_cred_id": bytes(32), "k11_x": bytes(32), "k11_y": bytes(32)}
    base = {"device_public_key": bytes(33), "profile_hash": bytes(32)}
    assert pairing_hash(**base) == pairing_hash(**base, **zeros)


@pytest.mark.parametrize(("given", "expect"), cases("oidc_nonce"))
def test_vectors_of_oidc_nonces(given: Any, expect: Any) -> None:
    made = oidc_nonce(
        device_address=address_decode(given["device_address"]),
        k11_cred_id=bytes.fromhex(given["k11CredId"]),
        k11_x=bytes.fromhex(given["x"]),
        k11_y=bytes.fromhex(given["y"]),
        aud=given["aud"],
        blind=bytes.fromhex(given["blind"]),
    )
    assert made == expect["nonce"]
