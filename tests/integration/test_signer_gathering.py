"""The workers' client over real gRPC: what threads ask at once goes in batches, and each gets what is its own."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys.signer.v1 import signer_pb2_grpc
from agentkeys_core.audit import AuditRow
from agentkeys_core.captoken import Cap
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op
from agentkeys_runtime.signer_batches import GatheringSignerClient
from tests.integration.signer_process import SignerProcess
from tests.integration.signer_user import Deployed
from tests.unit.core.refusal import refused


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path_factory.mktemp("gathering"))
    made.prepare()
    made.start()
    yield made
    made.stop()


def at_once(calls: list[Any]) -> list[Any]:
    """Every call from a thread of its own, all at the same moment; what each gave."""
    barrier = threading.Barrier(len(calls))

    def run(call: Any) -> Any:
        barrier.wait()
        try:
            return call()
        except KeyServiceError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_every_thread_gets_the_answer_to_its_own_cap(signer: SignerProcess) -> None:
    user = Deployed(signer)
    user.enrol()
    caps = [user.cap(Op.CRED_STORE, f"cred:n{number}") for number in range(24)]
    with signer.channel("worker") as channel:
        client = GatheringSignerClient(channel)
        keys = at_once([lambda cap=cap: client.derive_cred_kek(cap) for cap in caps])
        assert len({key.key for key in keys}) == len(caps)
        calls: list[Any] = [lambda cap=cap: client.sign_audit_row(cap, result=0) for cap in caps]
        rows = at_once([*calls, lambda: client.sign_audit_row(b"{}", result=0)])
        assert rows.pop().reason is Reason.INVALID_CAP
        assert rows == [key.row for key in keys]
        assert [AuditRow.parse(row).content().op_body.cap for row in rows] == [Cap.parse(cap).digest for cap in caps]
        again = at_once([lambda cap=cap: client.derive_cred_kek(cap) for cap in caps])
        assert {error.reason for error in again} == {Reason.CAP_REPLAYED}
        assert [error.row for error in again] == rows


class Held(signer_pb2_grpc.SignerServicer):
    """Holds the first call up until `free`; answers items by their caps."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        self.batches: list[int] = []
        self.left: list[float] = []

    def SignAuditRow(self, request: pb.SignAuditRowRequest, context: grpc.ServicerContext) -> pb.SignAuditRowResponse:
        self.begun.set()
        self.free.wait(30)
        return pb.SignAuditRowResponse(row=request.cap)

    def SignAuditRowBatch(
        self, request: pb.SignAuditRowBatchRequest, context: grpc.ServicerContext
    ) -> pb.SignAuditRowBatchResponse:
        self.left.append(context.time_remaining())
        self.batches.append(len(request.items))
        answer = pb.SignAuditRowBatchResponse()
        for item in request.items:
            if item.cap == b"bad":
                metadata = {"server_time": "1"}
                error = pb.ItemError(code=6, reason="cap_replayed", row=b"row", metadata=metadata)
                answer.items.add(error=error)
            elif item.cap == b"new":
                answer.items.add(error=pb.ItemError(code=3, reason="a reason of a later version"))
            elif item.cap != b"none":
                answer.items.add(response=pb.SignAuditRowResponse(row=item.cap))
        return answer


@pytest.fixture
def held() -> Iterator[tuple[Held, GatheringSignerClient, grpc.Channel]]:
    servicer = Held()  # type: ignore[abstract]  # the other methods are not called
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    signer_pb2_grpc.add_SignerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, GatheringSignerClient(channel, timeout_s=20.0), channel
    servicer.free.set()
    server.stop(0.5).wait()


def behind_one(servicer: Held, client: GatheringSignerClient, caps: list[bytes]) -> list[Any]:
    """What several calls give that are asked while one is held up."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.sign_audit_row, b"first", result=0)
        assert servicer.begun.wait(30)
        client._rows._company_s = 30.0  # company is waited for until the first call is back
        size = client._rows._size
        joined = threading.Semaphore(0)

        def counted(request: Any) -> int:
            joined.release()
            return size(request)

        client._rows._size = counted
        with ThreadPoolExecutor(len(caps)) as others:
            futures = [others.submit(client.sign_audit_row, cap, result=0) for cap in caps]
            for _ in caps:
                assert joined.acquire(timeout=30)
            servicer.free.set()
            assert first.result() == b"first"
            return [future.exception() or future.result() for future in futures]


def test_a_batch_keeps_answers_and_refusals_apart(held: tuple[Held, GatheringSignerClient, grpc.Channel]) -> None:
    servicer, client, _ = held
    good, bad, new, other = behind_one(servicer, client, [b"good", b"bad", b"new", b"other"])
    assert servicer.batches == [4]
    assert (good, other) == (b"good", b"other")
    assert (bad.reason, bad.row, bad.metadata) == (Reason.CAP_REPLAYED, b"row", {"server_time": "1"})
    assert new.reason is Reason.INTERNAL
    assert 0 < servicer.left[0] < 30.0  # gRPC adds a little


def test_an_answer_with_a_missing_item_is_nobodys(held: tuple[Held, GatheringSignerClient, grpc.Channel]) -> None:
    servicer, client, _ = held
    found = behind_one(servicer, client, [b"good", b"none", b"other"])
    assert [error.reason for error in found] == [Reason.INTERNAL] * 3


def test_closing_the_channel_ends_what_waits(held: tuple[Held, GatheringSignerClient, grpc.Channel]) -> None:
    servicer, client, channel = held
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.sign_audit_row, b"first", result=0)
        assert servicer.begun.wait(30)
        channel.close()
        with refused(Reason.SIGNER_UNREACHABLE):
            first.result(30)
    with pytest.raises((KeyServiceError, ValueError)):
        client.sign_audit_row(b"late", result=0)
