"""Slow, half-open and silent clients against the running signer: ordinary calls go on inside their deadlines."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.proof import k10_digest
from agentkeys_runtime.grpc_errors import from_rpc_error
from tests.fakes import stalled
from tests.integration.signer_process import SERVER_NAME, SignerProcess, eventually, refusal
from tests.integration.signer_user import stub
from tests.unit.runtime.certificates import uri

VERIFY = "/agentkeys.signer.v1.Signer/VerifyK10Sig"
WATCH = "/agentkeys.signer.v1.Registry/WatchChanges"
KEY = DeviceKey.generate()
PAYLOAD = b"{}"
REQUEST = signer_pb2.VerifyK10SigRequest(
    public_key=KEY.public_key,
    payload=PAYLOAD,
    signature=KEY.sign(k10_digest("cap", PAYLOAD)),
    scheme=signer_pb2.SIGNATURE_SCHEME_K10_V2,
    purpose="cap",
)
#: What a caller gives one call. A signer that waits for stalled clients answers nothing for far longer.
DEADLINE_S = 5.0
CALLS = 60


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path_factory.mktemp("stalled"))
    made.prepare()
    made.leaf("memory", names=(uri("worker/memory/main"),))
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0


@pytest.fixture
def held(signer: SignerProcess) -> Iterator[ExitStack]:
    """Whatever a test holds open; afterwards the signer serves as before."""
    with ExitStack() as opened:
        yield opened
    served(signer)


def context(signer: SignerProcess, name: str) -> Any:
    return stalled.tls_context(signer.folder / name, signer.folder / "signer" / "ca.pem")


def served(signer: SignerProcess, name: str = "broker", calls: int = CALLS) -> None:
    """Ordinary calls over a new connection, each inside its deadline."""
    with signer.channel(name) as channel, ThreadPoolExecutor(4) as pool:

        def one(_: int) -> bool:
            return bool(stub(channel).VerifyK10Sig(REQUEST, timeout=DEADLINE_S).valid)

        assert all(pool.map(one, range(calls)))


def test_idle_and_half_open_connections_stop_nobody(signer: SignerProcess, held: ExitStack) -> None:
    stalled.idle(held, signer.target, 200, context(signer, "worker"), SERVER_NAME)
    stalled.half_handshakes(held, signer.target, 50)
    served(signer)


def test_a_thousand_connections_stop_nobody(signer: SignerProcess, held: ExitStack) -> None:
    stalled.idle(held, signer.target, 500, context(signer, "worker"), SERVER_NAME)
    stalled.half_handshakes(held, signer.target, 500)
    served(signer)


def test_requests_without_their_message_stop_nobody(signer: SignerProcess, held: ExitStack) -> None:
    """More of them than threads, of one certificate that may call; others do not wait for it."""
    channel = held.enter_context(signer.channel("memory"))
    stalled.without_message(held, channel, VERIFY, 50)
    for connection in stalled.idle(held, signer.target, 10, context(signer, "memory"), SERVER_NAME):
        stalled.half_frames(connection, VERIFY, 5)
    served(signer)
    served(signer, "worker")
    with signer.channel("memory") as other:
        assert refusal(lambda: stub(other).VerifyK10Sig(REQUEST, timeout=DEADLINE_S)).reason is Reason.OVERLOADED


def test_answers_that_nobody_reads_stop_nobody(signer: SignerProcess, held: ExitStack) -> None:
    for connection in stalled.idle(held, signer.target, 10, context(signer, "memory"), SERVER_NAME):
        stalled.unread(connection, VERIFY, REQUEST.SerializeToString(), 300)
    served(signer)


def test_a_flood_of_one_certificate_leaves_the_others_their_share(signer: SignerProcess, held: ExitStack) -> None:
    """Thousands of calls of one class, refused or served, stop no other: nobody else hears of it."""
    channel = held.enter_context(signer.channel("memory"))
    flood = [stub(channel).VerifyK10Sig.future(REQUEST, timeout=60) for _ in range(3000)]
    served(signer)
    reasons = {from_rpc_error(call.exception()).reason for call in flood if call.exception()}
    assert reasons <= {Reason.OVERLOADED, Reason.SIGNER_UNREACHABLE}  # the latter: too many streams for one connection


def test_streams_without_a_request_stop_no_other_stream(signer: SignerProcess, held: ExitStack) -> None:
    channel = held.enter_context(signer.channel("memory"))
    stalled.without_message(held, channel, WATCH, 80)
    with signer.channel("broker") as other:
        stream = registry_pb2_grpc.RegistryStub(other).WatchChanges(registry_pb2.WatchChangesRequest(), timeout=10)
        assert next(iter(stream)).k3_epoch == 1
        stream.cancel()


def test_a_role_that_may_not_call_is_refused_before_its_message(signer: SignerProcess, held: ExitStack) -> None:
    channel = held.enter_context(signer.channel("daemon"))
    for call in stalled.without_message(held, channel, VERIFY, 20):
        assert from_rpc_error(call.exception(timeout=DEADLINE_S)).reason is Reason.ROLE_NOT_ALLOWED


def test_a_message_that_does_not_come_ends_its_call(signer: SignerProcess, held: ExitStack) -> None:
    channel = held.enter_context(signer.channel("memory"))
    (call,) = stalled.without_message(held, channel, VERIFY, 1)
    eventually(call.done, limit_s=30)


def test_headers_have_their_bound(signer: SignerProcess) -> None:
    with signer.channel("broker") as channel:
        metadata = (("x-junk", "x" * 100_000),)
        with pytest.raises(grpc.RpcError):
            stub(channel).VerifyK10Sig(REQUEST, timeout=DEADLINE_S, metadata=metadata)
        assert stub(channel).VerifyK10Sig(REQUEST, timeout=DEADLINE_S).valid


def test_messages_have_their_bound(signer: SignerProcess) -> None:
    """One bound for all, and a longer one for envelopes alone."""
    with signer.channel("worker") as channel:
        long = signer_pb2.VerifyK10SigRequest(payload=bytes(2 * 1024 * 1024))
        assert refusal(lambda: stub(channel).VerifyK10Sig(long, timeout=DEADLINE_S)).reason is Reason.TOO_LARGE
        envelope = signer_pb2.RewrapRequest(owner=bytes(32), service="cred:x", envelope=bytes(2 * 1024 * 1024))
        setattr(envelope, "class", signer_pb2.OBJECT_CLASS_CREDENTIALS)
        assert refusal(lambda: stub(channel).Rewrap(envelope, timeout=DEADLINE_S)).reason is Reason.WINDOW_CLOSED
        envelope.envelope = bytes(2 * 1024 * 1024 + 8192)
        assert refusal(lambda: stub(channel).Rewrap(envelope, timeout=DEADLINE_S)).reason is Reason.TOO_LARGE
        envelope.envelope = bytes(16 * 1024 * 1024)
        assert refusal(lambda: stub(channel).Rewrap(envelope, timeout=DEADLINE_S)).reason is Reason.OVERLOADED
