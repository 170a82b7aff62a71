"""TLS for every edge: the signer's port, the channel to it, the HTTPS ports of broker and workers. 1.3, nothing else.

Certificates live 24 hours, so each of these takes up a replaced file within a second, without a restart; a replacement
that cannot be used (a key that does not fit yet, a broken file) is logged and the old one serves on.
"""

import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentkeys_runtime import tls13  # isort: split

import grpc

from agentkeys_runtime.channel import ReloadingChannel
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import Watched, read_limited

PEM_LIMIT: Final = 65_536  # bytes
_CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # a proxy named in the environment is no way to the signer
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """PEM bytes of a leaf with its chain, its unencrypted private key, and the roots that peers are judged by."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes | None

    @classmethod
    def load(
        cls, certificate: Path, key: Path, authority: Path | None = None, *, server: bool = False
    ) -> "TlsMaterial":
        """Read and check the files.

        Args:
            certificate: leaf first, then intermediates.
            key: private key of the leaf; refused where group or others have any access to the file.
            authority: roots.
            server: insist on an ECDSA key, for which TLS 1.2 has no suite here (see tls13).

        Raises:
            ConfigError: a file that is missing, loose or no PEM, or a key that is not the certificate's.
        """
        chain, secret = load_pem(certificate), load_pem(key, private=True)
        roots = load_pem(authority) if authority else None
        try:
            public = x509.load_pem_x509_certificate(chain).public_key()
            if load_pem_private_key(secret, None).public_key() != public:
                raise ConfigError(f"{key}: not the key of {certificate}")
            if roots is not None:
                x509.load_pem_x509_certificates(roots)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{certificate}: certificate, key or authority is not usable PEM") from error
        if server and not isinstance(public, ec.EllipticCurvePublicKey):
            raise ConfigError(f"{certificate}: a server's key must be ECDSA")
        return cls(certificate=chain, key=secret, authority=roots)


def load_pem(path: Path, *, private: bool = False) -> bytes:
    """Return the bytes of a PEM file; with `private`, only if nobody else can read or write it.

    Raises:
        ConfigError: missing, too large, loose or without a PEM header.
    """
    data = read_limited(path, PEM_LIMIT, private=private)
    if b"-----BEGIN " not in data:
        raise ConfigError(f"{path}: not PEM")
    return data


def server_credentials(certificate: Path, key: Path, client_ca: Path) -> grpc.ServerCredentials:
    """Return credentials of a gRPC port that speaks TLS 1.3 only and requires client certificates under `client_ca`.

    Who the client is must still be asked by `identity.identify` at each call.

    Raises:
        ConfigError: unusable files, or grpc was imported before `agentkeys_runtime.tls13`.
    """
    if not tls13.ENFORCED:
        raise ConfigError("grpc was imported before agentkeys_runtime.tls13, so TLS 1.2 would be accepted")

    def load() -> grpc.ServerCertificateConfiguration:
        found = TlsMaterial.load(certificate, key, client_ca, server=True)
        return grpc.ssl_server_certificate_configuration([(found.key, found.certificate)], found.authority)

    watched = Watched([certificate, key, client_ca], load)
    lock = threading.Lock()
    given = watched.get()
    initial = given

    def fetch() -> grpc.ServerCertificateConfiguration:
        # Runs once a connection, on threads of gRPC. None means "as before" and spares it a new context.
        nonlocal given
        with lock:
            latest = watched.get()
            if latest is given:
                return cast(grpc.ServerCertificateConfiguration, None)  # the stub forgets None
            given = latest
            return latest

    return grpc.dynamic_ssl_server_credentials(initial, fetch, require_client_authentication=True)


def client_channel(
    target: str, certificate: Path, key: Path, ca: Path, server_name: str, *, options: Sequence[tuple[str, Any]] = ()
) -> grpc.Channel:
    """Return a channel to the signer at `target` that shows our certificate and accepts no server but `server_name`.

    Args:
        target: host:port.
        certificate: our leaf with its chain.
        key: our private key.
        ca: roots that the server's certificate must stand under.
        server_name: DNS name in the server's certificate, `signer.<trust domain>`, which no other profile carries.
        options: further gRPC channel options.

    Raises:
        ConfigError: unusable files.
    """
    pinned = (*_CHANNEL_OPTIONS, *options, ("grpc.ssl_target_name_override", server_name))

    def connect() -> grpc.Channel:
        found = TlsMaterial.load(certificate, key, ca)
        credentials = grpc.ssl_channel_credentials(found.authority, found.key, found.certificate)
        return grpc.secure_channel(target, credentials, pinned)

    return ReloadingChannel(Watched([certificate, key, ca], connect))


def https_server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for an HTTPS port: TLS 1.3 only, no client certificates, replaced files taken up by themselves.

    Raises:
        ConfigError: unusable files.
    """

    def load() -> ssl.SSLContext:
        TlsMaterial.load(certificate, key, server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{certificate}: changed while it was read") from error
        return context

    watched = Watched([certificate, key], load)
    front = load()

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called in each handshake, with or without a server name, before the certificate is picked.
        connection.context = watched.get()

    # typeshed wants the socket class alone; the interpreter passes what was wrapped.
    front.sni_callback = choose
    return front
