"""Turns what TLS says of a peer into a caller, at each call anew: a connection may outlive what it was opened with."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, Protocol

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.identity import CallerIdentity, identify
from signer.ports import Clock
from signer.rpc.permissions import PERMISSIONS, is_allowed

AuthContext = Mapping[str, Sequence[bytes]]  # what ServicerContext.auth_context gives; its stub says otherwise
_CERTIFICATE: Final = "x509_pem_cert"
_TLS_VERSION: Final = "ssl_tls_version"
_TLS13: Final = b"TLSv1.3"
_CACHE_LIMIT: Final = 1024


class Revocations(Protocol):
    """The list of revoked certificates."""

    def contains(self, issuer: str, serial: int) -> bool:
        """Whether this certificate is revoked."""
        ...


class Callers:
    """Knows callers by the PEM bytes of their leaf (never by address) and re-checks everything that time can change."""

    def __init__(self, *, trust_domain: str, revocations: Revocations, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._revocations = revocations
        self._clock = clock
        self._known: dict[bytes, CallerIdentity] = {}

    def identify(self, auth: AuthContext) -> CallerIdentity:
        """Who holds the connection.

        Raises:
            KeyServiceError: certificate_invalid, also where the connection is not TLS 1.3.
        """
        if list(auth.get(_TLS_VERSION, ())) != [_TLS13]:
            raise KeyServiceError(Reason.CERTIFICATE_INVALID, "the connection is not TLS 1.3")
        certificates = auth.get(_CERTIFICATE, ())
        if len(certificates) != 1:
            raise KeyServiceError(Reason.CERTIFICATE_INVALID, "the connection has no single client certificate")
        pem = certificates[0]
        caller = self._known.get(pem)
        if caller is None:
            caller = identify(pem, trust_domain=self._trust_domain, now=self._clock.now())
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()  # simpler than an order of use; each entry costs one parse to win back
            self._known[pem] = caller
        return caller

    def still(self, caller: CallerIdentity) -> None:
        """Return where the caller's certificate is neither expired nor revoked by now.

        Raises:
            KeyServiceError: certificate_invalid, certificate_revoked.
        """
        if caller.expired(self._clock.now()):
            raise KeyServiceError(Reason.CERTIFICATE_INVALID, "the certificate expired")
        if self._revocations.contains(caller.issuer, caller.serial):
            raise KeyServiceError(Reason.CERTIFICATE_REVOKED, "the certificate is on the revocation list")


def check_allowed(caller: CallerIdentity, method: str) -> None:
    """Return where the caller's role may call this full method name.

    Raises:
        KeyServiceError: role_not_allowed; not_implemented for a method without a row.
    """
    if method not in PERMISSIONS:
        raise KeyServiceError(Reason.NOT_IMPLEMENTED, "no such method")
    if not is_allowed(caller.role, method):
        raise KeyServiceError(Reason.ROLE_NOT_ALLOWED, f"{caller.role} may not call {method}")


def name_of(caller: CallerIdentity | None, auth: AuthContext) -> str:
    """How the journal names whoever calls; a certificate without an identity goes by the hash of its PEM bytes."""
    if caller is not None:
        return f"{caller.spiffe_id} {caller.fingerprint}"
    return f"pem {sha256(b''.join(auth.get(_CERTIFICATE, ()))).hexdigest()}"
