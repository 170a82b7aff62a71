"""What `show` tells about a certificate."""

from dataclasses import asdict, dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.errors import InvalidInputError
from certs.profiles import LeafNames
from certs.revoke import Entry, entry_of

_USAGES: Final = {
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A certificate in words. `revoked` is None where no list was at hand; times are ISO 8601 in UTC."""

    role: str
    worker_class: str | None
    name: str | None
    spiffe_id: str
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    serial: str
    issuer: str
    not_before: str
    not_after: str
    usages: tuple[str, ...]
    fingerprint_sha256: str
    revoked: bool | None

    @classmethod
    def of(cls, certificate: x509.Certificate, revoked: list[Entry] | None) -> "Facts":
        """Read the facts; InvalidInputError where the certificate is neither a leaf nor an authority of ours."""
        names = None if _is_authority(certificate) else LeafNames.of(certificate)
        issuer, serial = entry_of(certificate)
        return cls(
            role=names.role if names else "root" if certificate.issuer == certificate.subject else "intermediate",
            worker_class=names.worker_class if names else None,
            name=names.name if names else None,
            spiffe_id=names.spiffe_id if names else _trust_domain_id(certificate),
            dns=names.dns if names else (),
            ips=names.ips if names else (),
            serial=serial,
            issuer=issuer,
            not_before=certificate.not_valid_before_utc.isoformat(),
            not_after=certificate.not_valid_after_utc.isoformat(),
            usages=_usages(certificate),
            fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            revoked=None if revoked is None else (issuer, serial) in revoked,
        )

    def to_json(self) -> dict[str, object]:
        """Return the facts under the names that `show --json` prints."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the facts for people, one a line."""
        role = f"{self.role} ({self.worker_class})" if self.worker_class else self.role
        rows = {
            "role": role,
            "name": self.name or "",
            "spiffe id": self.spiffe_id,
            "dns": ", ".join(self.dns),
            "ip": ", ".join(self.ips),
            "serial": self.serial,
            "issuer": self.issuer,
            "valid": f"{self.not_before} until {self.not_after}",
            "eku": ", ".join(self.usages),
            "sha-256": self.fingerprint_sha256,
            "revoked": "" if self.revoked is None else "yes" if self.revoked else "no",
        }
        return [f"{label:<10} {text}" for label, text in rows.items() if text]


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False


def _trust_domain_id(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise InvalidInputError("the certificate carries no identity of ours") from error
    return uri


def _usages(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(_USAGES.get(usage, usage.dotted_string) for usage in usages)
