"""The real software signer as a target: everything that the suite can ask for is switched on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.cloud import AUDIENCE, ISSUER, Cloud, cloud
from tests.conformance.deployment import BUCKET, DEVICE_BURST, DEVICE_PER_S, REFUSED_ROLE_ARN, ROLE_ARN, Deployment
from tests.integration.signer_process import SignerProcess


@contextmanager
def software_signer(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start one in `folder`; gives HOST:PORT and the tester's folder."""
    with cloud(folder) as sts:
        made = Deployment(folder / "tester")
        made.make()
        signer = SignerProcess(folder, issuer=made.issuer, k1=made.k1, k3=made.k3, tables=_tables(sts))
        signer.prepare()
        signer.certificates["revoked"] = made.certificates["revoked"]
        signer.revoke("revoked")
        signer.command("oidc", "export", str(sts.published), check=True)
        signer.start()
        try:
            yield signer.target, made.folder
        finally:
            signer.stop()


def _tables(sts: Cloud) -> str:
    return (
        f"[limits]\ndevice_burst = {DEVICE_BURST:.1f}\ndevice_per_s = {DEVICE_PER_S:.1f}\n"
        f'[sts]\nendpoint = "{sts.url}"\nca = "{sts.ca}"\naudience = "{AUDIENCE}"\nissuer = "{ISSUER}"\n'
        f'bucket = "{BUCKET}"\n[sts.role_arns]\ncredentials = {json.dumps([ROLE_ARN, REFUSED_ROLE_ARN])}\n'
    )
