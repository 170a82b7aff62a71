"""The audit page of the console: verified here, chain by chain, filtered and exported."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentkeys_core.audit_envelope import OpKind
from device.audit_trail import Export
from device.console.trail import Filter, TrailRow
from device.errors import DeviceError, Trouble
from tests.unit.device.console_kit import Visitor
from tests.unit.device.deployment import Deployment
from tests.unit.device.persons import Person


def test_the_trail_is_verified_here(visitor: Visitor, master: Person, tmp_path: Path, deployment: Deployment) -> None:
    (tmp_path / "v").write_bytes(b"v")
    for name in ("a", "b"):
        assert master("cred", "put", name, "--file", tmp_path / "v").code == 0
    page = visitor.get("/page/audit").text
    assert "rows are genuine" in page
    assert "cred:a" in page
    filtered = visitor.get("/page/audit?kind=cred-store&part=cred:b").text
    assert "cred:a<" not in filtered.partition("<tbody>")[2]
    assert "cred:b" in filtered
    export = Export.parse(visitor.get("/page/audit.json").content)
    assert len(export.rows) > 2
    rows = deployment.ledger.rows[export.actor]
    rows[1] = replace(rows[1], sig=bytes(64))
    del rows[2]
    lied = visitor.get("/page/audit").text
    assert "not to be trusted" in lied
    assert "gap" in lied
    assert lied.count('class="bad"') == 2


def test_what_agents_did_is_verified_chain_by_chain(
    visitor: Visitor, master: Person, agent: Person, tmp_path: Path, deployment: Deployment
) -> None:
    (tmp_path / "v").write_bytes(b"v")
    assert master("cred", "put", "openrouter", "--file", tmp_path / "v").code == 0
    assert agent("cred", "get", "openrouter").code == 0
    assert "research/0" not in visitor.get("/page/audit").text
    page = visitor.get("/page/audit?whose=tree").text
    assert "of 2 actors are genuine" in page
    assert '<td data-label="Whose">research/0</td>' in page
    actor = deployment.states[Export.parse(visitor.get("/page/audit.json").content).actor].scopes
    (research,) = actor
    exported = tmp_path / "research.json"
    exported.write_bytes(visitor.get(f"/page/audit.json?actor={research.hex()}").content)
    assert master("audit", "verify", exported).data["actor_omni"] == research.hex()
    for nobody in ("00" * 32, "zz"):
        assert visitor.get(f"/page/audit.json?actor={nobody}").status_code == 502
    chain = deployment.ledger.rows[research]
    chain[0] = replace(chain[0], sig=bytes(64))
    lied = visitor.get("/page/audit?whose=tree").text
    assert "research/0: row 0" in lied
    assert lied.count('class="bad"') == 1


def test_rows_of_a_stranger_have_no_place_in_a_trail(visitor: Visitor, agent: Person, deployment: Deployment) -> None:
    deployment.ledger.of_change(bytes(32), bytes(32), OpKind.FREEZE)
    lied = visitor.get("/page/audit?whose=tree").text
    assert "not to be trusted" in lied
    assert "which is no actor of yours" in lied


def test_a_filter_finds_words_and_days() -> None:
    at = int(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    row = TrailRow(
        seq=1, actor="a", at=at, kind="sign-eip191", service="sign:siwe", outcome="", words="Sign in", faults=()
    )

    def fits(**query: str) -> bool:
        return Filter.of(query).fits(row)

    assert fits()
    assert fits(part="SIGN IN")
    assert fits(kind="sign-eip191", part="siwe")
    assert not fits(kind="cred-store")
    assert not fits(part="permit")
    assert fits(since="2026-01-31", until="2026-01-31")
    assert not fits(since="2026-02-01")
    assert not fits(until="2026-01-30")


@pytest.mark.parametrize("day", ["x", "2026-13-01", "2026-01-31T00:00:00+25:00", "9999999999"])
def test_a_day_that_is_none_is_refused_by_name(day: str) -> None:
    with pytest.raises(DeviceError) as caught:
        Filter.of({"since": day})
    assert caught.value.reason is Trouble.USAGE
