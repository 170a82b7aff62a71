import hashlib
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import WorkerClass
from agentkeys_runtime.identity import CallerIdentity, CallerRole, identify, parse_spiffe_id
from tests.unit.runtime.certificates import ANY, CLIENT, NOW, SERVER, TRUST_DOMAIN, Issuer, key_usage, pem, uri


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


def who(certificate: x509.Certificate, now: datetime = NOW) -> CallerIdentity:
    return identify(pem(certificate), trust_domain=TRUST_DOMAIN, now=now.timestamp())


def refused(certificate: x509.Certificate, now: datetime = NOW) -> str:
    with pytest.raises(KeyServiceError) as caught:
        who(certificate, now)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID
    return caught.value.detail


def test_reads_broker_and_what_names_its_certificate(issuer: Issuer) -> None:
    leaf = issuer.leaf()
    found = who(leaf)
    assert (found.role, found.worker_class, found.name) == (CallerRole.BROKER, None, "main")
    assert found.spiffe_id == f"spiffe://{TRUST_DOMAIN}/broker/main"
    assert (found.serial, found.issuer) == (leaf.serial_number, "CN=test root")
    assert found.fingerprint == hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()
    assert found.not_after == (NOW + timedelta(hours=24)).timestamp()


@pytest.mark.parametrize("worker_class", list(WorkerClass))
def test_reads_worker_of_each_class(issuer: Issuer, worker_class: WorkerClass) -> None:
    found = who(issuer.leaf(names=(uri(f"worker/{worker_class}/a-1"),)))
    assert (found.role, found.worker_class, found.name) == (CallerRole.WORKER, worker_class, "a-1")


@pytest.mark.parametrize("role", ["signer", "daemon", "issuer"])
def test_reads_other_roles(issuer: Issuer, role: str) -> None:
    assert who(issuer.leaf(names=(uri(f"{role}/x"),))).role == role


def test_well_formed_foreign_role_is_unknown_and_nothing_else(issuer: Issuer) -> None:
    found = who(issuer.leaf(names=(uri("janitor/x"),)))
    assert (found.role, found.worker_class) == (CallerRole.UNKNOWN, None)


def test_accepts_host_names_and_addresses_beside_the_one_uri(issuer: Issuer) -> None:
    names = (x509.DNSName("broker.example.org"), uri("broker/main"), x509.DNSName("localhost"))
    assert who(issuer.leaf(names=names)).role is CallerRole.BROKER


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), id="RSA-2048"),
    ],
)
def test_accepts_strong_keys(issuer: Issuer, key: Callable[[], Any]) -> None:
    assert who(issuer.leaf(key=key())).role is CallerRole.BROKER


def test_refuses_no_eku(issuer: Issuer) -> None:
    refused(issuer.leaf(usages=()))


@pytest.mark.parametrize("usages", [(ANY,), (ANY, CLIENT)])
def test_refuses_any_extended_key_usage(issuer: Issuer, usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    assert "anyExtendedKeyUsage" in refused(issuer.leaf(usages=usages))


def test_refuses_server_only_eku(issuer: Issuer) -> None:
    assert "TLS clients" in refused(issuer.leaf(usages=(SERVER,)))


def test_refuses_ca_certificate_as_leaf(issuer: Issuer) -> None:
    assert "CA certificate" in refused(issuer.leaf(ca=True))


@pytest.mark.parametrize("bit", ["key_cert_sign", "crl_sign"])
def test_refuses_signing_authority_key_usage(issuer: Issuer, bit: str) -> None:
    assert "authority" in refused(issuer.leaf(ca=None, usage=key_usage(digital_signature=True, **{bit: True})))


def test_refuses_key_usage_without_digital_signature(issuer: Issuer) -> None:
    assert "digitalSignature" in refused(issuer.leaf(usage=key_usage(key_encipherment=True)))


def test_refuses_missing_key_usage(issuer: Issuer) -> None:
    refused(issuer.leaf(usage=None))


def test_refuses_weak_rsa(issuer: Issuer) -> None:
    assert "RSA" in refused(issuer.leaf(key=rsa.generate_private_key(65537, 1024)))


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP224R1(), ec.SECP521R1()])
def test_refuses_other_curves(issuer: Issuer, curve: ec.EllipticCurve) -> None:
    assert "curve" in refused(issuer.leaf(key=ec.generate_private_key(curve)))


def test_refuses_other_kinds_of_key(issuer: Issuer) -> None:
    assert "neither ECDSA nor RSA" in refused(issuer.leaf(key=ed25519.Ed25519PrivateKey.generate()))


def test_refuses_weak_signature_hash(issuer: Issuer) -> None:
    # Stands for SHA-1, which this library no longer signs with.
    assert "weak hash" in refused(issuer.leaf(digest=hashes.SHA224()))


def test_refuses_two_uri_sans(issuer: Issuer) -> None:
    assert "exactly one URI" in refused(issuer.leaf(names=(uri("broker/main"), uri("worker/credentials/main"))))


def test_refuses_no_uri_san(issuer: Issuer) -> None:
    assert "exactly one URI" in refused(issuer.leaf(names=(x509.DNSName("broker.example.org"),)))


