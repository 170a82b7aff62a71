import functools
import json
from typing import Any

import pytest

from agentkeys_core.changes import ChangeSignatures, Domain, K11OfDevice, SignedChange, SignedPair
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from tests.unit.core.material import DEVICE, add_agent, enrol, freeze, k11, pair

SIGNATURE = bytes(range(65))


@functools.cache
def full() -> SignedChange:
    assertion = k11().answer(bytes(32))
    return SignedChange(
        change=add_agent(),
        signatures=ChangeSignatures(
            k10=SIGNATURE,
            k11=(
                K11OfDevice(device=bytes(32), assertion=assertion),
                K11OfDevice(device=b"\x01" * 32, assertion=assertion),
            ),
            new_device=SIGNATURE,
            pair=SignedPair(message=pair(), signature=SIGNATURE),
            wallet=SIGNATURE,
        ),
    )


def bare() -> SignedChange:
    return SignedChange(change=freeze(), signatures=ChangeSignatures(k10=SIGNATURE))


@pytest.mark.parametrize("signed", [full(), bare()], ids=["full", "bare"])
def test_reads_what_it_writes(signed: Any) -> None:
    assert SignedChange.parse(signed.encode()) == signed


def test_leaves_out_what_is_absent() -> None:
    assert json.loads(bare().encode())["signatures"] == {"k10": b64u_encode(SIGNATURE), "k11": []}


def test_accepts_any_spacing_and_order() -> None:
    text = json.dumps(dict(reversed(json.loads(full().encode()).items())), indent=2)
    assert SignedChange.parse(text.encode()) == full()


def test_its_digest_is_that_of_the_change() -> None:
    domain = Domain.embedded(bytes(32))
    assert full().digest(domain) == add_agent().digest(domain)


def bent(path: tuple[Any, ...], value: object, *, of: SignedChange | None = None) -> bytes:
    document = json.loads((of or full()).encode())
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document).encode()


def refused(data: bytes, reason: Reason = Reason.INVALID_CHANGE) -> None:
    with pytest.raises(KeyServiceError) as caught:
        SignedChange.parse(data)
    assert caught.value.reason == reason


SIG = "signatures"


@pytest.mark.parametrize(
    "path",
    [
        ("more",),
        ("change", "more"),
        ("change", "message", "more"),
        (SIG, "more"),
        (SIG, "pair", "more"),
        (SIG, "k11", 0, "more"),
        (SIG, "pair", "message", "more"),
    ],
)
def test_refuses_unknown_names_anywhere(path: Any) -> None:
    refused(bent(path, 1), Reason.UNKNOWN_FIELDS)


@pytest.mark.parametrize(
    "path",
    [
        ("change",),
        (SIG,),
        ("change", "type"),
        ("change", "message"),
        (SIG, "k10"),
        (SIG, "k11"),
        (SIG, "k11", 0, "device"),
        (SIG, "k11", 0, "signature"),
        (SIG, "pair", "message"),
        (SIG, "pair", "signature"),
    ],
)
def test_refuses_missing_names(path: Any) -> None:
    refused(bent(path, ...))


@pytest.mark.parametrize("path", [(SIG, "k10"), (SIG, "new_device"), (SIG, "wallet"), (SIG, "pair", "signature")])
@pytest.mark.parametrize("value", [None, "", b64u_encode(bytes(64)), b64u_encode(bytes(66)), "A" * 86 + "B", 1])
def test_refuses_signatures_of_other_sizes(path: Any, value: Any) -> None:
    refused(bent(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((SIG, "k11"), {}),
        ((SIG, "k11"), None),
        ((SIG, "k11", 0), None),
        ((SIG, "k11", 0, "device"), DEVICE.hex()),
        ((SIG, "k11", 0, "device"), "0x" + "00" * 32),
        ((SIG, "k11", 0, "signature"), "="),
        ((SIG, "pair"), None),
        (("change", "type"), "Freeze"),
        (("change", "message"), None),
    ],
)
def test_refuses_other_shapes(path: Any, value: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        SignedChange.parse(bent(path, value))
    assert caught.value.reason in (Reason.INVALID_CHANGE, Reason.UNKNOWN_FIELDS)


def test_a_pair_is_no_change() -> None:
    refused(
        json.dumps(
            {
                "change": {"message": pair().to_message(), "type": "Pair"},
                SIG: {"k10": b64u_encode(SIGNATURE), "k11": []},
            }
        ).encode()
    )


def test_refuses_a_change_that_contradicts_itself() -> None:
    refused(
        bent(
            ("change", "message", "roles"),
            0,
            of=SignedChange(change=enrol(), signatures=ChangeSignatures(k10=SIGNATURE)),
        )
    )


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b'{"change":1,"change":1}', b"nan", b"1e5"])
def test_refuses_what_is_no_object(data: Any) -> None:
    refused(data)


def test_refuses_huge_bodies() -> None:
    refused(b" " * (64 * 1024 + 1), Reason.TOO_LARGE)
