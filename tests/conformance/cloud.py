"""The STS endpoint that both targets exchange their tokens at: it verifies them against the published key set."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from tests.conformance.deployment import ROLE_ARN
from tests.fakes.sts_endpoint import StsEndpoint, sts_endpoint
from tests.unit.runtime.certificates import SERVER, Files, Issuer

ISSUER: Final = "https://issuer.example.org"
AUDIENCE: Final = "sts.amazonaws.com"
#: Where the issuer publishes the audit keys, below its folder.
AUDIT_KEYS: Final = Path(".well-known/agentkeys-audit-jwks.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Where it is, the roots of its certificate, and the folder whose files the issuer publishes."""

    url: str
    ca: Path
    published: Path


@contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """Serve one below `folder`."""
    tls = Files(folder / "sts")
    tls.write(Issuer(), names=(x509.DNSName("localhost"),), usages=(SERVER,))
    published = folder / "published"
    published.mkdir()
    endpoint = StsEndpoint(issuer=ISSUER, audience=AUDIENCE, role_arns=frozenset({ROLE_ARN}))
    with sts_endpoint(endpoint, published=published, certificate=tls.certificate, key=tls.key):
        yield Cloud(url=endpoint.url, ca=tls.ca, published=published)
