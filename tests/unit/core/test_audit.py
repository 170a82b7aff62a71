import dataclasses
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.audit import (
    AuditEnvelope,
    AuditError,
    AuditRow,
    ChainHead,
    OpBody,
    OpKind,
    OpResult,
    RowFault,
    kind_name,
    row_hash,
    verify_chain,
)
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import hkdf_sha256, sha256
from agentkeys_core.keys import ES256PublicKey
from tests.unit.core.material import ACTOR, AuditKey, envelope, k3, p256_public
from tests.unit.core.vectors import cases


@pytest.fixture(scope="module")
def key() -> AuditKey:
    return AuditKey()


def body_of(given: dict[str, Any]) -> OpBody:
    members: dict[str, Any] = {
        name: value if name in ("svc", "epoch") else bytes.fromhex(value) for name, value in given.items()
    }
    return OpBody(**members)


def envelope_of(given: dict[str, Any]) -> AuditEnvelope:
    digest = given["payload_digest"]
    return AuditEnvelope.compose(
        ts_unix=given["ts_unix"],
        actor_omni=bytes.fromhex(given["actor_omni"]),
        operator_omni=bytes.fromhex(given["operator_omni"]),
        op_kind=given["op_kind"],
        op_body=body_of(given["op_body"]),
        result=OpResult(given["result"]),
        intent_text=given["intent_text"],
        payload_digest=None if digest is None else bytes.fromhex(digest),
    )


def audit_public(epoch: int) -> ES256PublicKey:
    scalar = hkdf_sha256(k3(epoch), salt=b"agentkeys.es256-salt.v1", info=b"agentkeys.audit.v1\x00", length=32)
    return p256_public(scalar)


@pytest.mark.parametrize(("given", "expect"), cases("audit_envelope"))
def test_vectors_of_envelopes(given: Any, expect: Any) -> None:
    made = envelope_of(given)
    assert made.encode().hex() == expect["cbor"]
    assert made.hash().hex() == expect["envelope_hash"]
    assert (made.intent_commitment and made.intent_commitment.hex()) == expect["intent_commitment"]
    assert AuditEnvelope.parse(made.encode()) == made


@pytest.mark.parametrize(("given", "expect"), cases("audit_chain"))
def test_vectors_of_chains(given: Any, expect: Any) -> None:
    keys = {public.kid: public for public in (audit_public(1), audit_public(2))}
    rows = [AuditRow.parse(row["row"].encode()) for row in expect["rows"]]
    prev = bytes(32)
    for seq, (row, entry, wanted) in enumerate(zip(rows, given["entries"], expect["rows"], strict=True)):
        assert row.envelope == envelope_of(entry["envelope"]).encode()
        assert row.envelope_hash.hex() == wanted["envelope_hash"]
        assert row.row_hash == row_hash(bytes.fromhex(given["actor_omni"]), prev, seq, row.envelope_hash)
        assert row.row_hash == sha256(bytes.fromhex(wanted["preimage"]))
        assert row.encode().decode() == wanted["row"]
        assert (row.seq, row.epoch) == (seq, entry["epoch"])
        assert row.verify(keys) == envelope_of(entry["envelope"])
        prev = row.row_hash
    report = verify_chain(rows, keys)
    assert report.ok
    assert report.head == ChainHead(seq=len(rows) - 1, row_hash=prev)


@pytest.mark.parametrize("op_kind", [13, 99, 255, 2**53 - 1])
def test_carries_and_names_unknown_kinds(op_kind: Any) -> None:
    made = AuditEnvelope.parse(envelope(op_kind=op_kind).encode())
    assert made.op_kind == op_kind
    assert kind_name(op_kind) == f"kind-{op_kind}"


def test_names_known_kinds() -> None:
    assert kind_name(OpKind.CRED_STORE) == "cred-store"


