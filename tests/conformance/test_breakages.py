"""The suite is worth what it notices: the backend is broken in one way at a time, and the right case must fail."""

from typing import Any

import pytest

from tests.conformance import groups
from tests.conformance.__main__ import main
from tests.conformance.backend.breakages import BREAKAGES
from tests.conformance.cases import CASES
from tests.conformance.independent import backend
from tests.conformance.manifest import Manifest
from tests.conformance.runner import Outcome, run, selected
from tests.conformance.site import Site

groups.load()


@pytest.fixture(scope="module")
def target(tmp_path_factory: Any) -> Any:
    with backend(tmp_path_factory.mktemp("backend")) as running:
        yield running


@pytest.mark.parametrize("name", BREAKAGES)
def test_notices(target: Any, name: Any) -> None:
    wanted = set(BREAKAGES[name])
    assert wanted <= CASES.keys()
    # The cases that must notice, and a few that have nothing to do with it: the suite does not cry wolf.
    chosen = [
        *(CASES[case] for case in sorted(wanted)),
        *selected(["VerifyK11Assertion/registered", "GetStatus/names"]),
    ]
    target.breaking(name)
    with Site(target.address, Manifest.load(target.folder)) as site:
        verdicts = run(site, chosen)
    assert {verdict.case.name for verdict in verdicts if verdict.outcome is Outcome.FAILED} == wanted


def test_a_backend_that_is_mended_passes_again(target: Any) -> None:
    target.breaking("")
    chosen = [CASES[name] for name in sorted({name for names in BREAKAGES.values() for name in names})]
    with Site(target.address, Manifest.load(target.folder)) as site:
        verdicts = run(site, chosen)
    assert {verdict.outcome for verdict in verdicts} == {Outcome.PASSED}


def test_the_program_names_what_failed(target: Any, capsys: Any) -> None:
    target.breaking("skip-device-signature")
    words = ["--target", target.address, "--certs", str(target.folder), "--only", "Order/*alone"]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "  FAIL device signature alone → device_signature_invalid\n         served, where" in printed
    assert "FAIL Order/device-signature-alone\n" in printed


def test_there_are_enough_of_them() -> None:
    assert len(BREAKAGES) >= 10
