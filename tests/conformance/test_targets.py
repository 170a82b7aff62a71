"""The suite against the real software signer and against an independent backend: the same cases, the same verdicts."""

from typing import Any

import pytest

from tests.conformance import groups
from tests.conformance.cases import CASES
from tests.conformance.full import judged
from tests.conformance.independent import backend
from tests.conformance.runner import Outcome
from tests.conformance.software import software_signer

groups.load()


@pytest.fixture(scope="module")
def software(tmp_path_factory: Any) -> Any:
    with software_signer(tmp_path_factory.mktemp("software")) as target:
        return judged(target)


@pytest.fixture(scope="module")
def independent(tmp_path_factory: Any) -> Any:
    with backend(tmp_path_factory.mktemp("independent")) as target:
        return judged(target)


@pytest.mark.parametrize("target", ["software", "independent"])
def test_every_case_passes_and_none_is_skipped(request: Any, target: Any) -> None:
    found = request.getfixturevalue(target)
    assert found.keys() == CASES.keys()
    assert {name: case for name, case in found.items() if case["outcome"] != Outcome.PASSED} == {}


def test_both_targets_get_the_same_verdicts(software: Any, independent: Any) -> None:
    assert software == independent
