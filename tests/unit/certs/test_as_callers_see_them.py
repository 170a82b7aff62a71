"""What the signer makes of the certificates that this room issues."""

from datetime import UTC, datetime

import pytest
from cryptography import x509

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import WorkerClass
from agentkeys_runtime.identity import CallerIdentity, CallerRole, identify
from certs.ca import Authority
from certs.leaf import certificate_pem, new_key
from certs.profiles import LeafNames, Role
from certs.revoke import entry_of


def seen(authority: Authority, certificate: x509.Certificate) -> CallerIdentity:
    now = datetime.now(UTC).timestamp()
    return identify(certificate_pem(certificate), trust_domain=authority.trust_domain, now=now)


def leaf(authority: Authority, role: Role, worker_class: WorkerClass | None = None) -> x509.Certificate:
    names = LeafNames.parse(trust_domain=authority.trust_domain, role=role, name="main", worker_class=worker_class)
    return authority.sign(names, new_key().public_key())


@pytest.mark.parametrize("worker_class", list(WorkerClass))
def test_workers_are_callers_of_their_class(authority: Authority, worker_class: WorkerClass) -> None:
    made = leaf(authority, Role.WORKER, worker_class)
    found = seen(authority, made)
    assert (found.role, found.worker_class, found.name) == (CallerRole.WORKER, worker_class, "main")
    assert (found.issuer, f"{found.serial:x}") == entry_of(made)


@pytest.mark.parametrize("role", [Role.BROKER, Role.DAEMON])
def test_clients_are_callers_of_their_role(authority: Authority, role: Role) -> None:
    assert seen(authority, leaf(authority, role)).role.value == role.value


@pytest.mark.parametrize("role", [Role.SIGNER, Role.ISSUER])
def test_servers_are_no_callers(authority: Authority, role: Role) -> None:
    with pytest.raises(KeyServiceError) as caught:
        seen(authority, leaf(authority, role))
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


def test_authorities_are_no_callers(authority: Authority) -> None:
    for certificate in (authority.root, authority.intermediate):
        with pytest.raises(KeyServiceError) as caught:
            seen(authority, certificate)
        assert caught.value.reason is Reason.CERTIFICATE_INVALID
