"""The suite itself: its table of reasons is whole, its report is readable, its mistakes are named."""

import ast
import contextlib
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import Reason
from tests.conformance import groups
from tests.conformance.__main__ import main, report
from tests.conformance.cases import CASES, Case, add
from tests.conformance.manifest import Manifest, ManifestError
from tests.conformance.reasons import NOT_FROM_OUTSIDE, NOT_OF_THE_SIGNER
from tests.conformance.runner import Outcome, Verdict, selected

groups.load()
HERE = Path(__file__).parent


def provoked() -> set[Reason]:
    return {case.gives for case in CASES.values() if case.gives is not None}


def test_every_reason_has_a_case_or_says_why_it_has_none() -> None:
    tables = (NOT_FROM_OUTSIDE, NOT_OF_THE_SIGNER)
    told = {reason for table in tables for reason in table}
    assert provoked() | told == set(Reason)
    assert provoked() & told == set()
    assert sum(len(table) for table in tables) == len(told)


def test_every_rpc_has_a_group_of_its_own() -> None:
    methods = {method.name for _, method in groups.methods()}
    assert methods <= {case.group for case in CASES.values()}


def test_two_cases_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two cases"):
        add(next(iter(CASES.values())))


def modules(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if not path.name.startswith("test_")]


@pytest.mark.parametrize("path", modules(HERE), ids=str)
def test_nothing_of_the_signer_is_imported(path: Any) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    assert not [name for name in found if name.split(".")[0] in {"signer", "broker", "worker", "device"}]


def test_patterns_choose_cases() -> None:
    assert {case.group for case in selected(["DeriveAddress/*"])} == {"DeriveAddress"}
    assert [case.name for case in selected(["Address/an-omni-of-31"])] == ["DeriveAddress/an-omni-of-31-bytes"]
    assert len(selected()) == len(CASES)
    assert [case.last for case in selected()] == sorted(case.last for case in CASES.values())


def test_the_report_names_what_failed() -> None:
    first = Case(group="One", title="goes well", steps=lambda _: None)
    second = Case(group="Two", title="goes wrong", steps=lambda _: None, gives=Reason.SEALED)
    text = report(
        [
            Verdict(case=first, outcome=Outcome.PASSED),
            Verdict(case=second, outcome=Outcome.FAILED, detail="served, where sealed is due"),
        ]
    )
    assert "  ok   goes well\n" in text
    assert "  FAIL goes wrong → sealed\n         served, where sealed is due" in text
    assert text.endswith("FAIL Two/goes-wrong\n1 passed, 1 failed, 0 skipped")


def test_cases_can_be_listed(capsys: Any) -> None:
    assert main(["--list", "--only", "DeriveAddress/*"]) == 0
    assert "DeriveAddress/is-that-of-K4\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--target", "127.0.0.1:1", "--certs", "/nowhere"], ["--only", "no such case"]])
def test_what_cannot_run_ends_with_2(words: Any, capsys: Any) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("conformance: ")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"ver":2}', '{"ver":1,"server_name":"a"}', '{"ver":1,"also":1}', '{"ver":1,"k3":{"1":"zz"}}'],
)
def test_refuses_a_manifest_that_it_cannot_read(tmp_path: Any, text: Any) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError):
        Manifest.load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = {"ver": st.just(1), "server_name": st.text(), "trust_domain": st.text()}
OTHERS = {field.name: JSON for field in fields(Manifest) if field.name not in MEMBERS}


@given(document=st.fixed_dictionaries(MEMBERS, optional=OTHERS) | JSON)
def test_whatever_stands_in_a_manifest_is_read_or_refused_by_name(tmp_path_factory: Any, document: Any) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "manifest.json").write_text(json.dumps(document))
    with contextlib.suppress(ManifestError):
        Manifest.load(folder)


def test_a_manifest_without_features_skips_their_cases(tmp_path: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"ver": 1, "server_name": "a", "trust_domain": "b"}))
    found = Manifest.load(tmp_path)
    assert [name for name in ("k3", "sts", "siwe", "typed_data", "oidc", "may_seal") if found.has(name)] == []


def test_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--target" in done.stdout
