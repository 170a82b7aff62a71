"""What a broker tells of a pairing, and the text in a QR code: read strictly, refused by name."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_encode
from device.errors import DeviceError, Trouble
from device.pairing_desk import ToldPairing
from device.pairing_link import PairingLink


def refused(work: Callable[[], object]) -> Trouble:
    with pytest.raises(DeviceError) as caught:
        work()
    return caught.value.reason


TOLD: dict[str, object] = {
    "device": "00" * 32,
    "expires_at": 1,
    "id": "ab" * 16,
    "label": None,
    "operator_omni": None,
    "pair": None,
    "profile_hash": b64u_encode(bytes(32)),
    "public_key": b64u_encode(bytes(33)),
    "services": [],
    "state": "pending",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "../registry/changes"},
        {"id": "ab" * 15},
        {"code": "\x1b[2J-ABCD"},
        {"code": "ABCDEFGHI"},
        {"label": "Research"},
        {"label": 7},
        {"services": "cred:a"},
        {"services": ["nonsense"]},
        {"operator_omni": "ab"},
        {"pair": {}},
        {"code": "ABCD-EFGH\n"},
        {"more": 1},
        {"public_key": ""},
    ],
)
def test_what_is_no_pairing_is_not_trusted(changed: dict[str, object]) -> None:
    assert ToldPairing.parse(TOLD).label is None
    assert refused(lambda: ToldPairing.parse(TOLD | changed)) == "answer_not_trusted"


@given(st.text(max_size=60), st.text(max_size=20), st.binary(min_size=16, max_size=16))
def test_a_link_survives_its_encoding(broker: str, code: str, value: bytes) -> None:
    link = PairingLink(broker=f"https://{broker}", code=f"{code}-", hash=value)
    try:
        text = link.encode()
    except UnicodeEncodeError:  # a lone surrogate has none
        return
    assert PairingLink.parse(text) == link


@given(st.text(max_size=200) | st.text(max_size=120).map("agentkeys:pair?broker=".__add__))
def test_another_text_is_no_link(text: str) -> None:
    assert refused(lambda: PairingLink.parse(text)) == "usage"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("v=1", "v=2"),
        lambda text: text + "&more=1",
        lambda text: text.replace("pair?", "pair2?"),
        lambda text: text.replace("code=ABCD-EFGH&", ""),
        lambda text: text.replace("hash=", "hash=0"),
        lambda text: text.replace("broker=", "broker=" + "a" * 2000),
    ],
)
def test_a_link_of_another_form_is_none(change: Callable[[str], str]) -> None:
    link = PairingLink(broker="https://broker.example.com", code="ABCD-EFGH", hash=bytes(range(16)))
    assert refused(lambda: PairingLink.parse(change(link.encode()))) == "usage"
