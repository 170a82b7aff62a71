"""The signer as a process: a user enrols, stores and fetches over gRPC, and every RPC stands behind the guard."""

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.audit import AuditRow
from agentkeys_core.errors import Reason
from agentkeys_core.keys import parse_jwks
from agentkeys_core.ops import Op
from agentkeys_core.proof import k10_digest
from signer.rpc.permissions import HEALTH, PERMISSIONS, REFLECTION, REFLECTION_V1ALPHA, REGISTRY, SIGNER
from tests.integration.signer_process import SignerProcess, eventually, refusal
from tests.integration.signer_user import Deployed, health_of, store, stub


@pytest.fixture(scope="module")
def signer(tmp_path_factory: Any) -> Any:
    made = SignerProcess(tmp_path_factory.mktemp("signer"))
    made.prepare()
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0


@pytest.fixture(scope="module")
def user(signer: Any) -> Any:
    made = Deployed(signer)
    made.enrol()
    return made


def test_a_store_is_fetched_with_the_same_key(signer: Any, user: Any) -> None:
    with signer.channel("worker") as channel:
        cap, released, row = store(channel, user, "cred:first")
        assert row == released.row
        fetch = user.cap(Op.CRED_FETCH, "cred:first", touch=True)
        request = signer_pb2.DeriveCredKekRequest(cap=fetch, epoch=released.epoch, salt=released.salt)
        fetched = stub(channel).DeriveCredKek(request, timeout=10)
        assert (fetched.key, fetched.commitment) == (released.key, released.commitment)
        error = refusal(lambda: stub(channel).DeriveCredKek(signer_pb2.DeriveCredKekRequest(cap=cap)))
        assert (error.reason, error.row) == (Reason.CAP_REPLAYED, row)
    files = signer.folder / "issuer"
    signer.command("oidc", "export", str(files), check=True)
    keys = parse_jwks((files / ".well-known" / "agentkeys-audit-jwks.json").read_bytes())
    for found in (row, fetched.row):
        AuditRow.parse(found).verify(keys)


def test_lists_come_from_the_signers_inventory(signer: Any, user: Any) -> None:
    body = b'{"after":null,"limit":10}'
    with signer.channel("worker") as channel:
        store(channel, user, "cred:listed")
        request = signer_pb2.ListObjectsRequest(cap=user.cap(Op.CRED_LIST, "cred:list", body=body), limit=10)
        page = stub(channel).ListObjects(request, timeout=10)
    assert "listed" in {entry.name for entry in page.names}
    assert not page.HasField("next")


def test_audit_rows_are_for_the_audit_worker(signer: Any, user: Any) -> None:
    cap = user.cap(Op.AUDIT_LIST, "audit:own", body=b'{"after":null,"limit":10}')
    request = signer_pb2.GetAuditRowsRequest(cap=cap, limit=10)
    with signer.channel("worker") as channel:
        assert refusal(lambda: stub(channel).GetAuditRows(request)).reason is Reason.CLASS_MISMATCH
    names = (signer_process_uri("worker/audit/main"),)
    with signer.channel("audit", names=names) as channel:
        rows = [AuditRow.parse(row) for row in stub(channel).GetAuditRows(request, timeout=10).rows]
    assert [row.seq for row in rows] == list(range(len(rows)))
    assert rows


def signer_process_uri(path: Any) -> Any:
    from tests.unit.runtime.certificates import uri

    return uri(path)


def test_a_refusal_carries_what_helps(signer: Any, user: Any) -> None:
    with signer.channel("worker") as channel:
        cap = user.cap(Op.CRED_FETCH, "cred:first")
        error = refusal(
            lambda: stub(channel).DeriveCredKek(signer_pb2.DeriveCredKekRequest(cap=cap, epoch=1, salt=bytes(32)))
        )
    assert error.reason is Reason.K11_REQUIRED