def test_refuses_no_san_at_all(issuer: Issuer) -> None:
    refused(issuer.leaf(names=()))


@pytest.mark.parametrize("name", ["signer.keys.example.org", "*.keys.example.org", "Signer.Keys.example.org"])
def test_refuses_caller_with_the_signers_dns_name(issuer: Issuer, name: str) -> None:
    assert "signer's DNS name" in refused(issuer.leaf(names=(uri("broker/main"), x509.DNSName(name))))


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://other.example.org/broker/main",
        "spiffe://keys.example.org.evil.org/broker/main",
        "spiffe://evil-keys.example.org/broker/main",
        "spiffe://KEYS.example.org/broker/main",
        "SPIFFE://keys.example.org/broker/main",
        "https://keys.example.org/broker/main",
        "spiffe://keys.example.org:443/broker/main",
        "spiffe://user@keys.example.org/broker/main",
        "spiffe://keys.example.org/broker/main/",
        "spiffe://keys.example.org//broker/main",
        "spiffe://keys.example.org/broker//main",
        "spiffe://keys.example.org/./broker/main",
        "spiffe://keys.example.org/daemon/../broker/main",
        "spiffe://keys.example.org/broker/ma%69n",
        "spiffe://keys.example.org/%62roker/main",
        "spiffe://keys.example.org/broker/main?x=1",
        "spiffe://keys.example.org/broker/main#x",
        "spiffe://keys.example.org/broker/main/extra",
        "spiffe://keys.example.org/worker/credentials/main/extra",
        "spiffe://keys.example.org/worker/credentials",
        "spiffe://keys.example.org/worker/main",
        "spiffe://keys.example.org/worker/passwords/main",
        "spiffe://keys.example.org/worker/Credentials/main",
        "spiffe://keys.example.org/worker//main",
        "spiffe://keys.example.org/broker/",
        "spiffe://keys.example.org/broker",
        "spiffe://keys.example.org/",
        "spiffe://keys.example.org",
        "spiffe://keys.example.org/Broker/main",
        "spiffe://keys.example.org/broker/Main",
        "spiffe://keys.example.org/broker/-main",
        "spiffe://keys.example.org/broker/ma_in",
        "spiffe://keys.example.org/broker/main\n",
        "spiffe://keys.example.org/broker/ main",
        "spiffe://keys.example.org/broker/" + "a" * 64,
        "spiffe://keys.example.org//x",
        "spiffe://keys.example.org/Janitor/x",
        "",
    ],
)
def test_refuses_other_names(issuer: Issuer, text: str) -> None:
    refused(issuer.leaf(names=(x509.UniformResourceIdentifier(text),)))
    with pytest.raises(KeyServiceError) as caught:
        parse_spiffe_id(text, trust_domain=TRUST_DOMAIN)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


def test_refuses_every_name_where_no_trust_domain_is_set() -> None:
    with pytest.raises(KeyServiceError) as caught:
        parse_spiffe_id("spiffe:///broker/main", trust_domain="")
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


def test_accepts_longest_name(issuer: Issuer) -> None:
    assert who(issuer.leaf(names=(uri("broker/" + "a" * 63),))).name == "a" * 63


def test_refuses_outside_its_validity(issuer: Issuer) -> None:
    leaf = issuer.leaf()
    assert "expired" in refused(leaf, NOW + timedelta(hours=24))
    assert "expired" in refused(leaf, NOW - timedelta(minutes=2))


def test_expires_during_a_connection(issuer: Issuer) -> None:
    found = who(issuer.leaf())
    assert not found.expired((NOW + timedelta(hours=23)).timestamp())
    assert found.expired((NOW + timedelta(hours=24)).timestamp())


def test_refuses_anything_but_one_certificate(issuer: Issuer) -> None:
    one = pem(issuer.leaf())
    for data in (b"", b"x", one + one, one[:-40], one + b"\0" * 20_000):
        with pytest.raises(KeyServiceError) as caught:
            identify(data, trust_domain=TRUST_DOMAIN, now=NOW.timestamp())
        assert caught.value.reason is Reason.CERTIFICATE_INVALID


_DER = Issuer().leaf(names=(uri("broker/main"), x509.DNSName("localhost"))).public_bytes(Encoding.DER)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_refuses_serial_number_that_no_revocation_list_can_name() -> None:
    certificate = x509.load_der_x509_certificate(_DER)
    serial = certificate.serial_number.to_bytes(20, "big")
    negative = x509.load_der_x509_certificate(_DER.replace(serial, bytes([serial[0] | 0x80]) + serial[1:], 1))
    assert negative.serial_number < 0
    assert "serial number" in refused(negative)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(_DER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_certificates_give_an_identity_or_the_reason(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_DER)
    for position, value in changes:
        data[position] = value
    try:
        identify(ssl.DER_cert_to_PEM_cert(bytes(data)).encode(), trust_domain=TRUST_DOMAIN, now=NOW.timestamp())
        reason = None
    except KeyServiceError as error:
        reason = error.reason
    assert reason in (None, Reason.CERTIFICATE_INVALID)
