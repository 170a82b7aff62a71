"""The suite is worth what it notices: the backend is broken in one way at a time, and the right case must fail."""

from typing import Any

import pytest

from tests.conformance import groups
from tests.conformance.backend.breakages import BREAKAGES
from tests.conformance.cases import CASES
from tests.conformance.independent import backend
from tests.conformance.manifest import Manifest
from tests.conformance.runner import Outcome, run, selected
from tests.conformance.site import Site

groups.load()


@pytest.mark.parametrize("name", BREAKAGES)
def test_notices(tmp_path: Any, name: Any) -> None:
    wanted = set(BREAKAGES[name])
    assert wanted <= CASES.keys()
    with (
        backend(tmp_path / "backend", name, sts=False) as target,
        Site(target.address, Manifest.load(target.folder)) as site,
    ):
        parts = sorted({f"{CASES[case].group}/*" for case in wanted})
        verdicts = run(site, [case for case in selected(parts) if not case.last])
    failed = {verdict.case.name for verdict in verdicts if verdict.outcome is Outcome.FAILED}
    assert wanted <= failed
    # Nor does it cry wolf: what has nothing to do with the breakage passes.
    assert len(failed) < len(verdicts)


def test_there_are_enough_of_them() -> None:
    assert len(BREAKAGES) >= 10
