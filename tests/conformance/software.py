"""The real software signer as a target: everything that the suite can ask for is switched on."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.cloud import AUDIENCE, AUDIT_KEYS, Cloud, cloud
from tests.conformance.deployment import (
    AHEAD_S,
    BUCKET,
    CHAIN_ID,
    DEVICE_BURST,
    DEVICE_PER_S,
    MOST,
    OIDC_CLIENT,
    OIDC_ISSUER,
    PERMIT_TYPE,
    POLICY,
    REFUSED_ROLE_ARN,
    ROLE_ARN,
    SIWE_DOMAIN,
    SIWE_LIFETIME_S,
    SPENDER,
    TOKEN,
    Deployment,
)
from tests.conformance.full import Target
from tests.integration.signer_process import SignerProcess

_SIGNING_POLICY = f"""\
[siwe."{SIWE_DOMAIN}"]
chain_ids = [{CHAIN_ID}]
max_lifetime_s = {SIWE_LIFETIME_S}

[[sign.{POLICY}.allow]]
type = "{PERMIT_TYPE}"
chain_ids = [{CHAIN_ID}]
verifying_contracts = ["{TOKEN}"]
only = {{ spender = ["{SPENDER}"] }}
ends_within_s = {{ deadline = {AHEAD_S} }}
k11_above = {{ value = "{MOST}" }}
"""


@contextmanager
def software_signer(folder: Path) -> Iterator[Target]:
    """Start one in `folder`."""
    with cloud(folder) as sts:
        made = Deployment(folder / "tester")
        made.make()
        signer = SignerProcess(
            folder,
            issuer=made.issuer,
            k1=made.k1,
            k3=made.k3,
            extra='signing_policy = "signing-policy.toml"\n',
            tables=_tables(sts),
        )
        (folder / "signing-policy.toml").write_text(_SIGNING_POLICY)
        signer.prepare()
        signer.certificates["revoked"] = made.certificates["revoked"]
        signer.revoke("revoked")
        signer.command("oidc", "export", str(sts.published), check=True)
        signer.start()
        try:
            yield Target(
                address=signer.target,
                folder=made.folder,
                rotate=lambda: _rotate(signer, sts, made),
                open_window=lambda: _open_window(signer),
            )
        finally:
            signer.stop()


def _rotate(signer: SignerProcess, sts: Cloud, made: Deployment) -> None:
    """The two steps of docs/runbooks/keys.md, with the published files between them."""
    signer.command("rotate", "--prepare", "--out", str(sts.published), check=True)
    signer.command("rotate", "--commit", check=True)
    shutil.copy(sts.published / AUDIT_KEYS, made.folder / "audit-jwks.json")


def _open_window(signer: SignerProcess) -> None:
    signer.command("rewrap-window", "--minutes", "30", check=True)


def _tables(sts: Cloud) -> str:
    return (
        f'[[evidence.oidc]]\nissuer = "{OIDC_ISSUER}"\nclient_id = "{OIDC_CLIENT}"\n'
        'jwks = "tester/oidc-issuer-jwks.json"\n'
        f'[issuer]\norigin = "{sts.issuer}"\nca = "{sts.ca}"\n'
        f"[limits]\ndevice_burst = {DEVICE_BURST:.1f}\ndevice_per_s = {DEVICE_PER_S:.1f}\n"
        f'[sts]\nendpoint = "{sts.url}"\nca = "{sts.ca}"\naudience = "{AUDIENCE}"\nissuer = "{sts.issuer}"\n'
        f'bucket = "{BUCKET}"\n[sts.role_arns]\ncredentials = {json.dumps([ROLE_ARN, REFUSED_ROLE_ARN])}\n'
    )
