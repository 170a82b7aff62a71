"""Answers that come in pages: whoever sends them without end is stopped."""

import json
from collections.abc import Callable, Sequence

import pytest

from agentkeys_core.bodies import AuditAnswer, AuditListBody
from agentkeys_core.captoken import Cap
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.sealing import seal
from device import audit_trail
from device.errors import DeviceError, Trouble
from device.paging import MAX_PAGES, paged
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import console_at
from tests.unit.device.deployment import Deployment

Answer = Callable[[int | None], tuple[Sequence[str], int | None]]


def asked(answer: Answer) -> tuple[list[int | None], list[str], Trouble | None]:
    """Read all pages of at most two entries: where each began, what came, and what was wrong."""
    begun: list[int | None] = []
    came: list[str] = []

    def ask(after: int | None) -> tuple[Sequence[str], int | None]:
        begun.append(after)
        return answer(after)

    try:
        for page in paged(ask, limit=2):
            came += page
    except DeviceError as exc:
        return begun, came, exc.reason
    return begun, came, None


def test_pages_are_read_to_the_last() -> None:
    pages = {None: (["a", "b"], 5), 5: (["c"], 9), 9: ([], None)}
    assert asked(lambda after: pages[after]) == ([None, 5, 9], ["a", "b", "c"], None)


def test_an_empty_page_that_names_another_is_the_last_one_asked_for() -> None:
    assert asked(lambda after: ([], (after or 0) + 1)) == ([None], [], Trouble.ANSWER_NOT_TRUSTED)


@pytest.mark.parametrize("following", [4, 3, 0])
def test_pages_go_forward(following: int) -> None:
    begun, _, reason = asked(lambda after: (["a"], 4 if after is None else following))
    assert (begun, reason) == ([None, 4], Trouble.ANSWER_NOT_TRUSTED)


def test_a_page_has_no_more_than_was_asked_for() -> None:
    assert asked(lambda _: (["a", "b", "c"], None)) == ([None], [], Trouble.ANSWER_NOT_TRUSTED)


def test_pages_without_end_have_one_here() -> None:
    begun, came, reason = asked(lambda after: (["a"], (after or 0) + 1))
    assert (len(begun), len(came), reason) == (MAX_PAGES, MAX_PAGES, Trouble.ANSWER_NOT_TRUSTED)


# --- the audit trail --------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(deployment: Deployment) -> None:
    """An audit worker that has no rows to show, and always some more."""

    def hook(body: bytes) -> None:
        outer = json.loads(body)
        request = Cap.from_json(outer["cap"]).request
        after = AuditListBody.parse(b64u_decode(outer["body"])).after or 0
        plain = AuditAnswer(rows=(), next=after + 1).encode()
        deployment.tamper = lambda told: told.update(sealed=b64u_encode(seal(request.reply_key, request.digest, plain)))

    deployment.hooks["audit", "/v1/audit/list"] = hook


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("page", ["audit", "audit?whose=tree", "audit.json"])
def test_a_trail_without_end_is_refused_on_its_page(master: Person, deployment: Deployment, page: str) -> None:
    with console_at(master.home) as visitor:
        deployment.seen.clear()
        found = visitor.get(f"/page/{page}")
        assert found.status_code == 502
        assert "answer_not_trusted" in found.text
    assert deployment.seen.count(("audit", "/v1/audit/list")) == 1


@pytest.mark.usefixtures("endless")
def test_a_trail_without_end_is_refused_by_the_command(master: Person) -> None:
    assert master("audit", "export", "--out", master.home / "x").reason == "answer_not_trusted"


def test_a_trail_is_no_longer_than_an_export_may_be(master: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    assert master("audit", "export", "--out", master.home / "x").code == 0
    monkeypatch.setattr(audit_trail, "MAX_EXPORT_BYTES", 100)
    assert master("audit", "export", "--out", master.home / "y").reason == "answer_not_trusted"