def test_k10_and_k11_are_verified_for_both_callers(signer: Any, user: Any) -> None:
    payload = b"anything"
    request = signer_pb2.VerifyK10SigRequest(
        public_key=user.person.k10.public_key,
        payload=payload,
        signature=user.person.k10.sign(k10_digest("session", payload)),
        scheme=signer_pb2.SIGNATURE_SCHEME_K10_V2,
        purpose="session",
    )
    assertion = user.person.k11.answer(bytes(32))
    k11 = signer_pb2.VerifyK11AssertionRequest(
        credential_id=assertion.credential_id,
        expected_challenge=bytes(32),
        authenticator_data=assertion.authenticator_data,
        client_data_json=assertion.client_data_json,
        signature=assertion.signature,
    )
    for name in ("broker", "worker"):
        with signer.channel(name) as channel:
            verdict = stub(channel).VerifyK10Sig(request, timeout=10)
            assert (verdict.valid, verdict.binding) == (True, user.person.device)
            assert stub(channel).VerifyK11Assertion(k11, timeout=10).valid


@pytest.mark.parametrize("path", sorted(PERMISSIONS))
def test_a_daemon_certificate_opens_no_rpc_at_all(signer: Any, path: Any) -> None:
    with signer.channel("daemon") as channel:
        assert refusal(lambda: channel.unary_unary(path)(b"", timeout=10)).reason is Reason.ROLE_NOT_ALLOWED


def test_messages_that_are_no_good_have_their_reasons(signer: Any) -> None:
    cases = {
        b"\xff": Reason.INVALID_ENCODING,
        b"\xfa\x3e\x01x": Reason.UNKNOWN_FIELDS,
        b"\x0a\x80\x80\x48" + bytes(0x80000 + 0x9_0000): Reason.TOO_LARGE,
        b"": Reason.INVALID_CAP,
    }
    with signer.channel("worker") as channel:
        call = channel.unary_unary(f"/{SIGNER}/DeriveCredKek")
        for data, reason in cases.items():
            found = refusal(lambda data=data: call(data, timeout=10)).reason
            assert found in {reason, Reason.NON_CANONICAL_CAP} if not data else found is reason
        assert refusal(lambda: call(bytes(4 * 1024 * 1024), timeout=10)).reason is Reason.OVERLOADED


def test_the_standard_services_answer(signer: Any) -> None:
    with signer.channel("broker") as channel:
        health = health_of(channel)
        for name in ("", SIGNER, REGISTRY):
            state = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
            assert state == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        found = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert found == {SIGNER, REGISTRY, HEALTH, REFLECTION, REFLECTION_V1ALPHA}


@pytest.mark.parametrize("name", [REFLECTION, REFLECTION_V1ALPHA])
def test_reflection_answers_under_both_names(signer: Any, name: Any) -> None:
    ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SIGNER)
    with signer.channel("worker") as channel:
        answers = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([ask]), timeout=10)
        assert next(answers).file_descriptor_response.file_descriptor_proto


def test_a_change_stream_does_not_hold_up_calls(signer: Any) -> None:
    with signer.channel("broker") as channel:
        registry = registry_pb2_grpc.RegistryStub(channel)
        streams = [registry.WatchChanges(registry_pb2.WatchChangesRequest()) for _ in range(12)]
        assert all(next(stream).server_time for stream in streams)
        assert len(
            stub(channel).DeriveAddress(signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1), timeout=10).address
        )
        for stream in streams:
            stream.cancel()


def test_one_caller_cannot_take_every_stream(signer: Any) -> None:
    with signer.channel("broker") as channel:
        registry = registry_pb2_grpc.RegistryStub(channel)

        def left() -> Any:
            streams = [registry.WatchChanges(registry_pb2.WatchChangesRequest()) for _ in range(16)]
            try:
                for stream in streams:
                    next(stream)
                return refusal(lambda: next(registry.WatchChanges(registry_pb2.WatchChangesRequest()))).reason
            except grpc.RpcError:  # those of an earlier test are still being counted down
                return None
            finally:
                for stream in streams:
                    stream.cancel()

        eventually(lambda: left() is Reason.OVERLOADED, limit_s=30)
    with signer.channel("worker") as channel:
        next(registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest()))


def test_nothing_secret_or_of_a_request_is_logged(signer: Any, user: Any) -> None:
    with signer.channel("worker") as channel:
        cap, released, _ = store(channel, user, "cred:logged")
        refusal(lambda: stub(channel).DeriveCredKek(signer_pb2.DeriveCredKekRequest(cap=cap)))
    text = signer.log
    assert "cap_replayed" in text
    for secret in (released.key.hex(), cap.decode()[:40], "correct horse"):
        assert secret not in text
    assert "Traceback" not in text
