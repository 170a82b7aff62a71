"""The suite against the real software signer and against an independent backend: the same cases, the same verdicts."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import groups
from tests.conformance.cases import CASES
from tests.conformance.independent import backend
from tests.conformance.runner import Outcome
from tests.conformance.software import software_signer

groups.load()


def verdicts(started: AbstractContextManager[tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """Run the program as an outside tester would, and read its report."""
    with started as (target, folder):
        command = [sys.executable, "-m", "tests.conformance", "--target", target, "--certs", str(folder), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return {found["name"]: found for found in json.loads(done.stdout)["cases"]}


@pytest.fixture(scope="module")
def software(tmp_path_factory: Any) -> Any:
    return verdicts(software_signer(tmp_path_factory.mktemp("software")))


@pytest.fixture(scope="module")
def independent(tmp_path_factory: Any) -> Any:
    return verdicts(backend(tmp_path_factory.mktemp("independent")))


@pytest.mark.parametrize("target", ["software", "independent"])
def test_every_case_passes_and_none_is_skipped(request: Any, target: Any) -> None:
    found = request.getfixturevalue(target)
    assert found.keys() == CASES.keys()
    assert {name: case for name, case in found.items() if case["outcome"] != Outcome.PASSED} == {}


def test_both_targets_get_the_same_verdicts(software: Any, independent: Any) -> None:
    assert software == independent
