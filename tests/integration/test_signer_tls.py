"""Who reaches a handler of the signer: real TLS, real certificates, each with one thing wrong."""

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2, signer_pb2_grpc
from agentkeys_core.errors import Reason
from tests.integration.signer_process import BROKER, DAEMON, SERVER_NAME, SignerProcess, ca_bytes, eventually, refusal
from tests.unit.runtime.certificates import ANY, CLIENT, SERVER, Files, Issuer, key_usage, uri


@pytest.fixture(scope="module")
def signer(tmp_path_factory: Any) -> Any:
    made = SignerProcess(tmp_path_factory.mktemp("signer"))
    made.prepare()
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0


def derive(channel: Any) -> Any:
    return signer_pb2_grpc.SignerStub(channel).DeriveAddress(
        signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1), timeout=10
    )


def reason_of(signer: Any, name: Any, **leaf: Any) -> Any:
    with signer.channel(name, **leaf) as channel:
        return refusal(lambda: derive(channel)).reason


def test_serves_a_good_certificate(signer: Any) -> None:
    with signer.channel("broker") as channel:
        assert len(derive(channel).address) == 20


WRONG: dict[str, dict[str, Any]] = {
    "no-eku": {"usages": ()},
    "any-eku": {"usages": (ANY, CLIENT)},
    "two-spiffe-sans": {"names": (*BROKER, uri("broker/other"))},
    "no-spiffe-san": {"names": ()},
    "foreign-trust-domain": {"names": (UniformResourceIdentifier("spiffe://elsewhere.example/broker/main"),)},
    "upper-case-role": {"names": (uri("Broker/main"),)},
    "ca-as-leaf": {"ca": True, "usage": key_usage(digital_signature=True, key_cert_sign=True)},
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_a_certificate_that_tls_lets_through(signer: Any, name: Any) -> None:
    assert reason_of(signer, name, **{"names": BROKER, **WRONG[name]}) is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("usage", [SERVER, ANY])
def test_a_certificate_for_other_purposes_alone_reaches_no_handler(signer: Any, usage: Any) -> None:
    # Refused by TLS as grpcio 1.85 builds it; `identify` would refuse both as well (tests/unit/runtime).
    assert reason_of(signer, "other-purpose", usages=(usage,)) is Reason.SIGNER_UNREACHABLE


def test_refuses_a_weak_rsa_key(signer: Any) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    # Where TLS itself refuses so short a key, no handler is reached and no reason comes back.
    found = reason_of(signer, "weak-rsa", names=BROKER, key=key)
    assert found in {Reason.CERTIFICATE_INVALID, Reason.SIGNER_UNREACHABLE}


@pytest.mark.parametrize("names", [DAEMON, (uri("signer/main"),), (uri("issuer/main"),), (uri("admin/main"),)])
def test_refuses_every_other_role(signer: Any, names: Any) -> None:
    assert reason_of(signer, "other-role", names=names) is Reason.ROLE_NOT_ALLOWED


def test_no_certificate_reaches_no_handler(signer: Any) -> None:
    options = (("grpc.ssl_target_name_override", SERVER_NAME),)
    credentials = grpc.ssl_channel_credentials(ca_bytes(signer.issuer))
    with grpc.secure_channel(signer.target, credentials, options) as channel:
        error = refusal(lambda: derive(channel))
    assert error.reason is Reason.SIGNER_UNREACHABLE


def test_a_bearer_token_instead_of_a_certificate_reaches_no_handler(signer: Any) -> None:
    options = (("grpc.ssl_target_name_override", SERVER_NAME),)
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(ca_bytes(signer.issuer)), grpc.access_token_call_credentials("a token")
    )
    with grpc.secure_channel(signer.target, credentials, options) as channel:
        assert refusal(lambda: derive(channel)).reason is Reason.SIGNER_UNREACHABLE


def test_plain_text_reaches_no_handler(signer: Any) -> None:
    with grpc.insecure_channel(signer.target) as channel:
        assert refusal(lambda: derive(channel)).reason is Reason.SIGNER_UNREACHABLE


def test_a_foreign_authority_reaches_no_handler(signer: Any) -> None:
    files = Files(signer.folder / "foreign")
    files.write(Issuer(), names=BROKER)
    with signer.channel("foreign") as channel:
        assert refusal(lambda: derive(channel)).reason is Reason.SIGNER_UNREACHABLE


