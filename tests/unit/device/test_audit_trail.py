"""Exports: verified without any server, also against what this device has seen before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.device.conftest import Outcome, Person
from tests.unit.device.deployment import Deployment
from tests.unit.device.ledger import Ledger

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def export(master: Person, tmp_path: Path) -> Path:
    """An export of some rows."""
    (tmp_path / "v").write_bytes(b"v")
    assert master("cred", "put", "a", "--file", tmp_path / "v").code == 0
    out = tmp_path / "audit.json"
    assert master("audit", "export", "--out", out).code == 0
    return out


def verify(master: Person, export: Path, change: Change | None = None, *words: object) -> Outcome:
    if change is not None:
        document = json.loads(export.read_bytes())
        change(document)
        export.write_text(json.dumps(document))
    return master("audit", "verify", export, *words)


def test_genuine_export_passes_without_any_server(master: Person, export: Path, deployment: Deployment) -> None:
    deployment.seen.clear()
    assert verify(master, export).code == 0
    assert not deployment.seen


def swap(document: dict[str, Any]) -> None:
    rows = document["rows"]
    rows[1], rows[2] = rows[2], rows[1]


def cut(document: dict[str, Any]) -> None:
    document["rows"].pop()


def rename(document: dict[str, Any]) -> None:
    document["actor"] = "00" * 32


def forge(document: dict[str, Any]) -> None:
    document["rows"][1]["sig"] = document["rows"][0]["sig"]


def insert(document: dict[str, Any]) -> None:
    document["rows"].insert(1, document["rows"][0])


def rehash(document: dict[str, Any]) -> None:
    document["rows"][1]["envelope"] = document["rows"][0]["envelope"]


@pytest.mark.parametrize("change", [swap, cut, rename, forge, insert, rehash])
def test_changed_export_is_found_out(master: Person, export: Path, change: Change) -> None:
    outcome = verify(master, export, change)
    assert (outcome.code, outcome.reason) == (6, "export_not_trusted")
    assert json.loads(outcome.out)["ok"] is False


def test_an_export_remembers_rows_that_others_caused(master: Person, export: Path, deployment: Deployment) -> None:
    """What another device of this actor did was seen here as well, so it cannot be left out later."""
    ((operator, rows),) = deployment.ledger.rows.items()
    assert rows[-1].actor == operator
    deployment.ledger.append(rows[-1].content())
    assert master("audit", "export", "--out", export, "--force").code == 0
    outcome = verify(master, export, cut)
    assert (outcome.code, outcome.reason) == (6, "export_not_trusted")


def test_words_name_the_place(master: Person, export: Path) -> None:
    document = json.loads(export.read_bytes())
    forge(document)
    export.write_text(json.dumps(document))
    assert "row 1 (sequence 1): signature" in master("audit", "verify", export, as_json=False).out


def test_foreign_keys_do_not_verify(master: Person, export: Path, tmp_path: Path) -> None:
    (tmp_path / "jwks").write_text(json.dumps({"keys": [Ledger().public.jwk()]}))
    outcome = verify(master, export, None, "--jwks", tmp_path / "jwks")
    assert {fault["fault"] for fault in json.loads(outcome.out)["faults"]} == {"unknown_key"}


def test_verifies_on_a_machine_without_a_folder(master: Person, export: Path, tmp_path: Path) -> None:
    keys = master.home / "audit-keys.json"
    master.home, copied = tmp_path / "nowhere", tmp_path / "keys"
    copied.write_bytes(keys.read_bytes())
    assert verify(master, export, None, "--jwks", copied).code == 0
    assert verify(master, export).reason == "not_initialised"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"rows":1}', b"\xff"])
def test_what_is_no_export_is_a_bad_file(master: Person, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e").write_bytes(content)
    assert verify(master, tmp_path / "e").reason == "bad_file"


def test_worker_that_leaves_out_the_newest_rows_is_found_out(
    master: Person, deployment: Deployment, tmp_path: Path
) -> None:
    assert master("cred", "list").code == 0
    chain = next(iter(deployment.ledger.rows.values()))
    chain.pop()
    outcome = master("audit", "export", "--out", tmp_path / "short.json")
    assert (outcome.code, outcome.reason) == (6, "export_not_trusted")
    assert json.loads(outcome.out)["known_row_missing"] is True


def test_existing_export_is_not_replaced_silently(master: Person, export: Path) -> None:
    assert master("audit", "export", "--out", export).reason == "file_exists"
    assert master("audit", "export", "--out", export, "--force").code == 0
