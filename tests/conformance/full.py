"""One whole judgement of a target whose host plays along: before a rotation of K3 and after it.

Some of the protocol shows only across something that a host does: an older epoch, an open window. So the suite runs
twice, and in between the host rotates K3 and opens the window of `Rewrap`. A case must pass in one run at least and fail
in none.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance.groups.objects import store
from tests.conformance.groups.rewrapping import envelope_of
from tests.conformance.manifest import MANIFEST, Manifest
from tests.conformance.people import master
from tests.conformance.runner import Outcome
from tests.conformance.site import Site

SERVICE: Final = "cred:older"
LIMIT_S: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running implementation, the tester's folder, and what its host can be asked for.

    `rotate` begins a new epoch and brings the published audit keys up to date; `open_window` lets workers re-wrap.
    """

    address: str
    folder: Path
    rotate: Callable[[], None]
    open_window: Callable[[], None]


def judged(target: Target) -> Mapping[str, Mapping[str, Any]]:
    """Every case by name, as both runs together have it."""
    _write(target.folder, may_seal=False)
    before = _run(target)
    older = _older_object(target)
    target.rotate()
    target.open_window()
    _write(target.folder, may_seal=True, held_epochs=[1, 2], older_object=older, rewrap_open=True)
    after = _run(target)
    return {name: _worse(case, after[name]) for name, case in before.items()}


def _worse(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """Failed where one run failed; passed where one passed; skipped where both skipped."""
    order = (Outcome.FAILED, Outcome.PASSED, Outcome.SKIPPED)
    return min(first, second, key=lambda case: order.index(case["outcome"]))


def _run(target: Target) -> Mapping[str, Mapping[str, Any]]:
    """The program as an outside tester runs it, and its report."""
    command = [sys.executable, "-m", "tests.conformance", "--target", target.address, "--certs", str(target.folder)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stderr)
    return {found["name"]: found for found in json.loads(done.stdout)["cases"]}


def _write(folder: Path, **facts: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | facts, indent=1))


def _older_object(target: Target) -> dict[str, str]:
    """A credential that is stored now, for the run after the rotation."""
    with Site(target.address, Manifest.load(target.folder)) as site:
        user = master(site)
        agent = user.agent(SERVICE)
        envelope = envelope_of(store(site, user, SERVICE), user.operator, SERVICE)
    return {
        "operator": user.operator.hex(),
        "actor": agent.actor.hex(),
        "k10": agent.k10.secret_bytes().hex(),
        "service": SERVICE,
        "envelope": envelope.hex(),
    }
