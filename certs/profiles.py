"""What each kind of leaf carries. A role says everything but names; names are checked here, once, byte by byte."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from agentkeys_core.ops import WorkerClass
from certs.errors import InvalidInputError

NAME_LIMIT: Final = 63
DNS_LIMIT: Final = 253
TRUST_DOMAIN_LIMIT: Final = DNS_LIMIT - len("signer.")  # the signer's DNS name stands under it
LOOPBACK: Final = (("localhost",), ("127.0.0.1",))
_ALNUM: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH


class Role(StrEnum):
    """Whom a leaf is for."""

    SIGNER = "signer"
    BROKER = "broker"
    WORKER = "worker"
    DAEMON = "daemon"
    ISSUER = "issuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What certificates of one role may do, and whether their holders choose the addresses that they listen on."""

    usages: tuple[ObjectIdentifier, ...]
    addressed: bool
    note: str


PROFILES: Final[Mapping[Role, Profile]] = MappingProxyType(
    {
        Role.SIGNER: Profile(usages=(_SERVER,), addressed=False, note="TLS server; DNS name signer.<trust domain>"),
        Role.BROKER: Profile(usages=(_CLIENT, _SERVER), addressed=True, note="TLS client of the signer, HTTPS server"),
        Role.WORKER: Profile(usages=(_CLIENT, _SERVER), addressed=True, note="TLS client of the signer, HTTPS server"),
        Role.DAEMON: Profile(usages=(_CLIENT,), addressed=False, note="TLS client; opens nothing, for tests"),
        Role.ISSUER: Profile(usages=(_SERVER,), addressed=True, note="HTTPS server of the issuer's static files"),
    }
)


def check_name(name: str) -> str:
    """Return `name` if all of it matches `[a-z0-9][a-z0-9-]{0,62}`; InvalidInputError otherwise."""
    if not 0 < len(name) <= NAME_LIMIT or name[0] not in _ALNUM or not _ALNUM.issuperset(name.replace("-", "")):
        raise InvalidInputError(
            f"the name {name!r} must have 1 to 63 characters of a-z, 0-9 and -, the first no hyphen"
        )
    return name


def check_dns(name: str, *, limit: int = DNS_LIMIT, what: str = "DNS name") -> str:
    """Return `name` if it is a lower-case host name without wildcard or final dot; InvalidInputError otherwise."""
    labels = name.split(".")
    fits = all(
        0 < len(label) <= NAME_LIMIT
        and _ALNUM.issuperset(label.replace("-", ""))
        and not label.startswith("-")
        and not label.endswith("-")
        for label in labels
    )
    if not fits or len(name) > limit:
        raise InvalidInputError(f"the {what} {name!r} must be labels of a-z, 0-9 and inner hyphens, joined by dots")
    if labels[-1].isdigit():
        raise InvalidInputError(f"the {what} {name!r} looks like an IP address")
    return name


def check_trust_domain(name: str) -> str:
    """Return `name` if it can be a trust domain and `signer.<name>` a DNS name; InvalidInputError otherwise."""
    return check_dns(name, limit=TRUST_DOMAIN_LIMIT, what="trust domain")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafNames:
    """Every name that one leaf carries. Made by `parse`, so that no leaf has names of another shape."""

    trust_domain: str
    role: Role
    name: str
    worker_class: WorkerClass | None
    dns: tuple[str, ...]
    ips: tuple[str, ...]

    @classmethod
    def parse(
        cls,
        *,
        trust_domain: str,
        role: Role,
        name: str,
        worker_class: WorkerClass | None = None,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
    ) -> "LeafNames":
        """Return the checked names; without any address, broker, worker and issuer listen on loopback.

        Raises:
            InvalidInputError: a class where none belongs or none where one does, addresses for a role that has none,
                the signer's DNS name for another role, or a name of another shape.
        """
        check_trust_domain(trust_domain)
        check_name(name)
        if (worker_class is not None) != (role is Role.WORKER):
            raise InvalidInputError("a worker needs --class, and no other role has one")
        if (dns or ips) and not PROFILES[role].addressed:
            raise InvalidInputError(f"a {role} certificate takes no --dns and no --ip")
        if PROFILES[role].addressed and not dns and not ips:
            dns, ips = LOOPBACK
        pinned = f"signer.{trust_domain}"
        if pinned in [check_dns(host) for host in dns]:
            raise InvalidInputError(f"{pinned} is the signer's name; clients pin it and no other role may carry it")
        if role is Role.SIGNER:
            dns = (pinned,)
        return cls(
            trust_domain=trust_domain,
            role=role,
            name=name,
            worker_class=worker_class,
            dns=tuple(dict.fromkeys(dns)),
            ips=tuple(dict.fromkeys(_address(ip) for ip in ips)),
        )

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "LeafNames":
        """Read the names back from a leaf of ours, for `renew` and `show`.

        Raises:
            InvalidInputError: not a leaf that this program issues.
        """
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
            dns = names.get_values_for_type(x509.DNSName)
            ips = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
            scheme, _, trust_domain, role, *path = uri.split("/")
            worker_class = WorkerClass(path.pop(0)) if role == Role.WORKER else None
            (name,) = path
            kind = Role(role)
        except (ValueError, IndexError, x509.ExtensionNotFound) as error:
            raise InvalidInputError("the certificate carries no identity of ours") from error
        own = kind is Role.SIGNER and dns == [f"signer.{trust_domain}"]
        found = cls.parse(
            trust_domain=trust_domain,
            role=kind,
            name=name,
            worker_class=worker_class,
            dns=() if own else dns,
            ips=ips,
        )
        if scheme != "spiffe:" or found.spiffe_id != uri:
            raise InvalidInputError("the certificate carries no identity of ours")
        return found

    @property
    def spiffe_id(self) -> str:
        """The one URI SAN."""
        path = "/".join(part for part in (self.role, self.worker_class, self.name) if part)
        return f"spiffe://{self.trust_domain}/{path}"

    def general_names(self) -> x509.SubjectAlternativeName:
        """The SAN extension: the SPIFFE id, then DNS names, then addresses."""
        return x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(self.spiffe_id),
                *(x509.DNSName(host) for host in self.dns),
                *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in self.ips),
            ]
        )


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is not an IP address") from error
