"""Every route of every service, asked by a tool that reads the OpenAPI documents and believes none of them.

Each service runs behind a real port, over a real signer, store, mail server and OpenID provider. There is no TLS here:
each of some 2,000 requests makes a connection.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.types import ASGIApp

from broker.adapters.store.engine import database_url
from tests.fakes.https_app import http_app, loopback
from tests.fakes.mail_server import MailServer
from tests.fakes.openid_server import OpenIdServer
from tests.fakes.services_kit import BROKER_ORIGIN, Services, services_in
from tests.unit.broker.identity_world import identity_world, mail_settings, provider_settings

#: What the tool needs to know of us, and why: see the comments.
SETTINGS = """\
[checks.positive_data_acceptance]
# The documents tell shapes. Signatures, and bytes in base64url, no schema tells: a right shape is still refused by name.
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 410, 429, 503]
"""


class NoSigner:
    """What an identity world's addresses are attested by: nobody confirms one here."""

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        raise AssertionError("attested an address that nobody confirmed")


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ASGIApp]]:
    with ExitStack() as stack:
        services: Services = stack.enter_context(services_in(tmp_path_factory.mktemp("services")))
        mail = stack.enter_context(MailServer(tmp_path_factory.mktemp("mail"), "starttls"))
        folder = tmp_path_factory.mktemp("provider")
        provider = stack.enter_context(OpenIdServer(folder=folder, origin=BROKER_ORIGIN))
        world = stack.enter_context(
            identity_world(
                database_url(None, tmp_path_factory.mktemp("identity")),
                mail=mail_settings(mail),
                provider=provider_settings(provider),
                attester=NoSigner(),
                at=time.time(),
            )
        )
        yield {
            "broker": services.broker.app,
            "ceremonies": world.app,
            "credentials": services.worker.app,
            "audit": services.audit.app,
        }


#: How long each service is asked, coverage first. SCHEMATHESIS_SECONDS=120 asks all there is to ask.
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "8")
#: What is left out where: the removed edge, which answers any method alike, even those that OpenAPI cannot name; and in
#: later services what an earlier one has asked already.
LEFT_OUT = {
    "broker": "^/dev/",
    "ceremonies": "^/v1/session",
    "credentials": "^/(v1/registry|healthz|openapi)",
    "audit": "^/(v1/registry|healthz|openapi)",
}


@pytest.mark.parametrize("service", LEFT_OUT)
def test_no_route_breaks_its_own_description(apps: dict[str, ASGIApp], service: str, tmp_path: Path) -> None:
    settings, listener = tmp_path / "schemathesis.toml", loopback()
    settings.write_text(SETTINGS)
    with http_app(apps[service], listener):
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json"
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", address]
        bounds = [
            "--exclude-path-regex",
            LEFT_OUT[service],
            "--max-examples",
            "3",
            "--seed",
            "1",
            "--max-time",
            SECONDS,
        ]
        phases = ["--phases", "examples,coverage,fuzzing", "--no-shrink"]
        quiet = ["--generation-database", "none", "--no-color", "--continue-on-failure"]
        ran = subprocess.run(
            [*command, *bounds, *phases, *quiet],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": ""},
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
