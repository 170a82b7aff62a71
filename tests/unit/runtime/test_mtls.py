import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agentkeys_runtime import mtls, tls13
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import Watched
from tests.unit.runtime.certificates import CLIENT, SERVER, Files, Issuer, pem, uri

SIGNER = "signer.keys.example.org"
METHOD = "/test.Test/Who"


def dns(name: str) -> x509.DNSName:
    return x509.DNSName(name)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def server_files(tmp_path: Path, issuer: Issuer) -> Files:
    files = Files(tmp_path / "signer")
    files.write(issuer, names=(uri("signer/main"), dns(SIGNER)), usages=(SERVER,))
    return files


@pytest.fixture
def client_files(tmp_path: Path, issuer: Issuer) -> Files:
    files = Files(tmp_path / "broker")
    files.write(issuer, usages=(CLIENT,))
    return files


class Handler(grpc.GenericRpcHandler):
    """Answers with the PEM of the caller's certificate; streams it until the caller goes."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == METHOD:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.auth_context()["x509_pem_cert"][0])
        return grpc.unary_stream_rpc_method_handler(self.stream)

    def stream(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield cast(bytes, context.auth_context()["ssl_tls_version"][0])
        self.release.wait(20)
        yield b"end"


@contextlib.contextmanager
def serving(files: Files) -> Iterator[tuple[int, Handler]]:
    handler = Handler()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[handler])
        port = server.add_secure_port("127.0.0.1:0", mtls.server_credentials(files.certificate, files.key, files.ca))
        server.start()
        try:
            yield port, handler
        finally:
            handler.release.set()
            server.stop(0).wait()


def channel(port: int, files: Files) -> grpc.Channel:
    return mtls.client_channel(f"127.0.0.1:{port}", files.certificate, files.key, files.ca, SIGNER)


def who(connection: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return connection.unary_unary(METHOD)


def handshake(port: int, files: Files, version: ssl.TLSVersion, *, with_certificate: bool = True) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(files.ca)
    context.set_alpn_protocols(["h2"])
    if with_certificate:
        context.load_cert_chain(files.certificate, files.key)
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with raw, context.wrap_socket(raw, server_hostname=SIGNER) as wrapped:
        # In TLS 1.3 the server judges the client after the client is done: only data tells.
        if not wrapped.recv(9):
            raise ConnectionError("closed by the server")
        return wrapped.version()


SERVER_PROGRAM = """
import sys
if sys.argv[1] == "grpc-first":
    import grpc