def test_a_certificate_that_expired_before_reaches_no_handler(signer: Any) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    assert reason_of(signer, "expired", names=BROKER, end=past) is Reason.SIGNER_UNREACHABLE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_speaks_tls_1_3_alone(signer: Any, version: Any) -> None:
    context = ssl.create_default_context(cadata=ca_bytes(signer.issuer).decode())
    files = Files(signer.folder / "broker")
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    host, _, port = signer.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        if version is ssl.TLSVersion.TLSv1_3:
            with context.wrap_socket(raw, server_hostname=SERVER_NAME) as wrapped:
                assert wrapped.version() == "TLSv1.3"
            return
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(raw, server_hostname=SERVER_NAME)


def test_a_certificate_may_be_revoked_while_it_is_connected(signer: Any) -> None:
    with signer.channel("revoked-later", names=BROKER) as channel:
        derive(channel)
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest())
        next(stream)
        signer.revoke("revoked-later")
        try:
            seen: list[Reason] = []
            eventually(lambda: _refused(channel, seen))
            assert seen == [Reason.CERTIFICATE_REVOKED]
            assert refusal(lambda: list(stream)).reason is Reason.CERTIFICATE_REVOKED
            assert reason_of(signer, "revoked-later") is Reason.CERTIFICATE_REVOKED
            with signer.channel("broker") as other:
                derive(other)
        finally:
            signer.revoke()


def _refused(channel: Any, seen: Any) -> Any:
    try:
        derive(channel)
    except grpc.RpcError:
        seen.append(refusal(lambda: derive(channel)).reason)
        return True
    return False


def test_a_certificate_may_expire_while_it_is_connected(signer: Any) -> None:
    end = (datetime.now(UTC) + timedelta(seconds=4)).replace(microsecond=0)
    with signer.channel("short-lived", names=BROKER, end=end) as channel:
        derive(channel)
        time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()) + 0.2)
        assert refusal(lambda: derive(channel)).reason is Reason.CERTIFICATE_INVALID


def test_a_new_certificate_of_the_signer_is_taken_up_without_a_restart(signer: Any) -> None:
    before = signer.certificates["signer"]
    names = before.extensions.get_extension_for_class(SubjectAlternativeName).value
    signer.leaf("signer", names=tuple(names), usages=(SERVER,))
    assert signer.certificates["signer"].serial_number != before.serial_number

    def served() -> Any:
        context = ssl.create_default_context(cadata=ca_bytes(signer.issuer).decode())
        files = Files(signer.folder / "broker")
        context.load_cert_chain(files.certificate, files.key)
        context.set_alpn_protocols(["h2"])
        host, _, port = signer.target.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=SERVER_NAME) as wrapped,
        ):
            certificate: Any = wrapped.getpeercert()
            return int(certificate["serialNumber"], 16)

    eventually(lambda: served() == signer.certificates["signer"].serial_number)


def test_refused_attempts_are_recorded_by_certificate_and_reason(tmp_path: Any) -> None:
    signer = SignerProcess(tmp_path)
    signer.prepare()
    signer.start()
    try:
        for _ in range(3):
            assert reason_of(signer, "daemon") is Reason.ROLE_NOT_ALLOWED
        assert reason_of(signer, "no-eku", names=BROKER, usages=()) is Reason.CERTIFICATE_INVALID
        signer.revoke("broker")
        eventually(lambda: _certificate_revoked(signer))
    finally:
        assert signer.stop() == 0
    lines = [line for line in signer.journal() if line["kind"] == "refusal"]
    daemon = [line for line in lines if line["reason"] == "role_not_allowed"]
    assert sum(line["count"] for line in daemon) == 3
    assert "/daemon/laptop " in daemon[0]["caller"]
    assert {line["method"] for line in lines} == {"DeriveAddress"}
    assert {line["reason"] for line in lines} == {"role_not_allowed", "certificate_invalid", "certificate_revoked"}


def _certificate_revoked(signer: Any) -> Any:
    with signer.channel("broker") as channel:
        try:
            derive(channel)
        except grpc.RpcError:
            return refusal(lambda: derive(channel)).reason is Reason.CERTIFICATE_REVOKED
    return False
