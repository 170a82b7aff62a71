"""Who calls: one look at the leaf certificate, from docs/spec/signer-protocol.md, Transport and RPCs."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from agentkeys_core.errors import Reason
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.refused import refuse

_BAD: Final = Reason.CERTIFICATE_INVALID
_PATH: Final = re.compile(
    r"/(?P<role>[a-z0-9][a-z0-9-]*)(/(?P<kind>credentials|memory|audit))?/[a-z0-9][a-z0-9-]{0,62}"
)

_BROKER: Final = frozenset({"broker"})
_WORKER: Final = frozenset({"worker"})
_BOTH: Final = _BROKER | _WORKER
ROLES: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("DeriveAddress", "SignSiwe", "SignTypedData", "AttestEnrol"), _BROKER),
    **dict.fromkeys(
        (
            "DeriveCredKek",
            "DeriveCredKekBatch",
            "StsCredentials",
            "SignAuditRow",
            "SignAuditRowBatch",
            "ListObjects",
            "GetAuditRows",
            "GetRowHashes",
            "SignCheckpoint",
            "Rewrap",
        ),
        _WORKER,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A caller: `kind` is the class of a worker, `name` tells certificates apart."""

    role: str
    kind: str | None
    name: str


class Peers:
    """Knows the deployment's trust domain and the serial numbers that were revoked."""

    def __init__(self, trust_domain: str, server_name: str, revoked: frozenset[int], broken: Broken) -> None:
        self._prefix = f"spiffe://{trust_domain}"
        self._server_name = server_name
        self._revoked = revoked
        self._broken = broken

    def identify(self, context: Any, method: str) -> Peer:
        """The caller of this method, if it may call it."""
        auth = context.auth_context()
        if auth.get("ssl_tls_version") != [b"TLSv1.3"] or len(auth.get("x509_pem_cert", ())) != 1:
            refuse(_BAD)
        leaf = x509.load_pem_x509_certificate(auth["x509_pem_cert"][0])
        try:
            peer = self._read(leaf)
        except (x509.ExtensionNotFound, ValueError):
            refuse(_BAD)
        if leaf.serial_number in self._revoked and "accept-revoked-certificate" not in self._broken:
            refuse(Reason.CERTIFICATE_REVOKED)
        if method not in ROLES and method not in OTHERS:
            refuse(Reason.NOT_IMPLEMENTED)
        allowed = ROLES.get(method, _BOTH) | ({"daemon"} if "daemon-allowed" in self._broken else set())
        if peer.role not in allowed:
            refuse(Reason.ROLE_NOT_ALLOWED)
        return peer

    def _read(self, leaf: x509.Certificate) -> Peer:
        found = leaf.extensions
        purposes = found.get_extension_for_class(x509.ExtendedKeyUsage).value
        usage = found.get_extension_for_class(x509.KeyUsage).value
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        key = leaf.public_key()
        good = (
            leaf.not_valid_before_utc.timestamp() <= time.time() < leaf.not_valid_after_utc.timestamp(),
            ExtendedKeyUsageOID.CLIENT_AUTH in purposes,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes,
            usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign,
            not found.get_extension_for_class(x509.BasicConstraints).value.ca,
            isinstance(key, ec.EllipticCurvePublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048),
            len(uris) == 1,
            self._server_name not in names.get_values_for_type(x509.DNSName),
        )
        if not all(good):
            refuse(_BAD)
        uri: str = uris[0]
        prefix = uri[: len("spiffe://")] if "accept-foreign-domain" in self._broken else self._prefix
        path = "/" + uri.removeprefix(prefix).split("/", 1)[-1]
        match = _PATH.fullmatch(path) if uri.startswith(prefix) else None
        if match is None or (match["role"] == "worker") != (match["kind"] is not None):
            refuse(_BAD)
        return Peer(role=match["role"], kind=match["kind"], name=f"{leaf.issuer.rfc4514_string()} {leaf.serial_number}")


OTHERS: Final = frozenset(
    {
        *("VerifyK10Sig", "VerifyK10SigBatch", "VerifyK11Assertion"),
        *("GetStatus", "GetOperator", "GetDevice", "ApplyChange", "WatchChanges"),
        *("Check", "List", "Watch", "ServerReflectionInfo"),
    }
)