from pathlib import Path
from agentkeys_runtime import mtls
import grpc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
folder = Path(sys.argv[2])
try:
    credentials = mtls.server_credentials(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
except mtls.ConfigError as error:
    print("refused", flush=True)
    sys.exit(0)
server = grpc.server(ThreadPoolExecutor(1))
print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
server.start()
sys.stdin.read()
server.stop(0).wait()
"""


@contextlib.contextmanager
def process(order: str, files: Files) -> Iterator[str]:
    """A server in a process of its own, whose environment does not hold our variable."""
    environment = {name: value for name, value in os.environ.items() if name != tls13.VARIABLE}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER_PROGRAM, order, str(files.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as running:
        assert running.stdin
        assert running.stdout
        try:
            yield running.stdout.readline().strip()
        finally:
            running.stdin.close()
            running.wait(10)


def test_server_process_refuses_tls_1_2_and_speaks_1_3(server_files: Files, client_files: Files) -> None:
    with process("tls13-first", server_files) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(int(port), client_files, ssl.TLSVersion.TLSv1_2)
        assert handshake(int(port), client_files, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with channel(int(port), client_files) as connection:
            grpc.channel_ready_future(connection).result(10)


def test_server_process_refuses_to_serve_where_grpc_came_first(server_files: Files) -> None:
    with process("grpc-first", server_files) as answer:
        assert answer == "refused"


def test_server_refuses_key_that_tls_1_2_suite_could_use(tmp_path: Path, issuer: Issuer) -> None:
    files = Files(tmp_path / "rsa")
    files.write(issuer, key=rsa.generate_private_key(65537, 2048))
    with pytest.raises(ConfigError, match="ECDSA"):
        mtls.server_credentials(files.certificate, files.key, files.ca)
    with pytest.raises(ConfigError, match="ECDSA"):
        mtls.https_server_context(files.certificate, files.key)


def test_server_requires_client_certificate_of_its_authority(
    tmp_path: Path, server_files: Files, client_files: Files
) -> None:
    with serving(server_files) as (port, _):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(port, client_files, ssl.TLSVersion.TLSv1_3, with_certificate=False)
        foreign = Files(tmp_path / "foreign")
        foreign.write(Issuer())
        foreign.ca.write_bytes(client_files.ca.read_bytes())
        with channel(port, foreign) as connection, pytest.raises(grpc.RpcError) as caught:
            who(connection)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_client_accepts_no_server_but_the_signer(tmp_path: Path, issuer: Issuer, client_files: Files) -> None:
    other = Files(tmp_path / "worker")
    other.write(issuer, names=(uri("worker/credentials/main"), dns("localhost")))
    with serving(other) as (port, _):
        with channel(port, client_files) as connection, pytest.raises(grpc.RpcError) as caught:
            who(connection)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_client_accepts_no_server_of_another_authority(
    tmp_path: Path, server_files: Files, client_files: Files
) -> None:
    client_files.ca.write_bytes(pem(Issuer().root()))
    with serving(server_files) as (port, _), channel(port, client_files) as connection:
        with pytest.raises(grpc.RpcError) as caught:
            who(connection)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at each time, so that no test waits."""
    monkeypatch.setattr(mtls, "Watched", lambda paths, load: Watched(paths, load, interval_s=0))


@pytest.mark.usefixtures("eager")
def test_client_shows_its_renewed_certificate_and_running_streams_stay(
    issuer: Issuer, server_files: Files, client_files: Files
) -> None:
    with serving(server_files) as (port, handler), channel(port, client_files) as connection:
        call = who(connection)
        assert call(b"", timeout=10) == client_files.certificate.read_bytes()
        open_stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = connection.unary_stream("/test.Test/Stream")
        stream = open_stream(b"", timeout=30)
        assert next(stream) == b"TLSv1.3"
        new = client_files.write(issuer, usages=(CLIENT,))
        assert call(b"", timeout=10) == pem(new)
        assert call.with_call(b"", timeout=10)[0] == pem(new)
        assert call.future(b"", timeout=10).result() == pem(new)
        handler.release.set()
        assert list(stream) == [b"end"]


def test_closed_channel_makes_no_calls(server_files: Files, client_files: Files) -> None:
    with serving(server_files) as (port, _):
        connection = channel(port, client_files)
        call = who(connection)
        connection.close()
        connection.close()
        with pytest.raises(ValueError, match="closed"):
            call(b"", timeout=10)


@pytest.mark.usefixtures("eager")
def test_server_takes_up_renewed_certificate_and_keeps_the_old_where_the_new_is_broken(
    issuer: Issuer, server_files: Files, client_files: Files
) -> None:
    def served(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    with serving(server_files) as (port, _):
        first = server_files.certificate.read_text()
        assert served(port) == first
        other_key = ec.generate_private_key(ec.SECP256R1())
        server_files.certificate.write_bytes(pem(issuer.leaf(key=other_key)))
        assert served(port) == first  # its key is not there yet
        server_files.write(issuer, names=(uri("signer/main"), dns(SIGNER)), usages=(SERVER,))
        second = server_files.certificate.read_text()
        assert first != second
        assert served(port) == second
        assert served(port) == second
        with channel(port, client_files) as connection:
            who(connection)(b"", timeout=10)


@contextlib.contextmanager
def https(files: Files) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    context = mtls.https_server_context(files.certificate, files.key)
    wrapped = context.wrap_socket(listener, server_side=True)

    def accept() -> None:
        while True:
            try:
                connection, _ = wrapped.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"hello")

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1] if listener.fileno() >= 0 else wrapped.getsockname()[1]
    finally:
        wrapped.shutdown(socket.SHUT_RDWR)
        wrapped.close()
        thread.join(10)


@pytest.mark.usefixtures("eager")
def test_https_speaks_1_3_only_and_takes_up_renewed_certificate(tmp_path: Path, issuer: Issuer) -> None:
    files = Files(tmp_path / "broker")
    leaf = {"names": (uri("broker/main"), dns("localhost"))}
    files.write(issuer, **leaf)

    def leaf_served(port: int, version: ssl.TLSVersion, name: str | None) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(files.ca)
        context.check_hostname = name is not None
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        with raw, context.wrap_socket(raw, server_hostname=name) as wrapped:
            assert wrapped.recv(5)
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")

    with https(files) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            leaf_served(port, ssl.TLSVersion.TLSv1_2, "localhost")
        assert leaf_served(port, ssl.TLSVersion.TLSv1_3, "localhost") == files.certificate.read_text()
        files.write(issuer, **leaf)
        assert leaf_served(port, ssl.TLSVersion.TLSv1_3, "localhost") == files.certificate.read_text()
        files.write(issuer, **leaf)
        # Devices that connect by address send no server name.
        assert leaf_served(port, ssl.TLSVersion.TLSv1_3, None) == files.certificate.read_text()


def test_refuses_loose_key_file(server_files: Files) -> None:
    server_files.key.chmod(0o640)
    with pytest.raises(ConfigError, match="by others"):
        mtls.server_credentials(server_files.certificate, server_files.key, server_files.ca)


def test_refuses_key_of_another_certificate(server_files: Files, client_files: Files) -> None:
    with pytest.raises(ConfigError, match="not the key of"):
        mtls.TlsMaterial.load(server_files.certificate, client_files.key, server_files.ca)


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
@pytest.mark.parametrize(
    "content", [b"", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"-" * 70_000]
)
def test_refuses_files_that_are_no_pem(server_files: Files, name: str, content: bytes) -> None:
    getattr(server_files, name).write_bytes(content)
    with pytest.raises(ConfigError):
        mtls.server_credentials(server_files.certificate, server_files.key, server_files.ca)


def test_material_never_shows_its_key(server_files: Files) -> None:
    material = mtls.TlsMaterial.load(server_files.certificate, server_files.key)
    assert "PRIVATE" not in repr(material)
