"""Batches over real gRPC: their borders, their items' errors, and what a commit that fails does to all of them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from agentkeys_core.proof import k10_digest
from tests.integration.signer_process import SignerProcess, refusal
from tests.integration.signer_user import Deployed, store, stub

_LIMITS = "[limits]\ncertificate_per_s = 1e6\ncertificate_burst = 1e6\ndevice_per_s = 1e6\ndevice_burst = 1e6\n"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path_factory.mktemp("batches"), tables=_LIMITS)
    made.prepare()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def user(signer: SignerProcess) -> Deployed:
    made = Deployed(signer)
    made.enrol()
    return made


@pytest.fixture(scope="module")
def channel(signer: SignerProcess) -> Iterator[grpc.Channel]:
    with signer.channel("worker") as made:
        yield made


def proof(user: Deployed, payload: bytes) -> pb.VerifyK10SigRequest:
    return pb.VerifyK10SigRequest(
        public_key=user.person.k10.public_key,
        payload=payload,
        signature=user.person.k10.sign(k10_digest("cap", payload)),
        scheme=pb.SIGNATURE_SCHEME_K10_V2,
        purpose="cap",
    )


def verify(channel: grpc.Channel, items: list[pb.VerifyK10SigRequest]) -> Any:
    return stub(channel).VerifyK10SigBatch(pb.VerifyK10SigBatchRequest(items=items), timeout=30)


def errors(answer: Any) -> list[str | None]:
    return [item.error.reason if item.HasField("error") else None for item in answer.items]


def test_stores_and_their_acknowledgements_in_batches(user: Deployed, channel: grpc.Channel) -> None:
    caps = [user.cap(Op.CRED_STORE, f"cred:many-{number}") for number in range(100)]
    released = stub(channel).DeriveCredKekBatch(
        pb.DeriveCredKekBatchRequest(items=[pb.DeriveCredKekRequest(cap=cap) for cap in (*caps, caps[0])]), timeout=30
    )
    assert errors(released) == [None] * 100 + ["cap_replayed"]
    assert len({item.response.key for item in released.items[:100]}) == 100
    rows = [pb.SignAuditRowRequest(cap=cap, result=0) for cap in (*caps, caps[0], b"{}")]
    signed = stub(channel).SignAuditRowBatch(pb.SignAuditRowBatchRequest(items=rows), timeout=30)
    assert errors(signed) == [None] * 101 + ["invalid_cap"]
    assert [item.response.row for item in signed.items[:101]] == [
        *(item.response.row for item in released.items[:100]),
        released.items[0].response.row,
    ]


def test_the_error_of_an_item_is_that_of_the_single_call(user: Deployed, channel: grpc.Channel) -> None:
    cap, _, row = store(channel, user, "cred:again")
    stale = pb.DeriveCredKekRequest(cap=cap)
    single = refusal(lambda: stub(channel).DeriveCredKek(stale, timeout=10))
    (item,) = stub(channel).DeriveCredKekBatch(pb.DeriveCredKekBatchRequest(items=[stale]), timeout=10).items
    assert (item.error.code, item.error.reason) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "cap_replayed")
    assert (item.error.reason, item.error.row) == (single.reason, single.row) == ("cap_replayed", row)
    late = user.cap(Op.CRED_FETCH, "cred:again", touch=True, issued_at=1)
    request = pb.DeriveCredKekRequest(cap=late, epoch=1, salt=bytes(32))
    single = refusal(lambda: stub(channel).DeriveCredKek(request, timeout=10))
    (item,) = stub(channel).DeriveCredKekBatch(pb.DeriveCredKekBatchRequest(items=[request]), timeout=10).items
    assert item.error.reason == single.reason == "cap_expired"
    assert set(item.error.metadata) == set(single.metadata) == {"server_time", "current_epoch"}


def test_256_items_and_no_more(user: Deployed, channel: grpc.Channel) -> None:
    item = proof(user, b"x")
    answer = verify(channel, [item] * 256)
    assert [entry.response.valid for entry in answer.items] == [True] * 256
    assert refusal(lambda: verify(channel, [item] * 257)).reason is Reason.TOO_LARGE
    assert refusal(lambda: verify(channel, [])).reason is Reason.INVALID_ENCODING


def of_size(user: Deployed, size: int) -> pb.VerifyK10SigRequest:
    """A proof whose message has exactly so many bytes."""
    rest = proof(user, bytes(size)).ByteSize() - size
    made = proof(user, bytes(size - rest))
    made = proof(user, bytes(size - rest + size - made.ByteSize()))
    assert made.ByteSize() == size
    return made


def test_an_item_of_64_kib_and_no_more(user: Deployed, channel: grpc.Channel) -> None:
    full, over = of_size(user, 65_536), of_size(user, 65_537)
    assert errors(verify(channel, [full, over, full])) == [None, "too_large", None]


def test_1_mib_in_all_and_no_more(user: Deployed, channel: grpc.Channel) -> None:
    full = of_size(user, 65_536)
    assert errors(verify(channel, [full] * 16)) == [None] * 16
    assert refusal(lambda: verify(channel, [full] * 16 + [proof(user, b"")])).reason is Reason.TOO_LARGE


def test_an_unknown_field_in_one_item_refuses_the_whole(user: Deployed, channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/agentkeys.signer.v1.Signer/VerifyK10SigBatch")
    unknown = proof(user, b"x").SerializeToString() + b"\xfa\x3e\x01x"
    data = pb.VerifyK10SigBatchRequest(items=[proof(user, b"x")]).SerializeToString()
    data += b"\x0a" + bytes([len(unknown) % 128 + 128, len(unknown) // 128]) + unknown
    assert refusal(lambda: call(data, timeout=10)).reason is Reason.UNKNOWN_FIELDS


def test_a_broker_gets_no_keys_in_batches(signer: SignerProcess, user: Deployed) -> None:
    with signer.channel("broker") as channel:
        keys = pb.DeriveCredKekBatchRequest(items=[pb.DeriveCredKekRequest(cap=b"x")])
        rows = pb.SignAuditRowBatchRequest(items=[pb.SignAuditRowRequest(cap=b"x")])
        assert refusal(lambda: stub(channel).DeriveCredKekBatch(keys, timeout=10)).reason is Reason.ROLE_NOT_ALLOWED
        assert refusal(lambda: stub(channel).SignAuditRowBatch(rows, timeout=10)).reason is Reason.ROLE_NOT_ALLOWED
        assert verify(channel, [proof(user, b"x")]).items[0].response.valid


def test_a_commit_that_fails_releases_no_item(signer: SignerProcess, user: Deployed, channel: grpc.Channel) -> None:
    caps = [user.cap(Op.CRED_STORE, f"cred:locked-{number}") for number in range(10)]
    request = pb.DeriveCredKekBatchRequest(items=[pb.DeriveCredKekRequest(cap=cap) for cap in caps])
    database = signer.folder / "state" / "state.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = stub(channel).DeriveCredKekBatch(request, timeout=30)
        assert errors(answer) == ["journal_unavailable"] * 10
        other.execute("ROLLBACK")
    assert errors(stub(channel).DeriveCredKekBatch(request, timeout=30)) == [None] * 10


def test_items_count_as_calls_in_flight(tmp_path: Path) -> None:
    made = SignerProcess(tmp_path, tables=f"{_LIMITS}max_in_flight = 5\n")
    made.prepare()
    made.start()
    try:
        user = Deployed(made)
        with made.channel("worker") as channel:
            assert errors(verify(channel, [proof(user, b"x")] * 8)) == [None] * 5 + ["overloaded"] * 3
    finally:
        made.stop()
