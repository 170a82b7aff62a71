"""TLS contexts that know whom they talk to: the leaf is checked inside the handshake, before a byte of the request."""

import ssl
from dataclasses import dataclass
from typing import Final, cast

from cryptography import x509

from agentkeys_core.ops import WorkerClass
from device.errors import DeviceError, Trouble

_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_SCHEME: Final = "spiffe:"


class LeafRefusedError(DeviceError):
    """The peer proved an identity, but not the one that was asked for."""

    def __init__(self, detail: str) -> None:
        super().__init__(Trouble.PEER_NOT_TRUSTED, detail)


@dataclass(frozen=True, slots=True)
class SpiffePeer:
    """Accepts a leaf with exactly one URI SAN, which is `prefix` and a name; compared byte by byte."""

    prefix: str

    def check(self, uris: list[str]) -> None:
        """Raise `peer_not_trusted` for any other leaf."""
        if len(uris) != 1:
            raise LeafRefusedError(f"the certificate has {len(uris)} URI names, expected one: {self.prefix}…")
        name = uris[0][len(self.prefix) :]
        if not uris[0].startswith(self.prefix) or not name or not _NAME.issuperset(name):
            raise LeafRefusedError(f"the certificate is not one of {self.prefix}…")


@dataclass(frozen=True, slots=True)
class PublicPeer:
    """Accepts a leaf of a public CA: it names a host, and claims no SPIFFE identity."""

    def check(self, uris: list[str]) -> None:
        """Raise `peer_not_trusted` for a leaf that claims one: a part of some deployment is no public site."""
        if any(uri.lower().startswith(_SCHEME) for uri in uris):
            raise LeafRefusedError("a certificate with a SPIFFE identity where a public one was expected")


PeerRule = SpiffePeer | PublicPeer


def worker_peer(trust_domain: str, worker: WorkerClass) -> SpiffePeer:
    """The rule for the worker of one class."""
    return SpiffePeer(f"spiffe://{trust_domain}/worker/{worker.value}/")


def broker_peer(trust_domain: str) -> SpiffePeer:
    """The rule for the broker."""
    return SpiffePeer(f"spiffe://{trust_domain}/broker/")


def issuer_peer(trust_domain: str) -> SpiffePeer:
    """The rule for an issuer with a certificate of the deployment's own CA."""
    return SpiffePeer(f"spiffe://{trust_domain}/issuer/")


def leaf_uris(der: bytes | None) -> list[str]:
    """Return the URI SANs of a leaf. Raises `peer_not_trusted` for a certificate that cannot be read."""
    if der is None:
        raise LeafRefusedError("the peer showed no certificate")
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise LeafRefusedError("the peer's certificate is malformed") from exc
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


class _CheckedSocket(ssl.SSLSocket):
    """A TLS socket whose handshake ends with the check of the leaf."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        try:
            cast("PeerContext", self.context).check_leaf(self.getpeercert(binary_form=True))
        except BaseException:
            self.close()  # before a single byte of the request
            raise


class _CheckedObject(ssl.SSLObject):
    """The same for TLS over memory buffers."""

    def do_handshake(self) -> None:
        super().do_handshake()
        cast("PeerContext", self.context).check_leaf(self.getpeercert(binary_form=True))


class PeerContext(ssl.SSLContext):
    """A client context: TLS 1.3, host name and chain verified, and the leaf's identity as `rule` says.

    Made by `peer_context`.
    """

    sslsocket_class = _CheckedSocket
    sslobject_class = _CheckedObject
    rule: PeerRule

    def check_leaf(self, der: bytes | None) -> None:
        """Raise `peer_not_trusted` unless the leaf is the expected peer's."""
        self.rule.check(leaf_uris(der))


def peer_context(rule: PeerRule, *, ca_pem: str | None) -> PeerContext:
    """Return a context that trusts `ca_pem` and nothing else, or the system's public CAs where it is None.

    Raises:
        DeviceError: `bad_file` for a CA that cannot be read.
    """
    context = PeerContext(ssl.PROTOCOL_TLS_CLIENT)
    context.rule = rule
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as exc:
        raise DeviceError(Trouble.BAD_FILE, "the profile's ca is no certificate") from exc
    return context


def unknown_peer_context() -> ssl.SSLContext:
    """Return a context for a peer that nothing is known of yet: TLS 1.3, and no name or chain is checked.

    For what is compared with a hash that came by another way, and is no secret.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
