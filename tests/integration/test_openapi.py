"""Every route of every service, asked by a tool that reads the OpenAPI documents and believes none of them.

Each service is wired as it wires itself, over a real signer, store, mail server and OpenID provider. What has the right
shape is signed by a registered device and gets past every proof; what has not stays the junk that it is. There is no TLS
here: each of some 2,000 requests makes a connection.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial.town import Member
from tests.fakes.app_client import AppClient
from tests.fakes.genuine_bodies import OP_OF
from tests.fakes.https_app import http_app, loopback
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.integration.wired import WORKERS, Wired

ROOT = Path(__file__).parents[2]
#: What the tool needs to know of us, and why: see the comments.
SETTINGS = """\
[checks.positive_data_acceptance]
# The documents tell shapes. Signatures, and bytes in base64url, no schema tells: a right shape is still refused by name.
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 410, 429, 503]
"""
#: Random requests an operation, after all that its description suggests by itself.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "1")
HOOKS = "tests.fakes.signed_traffic"
#: Left out everywhere: the removed edge, which answers any method alike, even those that OpenAPI cannot name; and the
#: document itself, which the tool reads first. At workers what the broker has been asked already, by the same routes.
NEVER = re.compile("^(/dev/.*|/openapi.json)$")
AT_BROKER = re.compile("^(/v1/registry/.*|/healthz)$")
#: What only somebody without a good proof hears.
UNPROVED = {"proof_invalid", "session_invalid", "device_signature_invalid"}
BY_CAP = {"device_signature_invalid"}
#: What a busy machine, which cannot serve just now, says with 503.
BUSY = {"journal_unavailable", "overloaded", "signer_unreachable"}
#: What a good cap hears.
GRANTED = {None, *BUSY}
Operations = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One answer: which operation, status, and the reason where it was refused."""

    operation: str
    status: int
    reason: str | None


@pytest.mark.parametrize("service", ["broker", *WORKERS])
def test_no_route_breaks_its_own_description(wired: Wired, service: str, tmp_path: Path) -> None:
    operations = described(wired, service)
    answers = fuzzed(wired, service, operations, tmp_path)
    for name, operation in operations.items():
        reasons = {answer.reason for answer in answers if answer.operation == name}
        assert reasons, f"{name} was never asked"
        if "security" in operation:
            assert reasons - UNPROVED, f"nobody got past the proof of {name}"
        else:
            assert not reasons & UNPROVED - BY_CAP, f"{name} wants a proof that its description does not name"
        assert not is_capped(name) or reasons & GRANTED, f"nobody was granted {name}: {reasons}"
    broken = [answer for answer in answers if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR]
    assert not [answer for answer in broken if answer.reason not in BUSY]


def described(wired: Wired, service: str) -> Operations:
    """Every operation that a service is asked here, by its name in the log."""
    with AppClient(wired.apps[service]) as client:
        paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    found: Operations = {}
    for path, methods in paths.items():
        if NEVER.match(path) or (service != "broker" and AT_BROKER.match(path)):
            continue
        found |= {f"{method.upper()} {path}": operation for method, operation in methods.items()}
    return found


def is_capped(name: str) -> bool:
    """Whether the operation takes a cap."""
    return path_of(name) in {*OP_OF, "/v1/caps"}


def path_of(name: str) -> str:
    """The path of an operation."""
    return name.partition(" ")[2]


def fuzzed(wired: Wired, service: str, operations: Iterable[str], folder: Path) -> list[Asked]:
    """Everything that was asked and answered. Fails with the tool's report where an answer is not as described."""
    listener = loopback()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings, log, known = folder / "schemathesis.toml", folder / "log.jsonl", folder / "traffic.json"
    settings.write_text(SETTINGS)
    known.write_text(json.dumps(told(wired, address, folder)))
    paths = "|".join(sorted({re.escape(path_of(name)) for name in operations}))
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(settings),
        "run",
        f"{address}/openapi.json",
    ]
    bounds = ["--include-path-regex", f"^({paths})$", "--max-examples", EXAMPLES, "--seed", "1"]
    phases = ["--phases", "examples,coverage,fuzzing", "--checks", "all", "--no-shrink"]
    quiet = ["--generation-database", "none", "--no-color", "--continue-on-failure"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "gen"))),
        "SCHEMATHESIS_HOOKS": HOOKS,
        "TRAFFIC": str(known),
        "TRAFFIC_LOG": str(log),
    }
    with http_app(wired.apps[service], listener):
        ran = subprocess.run(
            [*command, *bounds, *phases, *quiet],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    return [Asked(**json.loads(line)) for line in log.read_text().splitlines()]


def told(wired: Wired, address: str, folder: Path) -> dict[str, object]:
    """What the hooks of signed traffic need to know."""
    stack = wired.town.stack
    people = {"master": wired.master, "agent": wired.agent}
    return {
        "address": address,
        "origin": BROKER_ORIGIN,
        "registry_id": stack.registry_id,
        "root": str(stack.root),
        "texts": wired.texts,
        **{name: person(found, folder / name) for name, found in people.items()},
    }


def person(member: Member, folder: Path) -> dict[str, str]:
    """A device for another process: its folder once more, as only one process may open it."""
    shutil.copytree(member.device.home.path, folder)
    return {"home": str(folder), "operator": member.who.operator.hex(), "actor": member.who.actor.hex()}
