"""Turns the certificate that a TLS peer proved to hold into a role, or refuses it.

TLS has checked the chain by the time this runs. What gRPC's TLS leaves open (no EKU, anyExtendedKeyUsage, a CA
certificate used as a leaf, weak RSA, several names) is closed here. Names are compared byte by byte; nothing is folded,
decoded or trimmed.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import WorkerClass

SCHEME: Final = "spiffe://"
MIN_RSA_BITS: Final = 2048
NAME_LIMIT: Final = 63
PEM_LIMIT: Final = 16_384  # bytes; a leaf of ours has 1 KiB
_ALNUM: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_UNPARSABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class CallerRole(StrEnum):
    """What a certificate says its holder is. UNKNOWN: well formed, but no role of ours; it may call nothing."""

    BROKER = "broker"
    WORKER = "worker"
    SIGNER = "signer"
    DAEMON = "daemon"
    ISSUER = "issuer"
    UNKNOWN = "unknown"


_PLAIN_ROLES: Final = frozenset({CallerRole.BROKER, CallerRole.SIGNER, CallerRole.DAEMON, CallerRole.ISSUER})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerIdentity:
    """Who calls, taken from one leaf certificate. `worker_class` is set for workers only.

    `not_after` is Unix seconds: a connection may outlive its certificate, so each call asks `expired`. `issuer`
    (RFC 4514) and `serial` name the certificate in the revocation list; `fingerprint` is SHA-256 of its DER, hex.
    """

    role: CallerRole
    worker_class: WorkerClass | None
    name: str
    spiffe_id: str
    serial: int
    issuer: str
    not_after: float
    fingerprint: str

    def expired(self, now: float) -> bool:
        """Say whether the certificate no longer counts at `now` (Unix seconds)."""
        return now >= self.not_after


def identify(pem: bytes, *, trust_domain: str, now: float) -> CallerIdentity:
    """Return the identity in a leaf certificate that fits the client profile of design §5.

    Args:
        pem: exactly one PEM certificate.
        trust_domain: the only trust domain whose names count.
        now: Unix seconds.

    Raises:
        KeyServiceError: certificate_invalid, whatever the certificate lacks or has too much of.
    """
    if len(pem) > PEM_LIMIT:
        raise _refusal("the certificate is larger than 16 KiB")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        if len(certificates) != 1:
            raise _refusal("not exactly one certificate")
        return _identify(certificates[0], trust_domain, now)
    except _UNPARSABLE as error:
        raise KeyServiceError(Reason.CERTIFICATE_INVALID, "the certificate cannot be parsed") from error
    except x509.ExtensionNotFound as error:
        raise KeyServiceError(Reason.CERTIFICATE_INVALID, "a required extension is missing") from error


def _identify(certificate: x509.Certificate, trust_domain: str, now: float) -> CallerIdentity:
    not_after = certificate.not_valid_after_utc.timestamp()
    if not certificate.not_valid_before_utc.timestamp() <= now < not_after:
        raise _refusal("expired or not yet valid")
    if certificate.serial_number <= 0:
        raise _refusal("no revocation list could name this serial number")
    _check_key(certificate)
    _check_usage(certificate.extensions)
    spiffe_id = _spiffe_id(certificate.extensions, trust_domain)
    role, worker_class, name = parse_spiffe_id(spiffe_id, trust_domain=trust_domain)
    return CallerIdentity(
        role=role,
        worker_class=worker_class,
        name=name,
        spiffe_id=spiffe_id,
        serial=certificate.serial_number,
        issuer=certificate.issuer.rfc4514_string(),
        not_after=not_after,
        fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
    )


def _check_key(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _CURVES):
            raise _refusal("the curve of the key is neither P-256 nor P-384")
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise _refusal("the RSA key is shorter than 2048 bits")
    else:
        raise _refusal("the key is neither ECDSA nor RSA")
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        raise _refusal("the certificate is signed over a weak hash")


def _check_usage(extensions: x509.Extensions) -> None:
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes:
        raise _refusal("anyExtendedKeyUsage is not a purpose")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _refusal("the certificate is not for TLS clients")
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if not usage.digital_signature:
        raise _refusal("keyUsage has no digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise _refusal("a certificate authority's key is no caller's")
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise _refusal("a CA certificate is no leaf")


def _spiffe_id(extensions: x509.Extensions, trust_domain: str) -> str:
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _refusal("not exactly one URI among the names")
    # A client that could also pose as the signer's server would have two identities. No caller is issued these names.
    reserved = {f"signer.{trust_domain}", f"*.{trust_domain}"}
    if any(name.lower().rstrip(".") in reserved for name in names.get_values_for_type(x509.DNSName)):
        raise _refusal("the certificate carries the signer's DNS name")
    return uris[0]


def parse_spiffe_id(uri: str, *, trust_domain: str) -> tuple[CallerRole, WorkerClass | None, str]:
    """Split `spiffe://<trust domain>/broker/<name>` or `…/worker/<class>/<name>` into role, class and name.

    Raises:
        KeyServiceError: certificate_invalid for a foreign trust domain and any path of another shape.
    """
    prefix = f"{SCHEME}{trust_domain}/"
    if not trust_domain or not uri.startswith(prefix):
        raise _refusal("the name is not of this trust domain")
    match uri[len(prefix) :].split("/"):
        case [CallerRole.WORKER, worker_class, name]:
            if worker_class not in tuple(WorkerClass):
                raise _refusal("unknown worker class")
            return CallerRole.WORKER, WorkerClass(worker_class), _checked(name)
        case [CallerRole.WORKER, _]:
            raise _refusal("a worker's name has a class")
        case [role, name] if role in _PLAIN_ROLES:
            return CallerRole(role), None, _checked(name)
        case [role, name]:
            _checked(role)
            return CallerRole.UNKNOWN, None, _checked(name)
        case _:
            raise _refusal("the path of the name has another shape")


def _checked(name: str) -> str:
    """Return `name` if it matches `[a-z0-9][a-z0-9-]{0,62}` as a whole."""
    if not 0 < len(name) <= NAME_LIMIT or name[0] not in _ALNUM or not _ALNUM.issuperset(name.replace("-", "")):
        raise _refusal("a name has other characters than a-z, 0-9 and -, or a wrong length")
    return name


def _refusal(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.CERTIFICATE_INVALID, detail)
