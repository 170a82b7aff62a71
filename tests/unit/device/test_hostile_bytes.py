"""Every parser of the device: random and mutated bytes give a named refusal, or a value that survives its own encoding."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.audit import ChainHead
from agentkeys_core.changes import ChangeSignatures, Pair, SetThreshold, SignedChange, SignedPair
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from device.audit_trail import Export
from device.collected import Collected
from device.errors import DeviceError
from device.identity import Identity, Memory, Part
from device.k11.ceremony import read_assertion, read_creation
from device.k11.port import K11Record
from device.pairing import Offer
from device.pairing_desk import ToldPairing
from device.problems import check_refusal
from device.registry import state_of
from device.tls import leaf_uris
from device.transport import Answer
from device.trust import read_keys
from device.wallet import Ground, Wallet
from tests.unit.device.browser_key import CHALLENGE, Key
from tests.unit.device.ledger import Ledger

BROWSER = Key()
RECORD = read_creation(BROWSER.create(CHALLENGE), challenge=CHALLENGE)
DEVICE = DeviceKey.generate()
TOLD = {
    "device": "00" * 32,
    "expires_at": 1,
    "id": "ab" * 16,
    "label": "research",
    "operator_omni": "00" * 32,
    "pair": None,
    "profile_hash": b64u_encode(bytes(32)),
    "public_key": b64u_encode(bytes(33)),
    "services": ["cred:openrouter"],
    "state": "claimed",
}
PAIR = Pair(
    operator_omni=bytes(32), device=DEVICE.address, k11_cred_id=bytes(32), profile_hash=bytes(32), expires_at=2**40
)


COLLECTED = Collected(
    signed=SignedChange(
        change=SetThreshold(operator_omni=bytes(32), threshold=1, incarnation=1, nonce=1, deadline=2**40),
        signatures=ChangeSignatures(k10=bytes(65)),
    )
)


def _creation(data: bytes) -> object:
    return read_creation(Answer(200, data).json(), challenge=CHALLENGE)


def _assertion(data: bytes) -> object:
    return read_assertion(Answer(200, data).json(), challenge=CHALLENGE, record=RECORD)


def _attestation(data: bytes) -> object:
    return read_creation(BROWSER.create(CHALLENGE) | {"attestation_object": b64u_encode(data)}, challenge=CHALLENGE)


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "identity": (Identity.parse, Identity(part=Part.MASTER, operator_omni=bytes(32), profile_hash=bytes(32)).encode()),
    "memory": (Memory.parse, Memory(epoch=1, heads={bytes(32): ChainHead(seq=1, row_hash=bytes(32))}).encode()),
    "k11": (K11Record.parse, RECORD.encode()),
    "offer": (
        Offer.parse,
        Offer(public_key=DEVICE.public_key, pair=SignedPair(message=PAIR, signature=bytes(65))).encode(),
    ),
    "master offer": (
        Offer.parse,
        Offer(
            public_key=DEVICE.public_key, pair=SignedPair(message=PAIR, signature=bytes(65)), k11=RECORD.public
        ).encode(),
    ),
    "collected": (Collected.parse, COLLECTED.encode()),
    "export": (Export.parse, Export(actor=bytes(32), rows=(), exported_at=1).encode()),
    "creation": (_creation, json.dumps(BROWSER.create(CHALLENGE)).encode()),
    "assertion": (_assertion, json.dumps(BROWSER.get(CHALLENGE)).encode()),
    "attestation": (_attestation, b"\xa3cfmtdnonegattStmt\xa0hauthDataX\x25" + bytes(37)),
    "keys": (read_keys, json.dumps({"keys": [Ledger().public.jwk()]}).encode()),
    "problem": (lambda data: check_refusal(Answer(403, data)), b'{"reason":"device_unknown","row":{},"server_time":1}'),
    "state": (lambda data: state_of(bytes(32))(Answer(200, data).json()), b'{"devices":[],"epoch":1}'),
    "pairing": (lambda data: ToldPairing.parse(Answer(200, data).json()), json.dumps(TOLD).encode()),
    "certificate": (leaf_uris, bytes.fromhex("3082010a0282010100")),
}


def named(parse: Callable[[bytes], object], data: bytes) -> None:
    with suppress(DeviceError, KeyServiceError):  # anything else is a traceback on somebody's terminal
        parse(data)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused_by_name(name: str, data: bytes) -> None:
    named(PARSERS[name][0], data)


@pytest.mark.parametrize("name", PARSERS)
@given(at=st.integers(0, 5000), byte=st.integers(0, 255), cut=st.integers(0, 4))
def test_mutated_bytes_are_refused_by_name(name: str, at: int, byte: int, cut: int) -> None:
    parse, good = PARSERS[name]
    at %= len(good)
    named(parse, good[:at] + bytes([byte]) + good[at + cut :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", PARSERS)
@given(value=JSON, field=st.integers(0, 30))
def test_members_of_other_types_are_refused_by_name(name: str, value: object, field: int) -> None:
    parse, good = PARSERS[name]
    try:
        members = json.loads(good)
    except ValueError:
        return
    members[sorted(members)[field % len(members)]] = value
    named(parse, json.dumps(members, sort_keys=True, separators=(",", ":")).encode())


@given(
    data=st.binary(max_size=80)
    | st.sampled_from(Ground).map(lambda ground: Wallet(address=bytes(20), ground=ground).encode())
)
def test_any_bytes_are_a_wallet_or_a_named_refusal(data: bytes) -> None:
    try:
        wallet = Wallet.parse(data)
    except KeyServiceError as refusal:
        if refusal.reason not in {Reason.INVALID_ENCODING, Reason.UNKNOWN_FIELDS}:
            raise
    else:
        assert wallet.encode() == data
