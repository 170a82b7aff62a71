"""Whom the device talks to: refused peers get not one byte of a request."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agentkeys_core.ops import WorkerClass
from certs.ca import Authority
from certs.profiles import LeafNames, Role
from device.errors import DeviceError, ExitCode, Trouble, exit_code
from device.home import Home
from device.keys import K10
from device.session import Device
from device.show import Show
from device.tls import (
    PeerContext,
    PublicPeer,
    SpiffePeer,
    broker_peer,
    issuer_peer,
    leaf_uris,
    peer_context,
    worker_peer,
)
from device.transport import MAX_ANSWER_BYTES, Channel
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import TRUST_DOMAIN, Deployment
from tests.unit.device.https import https_server

CREDENTIALS = worker_peer(TRUST_DOMAIN, WorkerClass.CREDENTIALS)


@dataclass
class Listener:
    """Answers every connection with `reply` and keeps what came after the handshake."""

    port: int = 0
    received: list[bytes] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


@contextmanager
def listening(context: ssl.SSLContext, reply: bytes = b"") -> Iterator[Listener]:
    found = Listener()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        found.port = server.getsockname()[1]

        def serve() -> None:
            try:
                raw, _ = server.accept()
                raw.settimeout(10)
                with raw, context.wrap_socket(raw, server_side=True) as secured:
                    while chunk := secured.recv(65536):
                        found.received.append(chunk)
                        if reply and b"".join(found.received).endswith(b"}"):  # the whole request
                            secured.sendall(reply)
            except OSError:
                pass
            finally:
                found.done.set()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield found
        finally:
            thread.join(15)


def leaf(
    authority: Authority, out: Path, role: Role, worker: WorkerClass | None = None, *, ip: str = "127.0.0.1"
) -> ssl.SSLContext:
    names = LeafNames.parse(trust_domain=authority.trust_domain, role=role, name="main", worker_class=worker, ips=[ip])
    authority.issue(names, out)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(out / "cert.pem", out / "key.pem")
    return context


def ca_of(authority: Authority) -> str:
    return (authority.folder / "ca.pem").read_text()


def ask(context: ssl.SSLContext, peer: PeerContext, reply: bytes = b"") -> tuple[DeviceError | None, Listener]:
    with listening(context, reply) as found, Channel(f"https://127.0.0.1:{found.port}", peer) as channel:
        try:
            channel.post("/v1/credentials/store", b'{"body":"a secret"}')
            error = None
        except DeviceError as exc:
            error = exc
    found.done.wait(10)
    return error, found


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_right_worker_gets_the_request(authority: Authority, tmp_path: Path) -> None:
    context = leaf(authority, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS)
    error, found = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)), OK)
    assert error is None
    assert b"a secret" in b"".join(found.received)


@pytest.mark.parametrize(
    ("role", "worker"),
    [(Role.BROKER, None), (Role.WORKER, WorkerClass.AUDIT), (Role.WORKER, WorkerClass.MEMORY), (Role.ISSUER, None)],
)
def test_other_roles_of_the_same_ca_get_no_byte(
    authority: Authority, tmp_path: Path, role: Role, worker: WorkerClass | None
) -> None:
    context = leaf(authority, tmp_path / "w", role, worker)
    error, found = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)))
    assert error is not None
    assert error.reason is Trouble.PEER_NOT_TRUSTED
    assert exit_code(error) is ExitCode.UNTRUSTED
    assert b"".join(found.received) == b""


def test_foreign_ca_gets_no_byte(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", TRUST_DOMAIN)
    context = leaf(other, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS)
    error, found = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)))
    assert error is not None
    assert error.reason is Trouble.PEER_NOT_TRUSTED
    assert b"".join(found.received) == b""


def test_other_host_name_gets_no_byte(authority: Authority, tmp_path: Path) -> None:
    context = leaf(authority, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS, ip="127.0.0.2")
    error, found = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)))
    assert error is not None
    assert error.reason is Trouble.PEER_NOT_TRUSTED
    assert b"".join(found.received) == b""


def test_tls_1_2_is_refused(authority: Authority, tmp_path: Path) -> None:
    context = leaf(authority, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    error, found = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)), OK)
    assert error is not None
    assert b"".join(found.received) == b""


def test_leaf_is_checked_over_memory_buffers_too(authority: Authority, tmp_path: Path) -> None:
    server_context = leaf(authority, tmp_path / "w", Role.BROKER)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = peer_context(CREDENTIALS, ca_pem=ca_of(authority)).wrap_bio(
        to_client, to_server, server_hostname="127.0.0.1"
    )
    server = server_context.wrap_bio(to_server, to_client, server_side=True)

    def shake_hands() -> None:
        for side in (client, server) * 5:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()

    with pytest.raises(DeviceError) as caught:
        shake_hands()
    assert caught.value.reason is Trouble.PEER_NOT_TRUSTED


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://keys.example.org/worker/credentials/"],
        ["spiffe://keys.example.org/worker/credentials/a/b"],
        ["spiffe://keys.example.org/worker/credentials/a b"],
        ["spiffe://keys.example.org/worker/credentialsx/a"],
        ["SPIFFE://keys.example.org/worker/credentials/a"],
        ["spiffe://Keys.example.org/worker/credentials/a"],
        ["spiffe://other.example.org/worker/credentials/a"],
        ["spiffe://keys.example.org/worker/credentials/a", "spiffe://keys.example.org/worker/credentials/a"],
        ["spiffe://keys.example.org/worker/credentials/a", "https://example.org"],
    ],
)
def test_names_are_compared_byte_by_byte(uris: list[str]) -> None:
    with pytest.raises(DeviceError) as caught:
        CREDENTIALS.check(uris)
    assert caught.value.reason is Trouble.PEER_NOT_TRUSTED


def test_right_names_pass() -> None:
    CREDENTIALS.check(["spiffe://keys.example.org/worker/credentials/main-1.a_b"])
    broker_peer(TRUST_DOMAIN).check(["spiffe://keys.example.org/broker/main"])
    issuer_peer(TRUST_DOMAIN).check(["spiffe://keys.example.org/issuer/main"])
    PublicPeer().check([])
    PublicPeer().check(["https://example.org"])


def test_public_site_with_a_spiffe_name_is_refused() -> None:
    with pytest.raises(DeviceError):
        PublicPeer().check(["spiffe://keys.example.org/broker/main"])


def test_certificate_without_names_has_none_and_rubbish_is_refused() -> None:
    bare = x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes())
    assert leaf_uris(bare.public_bytes(Encoding.DER)) == []
    for rubbish in (None, b"", b"\x30\x03\x02\x01\x00"):
        with pytest.raises(DeviceError) as caught:
            leaf_uris(rubbish)
        assert caught.value.reason is Trouble.PEER_NOT_TRUSTED


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_ANSWER_BYTES + 1) + b" " * (MAX_ANSWER_BYTES + 1),
    ],
    ids=["compressed", "too long"],
)
def test_odd_answers_are_refused(authority: Authority, tmp_path: Path, reply: bytes) -> None:
    context = leaf(authority, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS)
    error, _ = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)), reply)
    assert error is not None
    assert error.reason is Trouble.ANSWER_NOT_TRUSTED


def test_redirects_are_not_followed(authority: Authority, tmp_path: Path) -> None:
    context = leaf(authority, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS)
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    with listening(context, moved) as found:
        peer = peer_context(CREDENTIALS, ca_pem=ca_of(authority))
        with Channel(f"https://127.0.0.1:{found.port}", peer) as channel:
            assert channel.post("/", b"{}").status == 307


def test_proxies_of_the_environment_are_ignored(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    context = leaf(authority, tmp_path / "w", Role.WORKER, WorkerClass.CREDENTIALS)
    error, _ = ask(context, peer_context(CREDENTIALS, ca_pem=ca_of(authority)), OK)
    assert error is None


def test_nobody_there_is_unreachable(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    peer = peer_context(CREDENTIALS, ca_pem=ca_of(authority))
    with Channel(f"https://127.0.0.1:{port}", peer) as channel, pytest.raises(DeviceError) as caught:
        channel.get("/")
    assert caught.value.reason is Trouble.UNREACHABLE


def test_ca_that_is_none_is_a_bad_file() -> None:
    with pytest.raises(DeviceError) as caught:
        peer_context(
            SpiffePeer("spiffe://x/"), ca_pem="-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n"
        )
    assert caught.value.reason is Trouble.BAD_FILE


@pytest.fixture
def issuer_in_role(master: Person, deployment: Deployment) -> Callable[[Role, WorkerClass | None], bytes]:
    """Runs a fetch of the audit keys against an issuer with a leaf of another role."""

    def run(role: Role, worker: WorkerClass | None) -> bytes:
        with https_server(deployment.context(role, worker), lambda *words: deployment.answer("issuer", *words)) as port:
            profile = replace(deployment.profile, issuer=f"https://127.0.0.1:{port}")
            with Home.open(master.home) as home:
                key = K10.load(home)
                assert key is not None
                with Device(home, profile, key, Show(as_json=True)) as device:
                    return device._fetch_keys()

    return run


def test_audit_keys_come_from_the_issuers_role_alone(
    issuer_in_role: Callable[[Role, WorkerClass | None], bytes],
) -> None:
    assert issuer_in_role(Role.ISSUER, None)
    for role, worker in ((Role.BROKER, None), (Role.WORKER, WorkerClass.CREDENTIALS)):
        with pytest.raises(DeviceError) as caught:
            issuer_in_role(role, worker)
        assert caught.value.reason is Trouble.PEER_NOT_TRUSTED


@pytest.mark.parametrize("uri", [None, "spiffe://keys.example.org/broker/main"])
def test_issuer_may_have_a_public_certificate(
    master: Person, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    public = trustme.CA()
    made = public.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.configure_cert(context)
    public.cert_pem.write_to_path(str(tmp_path / "public.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    if uri is not None:  # the same public CA, but the leaf claims to be a part of a deployment
        monkeypatch.setattr("device.tls.leaf_uris", lambda _: [uri])
    with (
        https_server(context, lambda *words: deployment.answer("issuer", *words)) as port,
        Home.open(master.home) as home,
    ):
        profile = replace(deployment.profile, issuer=f"https://127.0.0.1:{port}")
        key = K10.load(home)
        assert key is not None
        with Device(home, profile, key, Show(as_json=True)) as device:
            if uri is None:
                assert b"keys" in device._fetch_keys()
                return
            with pytest.raises(DeviceError) as caught:
                device._fetch_keys()
            assert caught.value.reason is Trouble.PEER_NOT_TRUSTED
