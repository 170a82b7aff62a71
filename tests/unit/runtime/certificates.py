"""Builds real certificates with one thing wrong at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "keys.example.org"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


def key_usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names.split()})


def uri(path: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{path}")


BROKER = (uri("broker/main"),)
SIGNING = key_usage(digital_signature=True)
SHA256 = hashes.SHA256()


@dataclass
class Issuer:
    """A root that signs whatever it is told to."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: x509.Name = field(default_factory=lambda: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")]))

    def root(self) -> x509.Certificate:
        start = datetime.now(UTC) - timedelta(days=1)
        return (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage(key_cert_sign=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def leaf(
        self,
        *,
        names: Sequence[x509.GeneralName] = BROKER,
        usages: Sequence[x509.ObjectIdentifier] = (CLIENT, SERVER),
        usage: x509.KeyUsage | None = SIGNING,
        ca: bool | None = False,
        key: Any = None,
        start: datetime = NOW - timedelta(minutes=1),
        end: datetime = NOW + timedelta(hours=24),
        digest: hashes.SHA224 | hashes.SHA256 = SHA256,
    ) -> x509.Certificate:
        public = (key or ec.generate_private_key(ec.SECP256R1())).public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(self.key, digest)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_bytes(key: Any) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


@dataclass
class Files:
    """cert.pem, key.pem and ca.pem of one part in a folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def write(self, issuer: Issuer, *, key: Any = None, **leaf: Any) -> x509.Certificate:
        """Write a fresh pair, valid now, each file replaced by a rename."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        start = datetime.now(UTC) - timedelta(minutes=1)
        made = issuer.leaf(key=key, **{"start": start, "end": start + timedelta(hours=1), **leaf})
        self.folder.mkdir(exist_ok=True)
        for path, data in ((self.key, key_bytes(key)), (self.certificate, pem(made)), (self.ca, pem(issuer.root()))):
            new = path.with_suffix(".new")
            new.write_bytes(data)
            new.chmod(0o600)
            new.rename(path)
        return made
