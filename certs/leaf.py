"""Builds certificates. Pure but for random serial numbers and keys: time comes in, bytes come out."""

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.errors import InvalidInputError
from certs.profiles import PROFILES, LeafNames

DEFAULT_TTL: Final = timedelta(hours=24)
LONGEST_TTL: Final = timedelta(days=90)
BACKDATED: Final = timedelta(seconds=60)  # for clocks that differ, as much as requests are allowed
_ORGANISATION: Final = "AgentKeys"


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the unencrypted PKCS #8 PEM; it goes to a 0600 file and nowhere else."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def build_authority(
    *,
    trust_domain: str,
    label: str,
    key: ec.EllipticCurvePrivateKey,
    parent: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    now: datetime,
    ttl: timedelta,
) -> x509.Certificate:
    """Return the root (no `parent`: self-signed, path length 1) or an intermediate (path length 0, TLS leaves only).

    No name constraints: one on URIs alone is legal, but several TLS stacks refuse every certificate under it.
    """
    subject = _subject(f"{label} {trust_domain}"[:64], unit=trust_domain[:64])
    issuer, signing_key = (parent[0].subject, parent[1]) if parent else (subject, key)
    builder = _builder(subject, issuer, key.public_key(), now, ttl)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else 1), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    # SPIFFE: a signing certificate names its trust domain and no path.
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")])
    builder = builder.add_extension(names, critical=False)
    if parent:
        tls_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(tls_only, critical=False)
    return _signed(builder, signing_key)


def build_leaf(
    names: LeafNames,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    ttl: timedelta = DEFAULT_TTL,
) -> x509.Certificate:
    """Return a leaf of the profile of its role, valid from a minute before `now` until `now + ttl`.

    Raises:
        InvalidInputError: a ttl that is not above zero, above 90 days, or longer than the issuer lives.
    """
    if not timedelta(0) < ttl <= LONGEST_TTL:
        raise InvalidInputError(f"a leaf lives more than 0 and at most {LONGEST_TTL.days * 24} hours")
    if now + ttl > issuer.not_valid_after_utc:
        raise InvalidInputError("the leaf would outlive the intermediate; shorten it or run renew-intermediate")
    builder = _builder(_subject(names.name, unit=names.role), issuer.subject, public_key, now, ttl)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(PROFILES[names.role].usages), critical=False)
    builder = builder.add_extension(names.general_names(), critical=False)
    return _signed(builder, issuer_key)


def ttl_of(certificate: x509.Certificate) -> timedelta:
    """Return the ttl that a leaf of ours was issued with."""
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATED


def _subject(name: str, *, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, ttl: timedelta
) -> x509.CertificateBuilder:
    start = now.replace(microsecond=0)  # certificates count whole seconds
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATED)
        .not_valid_after(start + ttl)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(authority_key, critical=False).sign(key, hashes.SHA256())


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
