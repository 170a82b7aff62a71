import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from agentkeys_core.ops import WorkerClass
from certs.ca import Authority
from certs.errors import InvalidInputError
from certs.leaf import BACKDATED, new_key
from certs.profiles import PROFILES, LeafNames, Role, check_name, check_trust_domain

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
TRUST_DOMAIN = "keys.example.org"


def names_of(role: Role, *, dns: tuple[str, ...] = (), ips: tuple[str, ...] = ()) -> LeafNames:
    worker_class = WorkerClass.AUDIT if role is Role.WORKER else None
    return LeafNames.parse(
        trust_domain=TRUST_DOMAIN, role=role, name="main", worker_class=worker_class, dns=dns, ips=ips
    )


def leaf_of(authority: Authority, role: Role) -> x509.Certificate:
    return authority.sign(names_of(role), new_key().public_key())


@pytest.mark.parametrize(
    ("role", "usages", "path"),
    [
        (Role.SIGNER, {SERVER}, "signer/main"),
        (Role.BROKER, {CLIENT, SERVER}, "broker/main"),
        (Role.WORKER, {CLIENT, SERVER}, "worker/audit/main"),
        (Role.DAEMON, {CLIENT}, "daemon/main"),
        (Role.ISSUER, {SERVER}, "issuer/main"),
    ],
)
def test_leaf_carries_its_roles_profile(
    authority: Authority, role: Role, usages: set[x509.ObjectIdentifier], path: str
) -> None:
    leaf = leaf_of(authority, role)
    extensions = leaf.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not any((usage.value.key_cert_sign, usage.value.crl_sign, usage.value.key_encipherment))
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usages
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TRUST_DOMAIN}/{path}"]
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert leaf.version is x509.Version.v3


def test_every_role_has_a_profile() -> None:
    assert set(PROFILES) == set(Role)


def test_only_the_signer_carries_the_pinned_name(authority: Authority) -> None:
    for role in Role:
        san = leaf_of(authority, role).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = san.get_values_for_type(x509.DNSName)
        assert (f"signer.{TRUST_DOMAIN}" in dns) == (role is Role.SIGNER)
    for role in (Role.BROKER, Role.WORKER, Role.ISSUER):
        with pytest.raises(InvalidInputError, match="signer's name"):
            names_of(role, dns=(f"signer.{TRUST_DOMAIN}",))


@pytest.mark.parametrize("role", [Role.SIGNER, Role.DAEMON])
def test_signer_and_daemon_choose_no_addresses(role: Role) -> None:
    with pytest.raises(InvalidInputError, match="takes no --dns"):
        names_of(role, dns=("a.example.org",))
    with pytest.raises(InvalidInputError, match="takes no --dns"):
        names_of(role, ips=("127.0.0.1",))


def test_addresses_default_to_loopback_only_where_none_is_given(authority: Authority) -> None:
    assert (names_of(Role.BROKER).dns, names_of(Role.BROKER).ips) == (("localhost",), ("127.0.0.1",))
    named = names_of(Role.BROKER, dns=("a.example.org", "a.example.org"), ips=("::1", "10.0.0.1"))
    san = (
        authority.sign(named, new_key().public_key())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert san.get_values_for_type(x509.DNSName) == ["a.example.org"]
    assert san.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("::1"),
        ipaddress.ip_address("10.0.0.1"),
    ]


def test_class_belongs_to_workers_alone() -> None:
    for role, worker_class in ((Role.WORKER, None), (Role.BROKER, WorkerClass.AUDIT)):
        with pytest.raises(InvalidInputError, match="--class"):
            LeafNames.parse(trust_domain=TRUST_DOMAIN, role=role, name="main", worker_class=worker_class)


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a/b", "a b", "ä", "a\n", "a" * 64, "../x"])
def test_refuses_bad_names(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "0", "a-", "a" * 63])
def test_accepts_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "A.b", "a_b", "-a.b", "a-.b", "a b", "a/b", "*.a", "a\n", "ä.de", "10.0.0.1", "1",
     "a" * 64, ".".join(["a" * 60] * 5), "spiffe://a"],
)  # fmt: skip
def test_refuses_bad_trust_domains(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_trust_domain(name)


def test_longest_trust_domain_still_makes_a_dns_name() -> None:
    longest = ".".join(["a" * 60] * 4 + ["b"])[:246]
    assert check_trust_domain(longest) == longest
    assert len(f"signer.{longest}") <= 253
    with pytest.raises(InvalidInputError):
        check_trust_domain(longest + "bb")


@pytest.mark.parametrize("dns", ["*.example.org", "Example.org", "a.", "1.2.3.4", "a b", ""])
def test_refuses_bad_dns_names(dns: str) -> None:
    with pytest.raises(InvalidInputError):
        names_of(Role.BROKER, dns=(dns,))


@pytest.mark.parametrize("ip", ["localhost", "1.2.3", "1.2.3.4/8", "", "::g"])
def test_refuses_bad_addresses(ip: str) -> None:
    with pytest.raises(InvalidInputError, match="not an IP address"):
        names_of(Role.BROKER, ips=(ip,))


@pytest.mark.parametrize("role", list(Role))
def test_names_are_read_back(authority: Authority, role: Role) -> None:
    assert LeafNames.of(leaf_of(authority, role)) == names_of(role)


def test_an_authority_is_no_leaf(authority: Authority) -> None:
    for certificate in (authority.root, authority.intermediate):
        with pytest.raises(InvalidInputError, match="no identity"):
            LeafNames.of(certificate)


def test_lives_24_hours_by_default(authority: Authority) -> None:
    now = datetime.now(UTC)
    leaf = authority.sign(names_of(Role.BROKER), new_key().public_key(), now=now)
    assert leaf.not_valid_after_utc == now.replace(microsecond=0) + timedelta(hours=24)
    assert leaf.not_valid_before_utc == now.replace(microsecond=0) - BACKDATED


@pytest.mark.parametrize("hours", [0, -1, 2161])
def test_refuses_lifetimes_out_of_range(authority: Authority, hours: int) -> None:
    with pytest.raises(InvalidInputError, match="hours"):
        authority.sign(names_of(Role.BROKER), new_key().public_key(), ttl=timedelta(hours=hours))


def test_no_leaf_outlives_its_intermediate(authority: Authority) -> None:
    late = authority.intermediate.not_valid_after_utc - timedelta(hours=23)
    with pytest.raises(InvalidInputError, match="outlive"):
        authority.sign(names_of(Role.BROKER), new_key().public_key(), now=late)
