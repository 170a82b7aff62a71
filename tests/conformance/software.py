"""The real software signer as a target: everything that the suite can ask for is switched on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from tests.conformance.deployment import (
    BUCKET,
    DEVICE_BURST,
    REFUSED_ROLE_ARN,
    ROLE_ARN,
    Deployment,
)
from tests.fakes.sts_endpoint import StsEndpoint, sts_endpoint
from tests.integration.signer_process import SignerProcess
from tests.unit.runtime.certificates import SERVER, Files, Issuer

ISSUER = "https://issuer.example.org"


@contextmanager
def software_signer(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start one in `folder`; gives HOST:PORT and the tester's folder."""
    tls = Files(folder / "sts")
    tls.write(Issuer(), names=(x509.DNSName("localhost"),), usages=(SERVER,))
    site = folder / "site"
    site.mkdir()
    endpoint = StsEndpoint(issuer=ISSUER, audience="sts.amazonaws.com", role_arns=frozenset({ROLE_ARN}))
    with sts_endpoint(endpoint, published=site, certificate=tls.certificate, key=tls.key):
        made = Deployment(folder / "tester")
        made.make()
        signer = SignerProcess(
            folder, issuer=made.issuer, k1=made.k1, k3=made.k3, tables=_tables(endpoint.url, tls.ca)
        )
        signer.prepare()
        signer.certificates["revoked"] = made.certificates["revoked"]
        signer.revoke("revoked")
        signer.command("oidc", "export", str(site), check=True)
        signer.start()
        try:
            yield signer.target, made.folder
        finally:
            signer.stop()


def _tables(endpoint: str, ca: Path) -> str:
    return (
        f"[limits]\ndevice_burst = {float(DEVICE_BURST)}\ndevice_per_s = 20.0\n"
        f'[sts]\nendpoint = "{endpoint}"\nca = "{ca}"\naudience = "sts.amazonaws.com"\nissuer = "{ISSUER}"\n'
        f'bucket = "{BUCKET}"\n[sts.role_arns]\ncredentials = {json.dumps([ROLE_ARN, REFUSED_ROLE_ARN])}\n'
    )


