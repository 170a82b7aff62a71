"""The signer's client over real gRPC against canned answers: fields arrive, refusals keep reason, metadata and row."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys.signer.v1 import signer_pb2_grpc
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_runtime.signer_client import SignerClient
from signer.rpc.status import grpc_status
from tests.unit.core.refusal import refused

ASSERTION = K11Assertion(authenticator_data=b"a", client_data_json=b"c", credential_id=b"i", signature=b"s")


class Canned(signer_pb2_grpc.SignerServicer):
    """Answers every method with `answer`, or fails as `fail` does; keeps the request."""

    def __init__(self) -> None:
        self.request: Any = None
        self.answer: Any = None
        self.fail: Any = None

    def _serve(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.request = request
        if self.fail is not None:
            self.fail(context)
        return self.answer

    DeriveAddress = DeriveCredKek = StsCredentials = SignAuditRow = _serve
    ListObjects = GetAuditRows = VerifyK10Sig = VerifyK11Assertion = _serve
    SignSiwe = SignTypedData = _serve


@pytest.fixture
def canned() -> Canned:
    return Canned()  # type: ignore[abstract]  # the other methods are not called


@pytest.fixture
def client(canned: Canned) -> Iterator[SignerClient]:
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    signer_pb2_grpc.add_SignerServicer_to_server(canned, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield SignerClient(channel, timeout_s=1)
    server.stop(0.5).wait()


def test_derive_address(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.DeriveAddressResponse(address=bytes(20))
    assert client.derive_address(b"o", epoch=3) == bytes(20)
    assert canned.request == pb.DeriveAddressRequest(omni=b"o", epoch=3)


def test_wallet_address(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.DeriveAddressResponse(address=bytes(20), epoch=4)
    assert client.wallet_address(b"o") == (bytes(20), 4)
    assert canned.request == pb.DeriveAddressRequest(omni=b"o", wallet=True)


def test_signatures_come_sealed(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.SignSiweResponse(sealed=b"sealed", row=b"r")
    found = client.sign_siwe(b"cap", message="text")
    assert (found.sealed, found.row) == (b"sealed", b"r")
    assert canned.request == pb.SignSiweRequest(cap=b"cap", message="text")
    canned.answer = pb.SignTypedDataResponse(sealed=b"sealed", row=b"r", digest=bytes(32))
    found = client.sign_typed_data(b"cap", body=b"{}")
    assert (found.sealed, found.row) == (b"sealed", b"r")
    assert canned.request == pb.SignTypedDataRequest(cap=b"cap", typed_data=b"{}")


def test_derive_cred_kek_hides_its_key(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.DeriveCredKekResponse(key=b"topsecret", commitment=b"c", salt=b"s", epoch=2, row=b"r")
    released = client.derive_cred_kek(b"cap", epoch=2, salt=b"s", expect=b"e")
    assert (released.key, released.commitment, released.salt, released.epoch, released.row) == (
        b"topsecret",
        b"c",
        b"s",
        2,
        b"r",
    )
    assert "topsecret" not in repr(released)
    assert canned.request == pb.DeriveCredKekRequest(cap=b"cap", epoch=2, salt=b"s", expect=b"e")
    client.derive_cred_kek(b"cap")
    assert canned.request == pb.DeriveCredKekRequest(cap=b"cap")


def test_sts_credentials_hides_its_secrets(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.StsCredentialsResponse(
        access_key_id="id", secret_access_key="topsecret", session_token="toptoken", expires_at=9, row=b"r"
    )
    session = client.sts_credentials(b"cap", role_arn="arn")
    assert (session.access_key_id, session.secret_access_key, session.session_token) == ("id", "topsecret", "toptoken")
    assert (session.expires_at, session.row) == (9, b"r")
    assert "topsecret" not in repr(session)
    assert "toptoken" not in repr(session)
    assert canned.request == pb.StsCredentialsRequest(cap=b"cap", role_arn="arn")


def test_sign_audit_row(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.SignAuditRowResponse(row=b"r")
    assert client.sign_audit_row(b"cap", result=2) == b"r"
    assert canned.request == pb.SignAuditRowRequest(cap=b"cap", result=2)


def test_list_objects(canned: Canned, client: SignerClient) -> None:
    entry = pb.ListObjectsResponse.Entry(name="n", store=b"d")
    canned.answer = pb.ListObjectsResponse(names=[entry], next="n", row=b"r")
    page = client.list_objects(b"cap", after=None, limit=10)
    assert [(item.name, item.store) for item in page.names] == [("n", b"d")]
    assert (page.next, page.row) == ("n", b"r")
    assert not canned.request.HasField("after")
    canned.answer = pb.ListObjectsResponse()
    assert client.list_objects(b"cap", after="", limit=10).next is None
    assert canned.request.HasField("after")


def test_get_audit_rows(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.GetAuditRowsResponse(rows=[b"1", b"2"], next=0)
    page = client.get_audit_rows(b"cap", after=0, limit=10)
    assert (page.rows, page.next) == ((b"1", b"2"), 0)
    assert canned.request.HasField("after")
    canned.answer = pb.GetAuditRowsResponse()
    assert client.get_audit_rows(b"cap", after=None, limit=10).next is None


def test_verdicts(canned: Canned, client: SignerClient) -> None:
    canned.answer = pb.VerifyK10SigResponse(valid=True, binding=bytes(32))
    verdict = client.verify_k10_sig(
        public_key=b"k", payload=b"p", signature=b"s", scheme=pb.SIGNATURE_SCHEME_K10_V2, purpose="cap"
    )
    assert (verdict.valid, verdict.reason, verdict.binding) == (True, "", bytes(32))
    canned.answer = pb.VerifyK11AssertionResponse(valid=False, reason="k11_invalid", sign_count=3)
    other = client.verify_k11_assertion(ASSERTION, expected_challenge=bytes(32))
    assert (other.valid, other.reason, other.sign_count) == (False, "k11_invalid", 3)
    assert canned.request.credential_id == b"i"


def failing(canned: Canned, error: KeyServiceError) -> None:
    canned.fail = lambda context: context.abort_with_status(grpc_status(error))


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_arrives(canned: Canned, client: SignerClient, reason: Reason) -> None:
    failing(canned, KeyServiceError(reason))
    with refused(reason):
        client.derive_cred_kek(b"cap")


def test_metadata_and_row_arrive(canned: Canned, client: SignerClient) -> None:
    failing(canned, KeyServiceError(Reason.STALE_EPOCH, metadata={"current_epoch": "7"}))
    with pytest.raises(KeyServiceError) as caught:
        client.derive_cred_kek(b"cap")
    assert caught.value.metadata == {"current_epoch": "7"}
    assert caught.value.row is None
    assert caught.value.detail == ""  # the status's text is the reason, which is told already
    failing(canned, KeyServiceError(Reason.CAP_REPLAYED, row=b"the row"))
    with pytest.raises(KeyServiceError) as caught:
        client.derive_cred_kek(b"cap")
    assert caught.value.row == b"the row"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "signer_unreachable"),
        (grpc.StatusCode.CANCELLED, "signer_unreachable"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        (grpc.StatusCode.UNIMPLEMENTED, "not_implemented"),
        (grpc.StatusCode.PERMISSION_DENIED, "internal"),
    ],
)
def test_statuses_without_a_reason(canned: Canned, client: SignerClient, code: grpc.StatusCode, reason: str) -> None:
    canned.fail = lambda context: context.abort(code, "")
    with refused(reason):
        client.sign_audit_row(b"cap", result=0)


def rich(info: ErrorInfo) -> grpc.Status:
    packed = AnyMessage()
    packed.Pack(info)
    return rpc_status.to_status(Status(code=7, details=[packed]))


def test_reasons_of_other_domains_and_unknown_ones_do_not_count(canned: Canned, client: SignerClient) -> None:
    for info in (
        ErrorInfo(reason="k11_required", domain="example.com"),
        ErrorInfo(reason="new", domain="agentkeys.signer"),
    ):
        canned.fail = lambda context, info=info: context.abort_with_status(rich(info))
        with refused("internal"):
            client.sign_audit_row(b"cap", result=0)


def test_details_that_cannot_be_read(canned: Canned, client: SignerClient) -> None:
    def fail(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "")

    canned.fail = fail
    with refused("internal"):
        client.sign_audit_row(b"cap", result=0)


def test_silence_and_absence_are_unreachable(canned: Canned, client: SignerClient) -> None:
    import threading

    silent = threading.Event()
    canned.fail = lambda _: silent.wait(5)
    with refused("signer_unreachable"):
        client.sign_audit_row(b"cap", result=0)
    silent.set()
    with grpc.insecure_channel("127.0.0.1:1") as nowhere, refused("signer_unreachable"):
        SignerClient(nowhere, timeout_s=1).derive_address(bytes(32), epoch=1)
