"""The independent backend as a target, whole or broken."""

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    SERVER_NAME,
    SIWE_DOMAIN,
    SIWE_LIFETIME_S,
    SPENDER,
    STREAMS_PER_CALLER,
    TOKEN,
    Deployment,
)
from tests.conformance.full import Target
from tests.unit.runtime.certificates import TRUST_DOMAIN

START_LIMIT_S = 30.0


class Backend:
    """A running backend: each line that is written to it is a command of its host."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process = process
        self.address = address

    def turn(self, command: str) -> None:
        """Have it done before this returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer != "done\n":
            raise RuntimeError(f"{command}: {answer!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakable(Target):
    """A target that can be broken: `breaking` takes the name of one of `BREAKAGES`, and mends what was broken before."""

    breaking: Callable[[str], None]


@contextmanager
def backend(folder: Path) -> Iterator[Breakable]:
    """Start one in `folder`."""
    folder.mkdir(exist_ok=True)
    made = Deployment(folder / "tester")
    made.make()
    with cloud(folder) as sts, _process(made, folder, sts) as running:
        running.turn(f"publish {sts.published}")

        def rotate() -> None:
            running.turn("rotate")
            running.turn(f"publish {sts.published}")
            shutil.copy(sts.published / AUDIT_KEYS, made.folder / "audit-jwks.json")

        yield Breakable(
            address=running.address,
            folder=made.folder,
            rotate=rotate,
            open_window=lambda: running.turn("window open"),
            breaking=lambda name: running.turn(f"break {name}"),
        )


@contextmanager
def _process(made: Deployment, folder: Path, sts: Cloud) -> Iterator[Backend]:
    config = folder / "backend.json"
    config.write_text(json.dumps(_config(made, folder, sts)))
    command = [sys.executable, "-m", "tests.conformance.backend", "--config", str(config)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
        line = process.stdout.readline() if ready else ""
        if not line.startswith("ready "):
            raise RuntimeError((folder / "log").read_text())
        yield Backend(process, line.split()[1])
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _config(made: Deployment, folder: Path, sts: Cloud) -> dict[str, object]:
    tls = made.server(folder / "server")
    facts = {
        "endpoint": sts.url,
        "ca": str(sts.ca),
        "issuer": sts.issuer,
        "audience": AUDIENCE,
        "bucket": BUCKET,
        "role_arns": {"credentials": [ROLE_ARN, REFUSED_ROLE_ARN]},
    }
    return {
        "certificate": str(tls.certificate),
        "key": str(tls.key),
        "client_ca": str(tls.ca),
        "server_name": SERVER_NAME,
        "trust_domain": TRUST_DOMAIN,
        "revoked": [made.certificates["revoked"].serial_number],
        "k3": {"1": made.k3.hex()},
        "cosigners": [made.k1_public.jwk()],
        "device_burst": DEVICE_BURST,
        "device_per_s": DEVICE_PER_S,
        "streams_per_caller": STREAMS_PER_CALLER,
        "sts": facts,
        "issuers": {OIDC_ISSUER: {"client_id": OIDC_CLIENT, "keys": made.issuer_keys}},
        "siwe": {SIWE_DOMAIN: {"chain_ids": [CHAIN_ID], "max_lifetime_s": SIWE_LIFETIME_S}},
        "typed": {
            POLICY: {
                "type": PERMIT_TYPE,
                "chain_id": CHAIN_ID,
                "contract": TOKEN,
                "only": {"spender": [SPENDER]},
                "ahead_s": {"deadline": AHEAD_S},
                "most": {"value": MOST},
            }
        },
    }