def test_rows_of_changes_hold_the_change_alone() -> None:
    made = envelope(op_kind=OpKind.DEVICE_ADD, op_body=OpBody(change=bytes(32)))
    assert cbor2.loads(made.encode())["op_body"] == {"change": bytes(32)}
    assert AuditEnvelope.parse(made.encode()) == made


@pytest.mark.parametrize("digest", [None, bytes(31)])
def test_an_intent_needs_its_payload_digest(digest: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        envelope(intent_text="pay", payload_digest=digest)
    assert caught.value.reason == Reason.INVALID_ENCODING


def test_an_intent_is_unicode_text() -> None:
    with pytest.raises(KeyServiceError) as caught:
        envelope(intent_text="\ud800", payload_digest=bytes(32))
    assert caught.value.reason == Reason.INVALID_ENCODING


def members(**changed: object) -> dict[str, Any]:
    return {**cbor2.loads(envelope().encode()), **changed}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in members().items() if key != name}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], Reason.INVALID_ENCODING),
        ({1: 2}, Reason.INVALID_ENCODING),
        (members(version=2), Reason.UNSUPPORTED_VERSION),
        (members(version=True), Reason.UNSUPPORTED_VERSION),
        (without("version"), Reason.UNSUPPORTED_VERSION),
        (members(more=1), Reason.UNKNOWN_FIELDS),
        (without("intent_text"), Reason.INVALID_ENCODING),
        (members(intent_text="words"), Reason.INVALID_ENCODING),
        (members(intent_commitment=bytes(32)), Reason.INVALID_ENCODING),
        (members(intent_text=1, intent_commitment=bytes(32)), Reason.INVALID_ENCODING),
        (members(intent_text="words", intent_commitment=bytes(31)), Reason.INVALID_ENCODING),
        (members(ts_unix=-1), Reason.INVALID_ENCODING),
        (members(ts_unix=True), Reason.INVALID_ENCODING),
        (members(ts_unix=2**53), Reason.INVALID_ENCODING),
        (members(actor_omni=bytes(31)), Reason.INVALID_ENCODING),
        (members(actor_omni="00" * 32), Reason.INVALID_ENCODING),
        (members(operator_omni=None), Reason.INVALID_ENCODING),
        (members(op_kind=-1), Reason.INVALID_ENCODING),
        (members(result=3), Reason.INVALID_ENCODING),
        (members(op_body=None), Reason.INVALID_ENCODING),
        (members(op_body={"more": 1}), Reason.UNKNOWN_FIELDS),
        (members(op_body={"epoch": 0}), Reason.INVALID_ENCODING),
        (members(op_body={"epoch": 2**32}), Reason.INVALID_ENCODING),
        (members(op_body={"svc": b"cred:x"}), Reason.INVALID_ENCODING),
        (members(op_body={"salt": bytes(33)}), Reason.INVALID_ENCODING),
        (members(op_body={"salt": None}), Reason.INVALID_ENCODING),
    ],
)
def test_refuses_malformed_envelopes(value: Any, reason: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        AuditEnvelope.parse(cbor2.dumps(value, canonical=True))
    assert caught.value.reason == reason


def reordered() -> bytes:
    return cbor2.dumps(dict(sorted(members().items())))


def repeated() -> bytes:
    good = envelope().encode()
    return b"\xaa" + good[1:] + b"\x66result\x00"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        reordered(),
        repeated(),
        envelope().encode() + b"\x00",
        envelope().encode()[:-1],
        envelope().encode().replace(b"\x66result\x00", b"\x66result\x18\x00"),  # a longer integer than needed
        envelope().encode().replace(b"\x66result\x00", b"\x66result\xf9\x00\x00"),  # zero as a float
        b"\xbf" + envelope().encode()[1:] + b"\xff",  # indefinite length
        b"\xd9\xd9\xf7" + envelope().encode(),  # tagged
        b"\xc1\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # the time infinity
        b"\xd8\x23\x61(",  # a regular expression that does not compile
    ],
)
def test_refuses_other_cbor(data: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        AuditEnvelope.parse(data)
    assert caught.value.reason == Reason.INVALID_ENCODING


def test_refuses_huge_envelopes() -> None:
    with pytest.raises(KeyServiceError) as caught:
        AuditEnvelope.parse(bytes(32 * 1024 + 1))
    assert caught.value.reason == Reason.TOO_LARGE


def row_json(key: AuditKey, **changed: object) -> bytes:
    return canonical_json({**key.row(envelope()).to_json(), **changed})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"more": 1}, Reason.UNKNOWN_FIELDS),
        ({"ver": 1}, Reason.UNSUPPORTED_VERSION),
        ({"ver": "2"}, Reason.INVALID_ENCODING),
        ({"seq": -1}, Reason.INVALID_ENCODING),
        ({"seq": True}, Reason.INVALID_ENCODING),
        ({"epoch": 0}, Reason.INVALID_ENCODING),
        ({"epoch": 2**32}, Reason.INVALID_ENCODING),
        ({"kid": "short"}, Reason.INVALID_ENCODING),
        ({"kid": None}, Reason.INVALID_ENCODING),
        ({"actor": "00"}, Reason.INVALID_ENCODING),
        ({"actor": "AA" * 32}, Reason.INVALID_ENCODING),
        ({"prev": None}, Reason.INVALID_ENCODING),
        ({"row_hash": "00" * 31}, Reason.INVALID_ENCODING),
        ({"sig": "AA"}, Reason.INVALID_ENCODING),
        ({"envelope": "A"}, Reason.INVALID_ENCODING),
    ],
)
def test_refuses_malformed_rows(key: Any, changed: Any, reason: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        AuditRow.parse(row_json(key, **changed))
    assert caught.value.reason == reason


def test_refuses_rows_that_are_not_canonical(key: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        AuditRow.parse(json.dumps(key.row(envelope()).to_json()).encode())
    assert caught.value.reason == Reason.INVALID_ENCODING


def fault_of(row: AuditRow, keys: dict[str, Any]) -> RowFault:
    with pytest.raises(AuditError) as caught:
        row.verify(keys)
    assert caught.value.reason == Reason.INVALID_ENCODING
    return caught.value.fault


@pytest.mark.parametrize(
    "changed",
    [
        {"seq": 1},
        {"prev": b"\x01" * 32},
        {"envelope": envelope(op_kind=OpKind.CRED_STORE).encode()},
        {"row_hash": bytes(32)},
        {"actor": bytes(32)},
    ],
)
def test_a_row_covers_all_its_members(key: Any, changed: Any) -> None:
    row = dataclasses.replace(key.row(envelope()), **changed)
    assert fault_of(row, key.keys) == RowFault.HASH


def test_refuses_a_row_signed_by_another_key(key: Any) -> None:
    other = AuditKey()
    row = dataclasses.replace(key.row(envelope()), sig=other.row(envelope()).sig)
    assert fault_of(row, key.keys) == RowFault.SIGNATURE


def test_refuses_a_row_of_an_unknown_key(key: Any) -> None:
    assert fault_of(key.row(envelope()), AuditKey().keys) == RowFault.UNKNOWN_KEY


def test_refuses_a_row_whose_envelope_is_of_another_actor(key: Any) -> None:
    assert fault_of(key.row(envelope(), actor=bytes(32)), key.keys) == RowFault.ACTOR


def found(rows: list[AuditRow], key: AuditKey, **options: Any) -> list[tuple[int, str]]:
    return [(fault.position, fault.fault) for fault in verify_chain(rows, key.keys, **options).faults]


def test_a_whole_chain_is_clean(key: Any) -> None:
    rows = key.chain(5)
    report = verify_chain(rows, key.keys)
    assert (report.ok, report.count, report.head) == (True, 5, ChainHead(seq=4, row_hash=rows[4].row_hash))


def test_an_empty_chain_is_clean(key: Any) -> None:
    assert verify_chain([], key.keys).head is None


def test_a_page_goes_on_after_a_known_head(key: Any) -> None:
    rows = key.chain(5)
    assert not found(rows[3:], key, after=ChainHead(seq=2, row_hash=rows[2].row_hash))
    assert found(rows[3:], key, after=ChainHead(seq=2, row_hash=bytes(32))) == [(0, RowFault.BREAK)]


@pytest.mark.parametrize(
    ("order", "faults"),
    [
        ([1, 2], [(0, RowFault.GAP)]),
        ([0, 2, 3], [(1, RowFault.GAP)]),
        ([0, 1, 1, 2], [(2, RowFault.ORDER)]),
        ([0, 2, 1, 3], [(1, RowFault.GAP), (2, RowFault.ORDER), (3, RowFault.GAP)]),
    ],
)
def test_reports_missing_repeated_and_shuffled_rows_by_position(key: Any, order: Any, faults: Any) -> None:
    rows = key.chain(4)
    assert found([rows[index] for index in order], key) == faults


def test_reports_a_genuine_row_of_another_history_as_a_break(key: Any) -> None:
    rows = key.chain(3)
    rows[1] = key.row(envelope(ts_unix=1), seq=1, prev=b"\x01" * 32)
    assert found(rows, key) == [(1, RowFault.BREAK), (2, RowFault.BREAK)]


def test_reports_a_first_row_that_claims_a_predecessor(key: Any) -> None:
    assert found([key.row(envelope(), prev=b"\x01" * 32)], key) == [(0, RowFault.BREAK)]


def test_reports_rows_of_another_actor(key: Any) -> None:
    rows = key.chain(2)
    other = key.row(envelope(actor_omni=bytes(32)), seq=2, prev=rows[1].row_hash)
    assert found([*rows, other], key) == [(2, RowFault.ACTOR)]


def test_reports_bad_signatures_and_malformed_envelopes_by_position(key: Any) -> None:
    rows = key.chain(3)
    rows[1] = dataclasses.replace(rows[1], sig=bytes(64))
    rows[2] = dataclasses.replace(rows[2], kid="A" * 43)
    assert found(rows, key) == [(1, RowFault.SIGNATURE), (2, RowFault.UNKNOWN_KEY)]
    broken = key.row(_Raw(ACTOR, b"\xff"))
    assert found([broken], key) == [(0, Reason.INVALID_ENCODING)]


class _Raw:
    """Stands where an envelope goes, with bytes that are none."""

    def __init__(self, actor: bytes, data: bytes) -> None:
        self.actor_omni, self._data = actor, data

    def encode(self) -> bytes:
        return self._data


@given(
    words=st.none() | st.text(max_size=300),
    numbers=st.tuples(*[st.integers(0, 2**53 - 1)] * 2),
    body=st.fixed_dictionaries(
        {},
        optional={
            "cap": st.binary(min_size=32, max_size=32),
            "req": st.binary(min_size=32, max_size=32),
            "salt": st.binary(min_size=32, max_size=32),
            "change": st.binary(min_size=32, max_size=32),
            "svc": st.text(max_size=80),
            "epoch": st.integers(1, 2**32 - 1),
        },
    ),
)
def test_an_envelope_is_deterministic_cbor_without_being_sorted(words: Any, numbers: Any, body: Any) -> None:
    envelope = AuditEnvelope.compose(
        ts_unix=numbers[0],
        actor_omni=bytes(32),
        operator_omni=bytes(range(32)),
        op_kind=numbers[1],
        op_body=OpBody(**body),
        intent_text=words,
        payload_digest=bytes(32),
    )
    encoded = envelope.encode()
    assert encoded == cbor2.dumps(cbor2.loads(encoded), canonical=True)
    assert AuditEnvelope.parse(encoded) == envelope
