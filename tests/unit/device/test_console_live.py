"""What an open page of the console is told: that it is out of date, and whether changes are heard of."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agentkeys_core.errors import Reason
from agentkeys_core.registry import OperatorState
from device.console.live import MAX_WAITING, Live, version_of
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.deployment import Deployment, problem


@pytest.fixture
def visitor(master: Person) -> Iterator[Visitor]:
    with console_at(master.home) as made:
        yield made


def ask(visitor: Visitor, told: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = visitor.get(f"/live?tick={(told or {}).get('tick', '')}").json()
    return found


def until(visitor: Visitor, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask on as a page does, until what is told fits."""
    told = ask(visitor)
    while not holds(told):
        told = ask(visitor, told)
    return told


def mark(visitor: Visitor, page: str) -> tuple[int, str]:
    """When a page was made, and of what."""
    text = visitor.get(page).text
    tick, version = text.partition('data-live="')[2].partition('"')[0].split(".")
    return int(tick), version


def version(visitor: Visitor, page: str) -> str:
    return mark(visitor, page)[1]


def test_pages_are_told_when_what_they_show_has_changed(visitor: Visitor, master: Person, agent: Person) -> None:
    shown = version(visitor, "/page/devices")
    assert {version(visitor, f"/page/{name}") for name in ("agents", "masters", "audit")} == {shown}
    until(visitor, lambda told: told["version"] == shown and not told["words"])
    assert master("scope", "set", "research", "--grant", "cred:more").code == 0  # on another terminal
    told = until(visitor, lambda told: told["version"] != shown)
    assert version(visitor, "/page/agents") == told["version"]


def test_what_was_told_before_a_page_was_made_is_older_than_it(visitor: Visitor, master: Person) -> None:
    told = until(visitor, lambda told: bool(told["version"]) and not told["words"])
    assert mark(visitor, "/page/devices") == (int(told["tick"]), told["version"])
    master("freeze")
    tick, shown = mark(visitor, "/page/devices")
    assert tick > int(told["tick"])
    assert shown != told["version"]
    assert ask(visitor)["version"] == shown


def test_a_broker_that_is_away_is_told_of_calmly(visitor: Visitor, deployment: Deployment, master: Person) -> None:
    until(visitor, lambda told: bool(told["version"]))
    deployment.hooks["broker", "/v1/events"] = lambda _: problem(Reason.OVERLOADED, 429)
    for session in deployment.identity.sessions._sessions.of_operator(
        operator(deployment).operator_omni, device=None, now=0
    ):
        deployment.identity.sessions._sessions.revoke(session.id, operator=session.operator, device=None, now=1)
    told = until(visitor, lambda told: "overloaded" in told["words"])
    assert "Changes are not heard of just now" in told["words"]
    assert visitor.get("/page/devices").status_code == 200  # which goes on working
    del deployment.hooks["broker", "/v1/events"]
    until(visitor, lambda told: told["words"] == "")


def test_a_revoked_device_is_told_so(visitor: Visitor, master: Person) -> None:
    until(visitor, lambda told: bool(told["version"]))
    master("device", "revoke", master("whoami", "--offline").data["device"])
    until(visitor, lambda told: "The broker says that this device is revoked" in told["words"])
    assert "revoked</span>" in visitor.get("/page/devices").text


def operator(deployment: Deployment) -> OperatorState:
    (state,) = deployment.states.values()
    return state


def test_another_use_of_k11_is_no_change_and_everything_else_is(visitor: Visitor, deployment: Deployment) -> None:
    state = operator(deployment)
    ((key, record),) = state.devices.items()
    again = replace(state, devices={key: replace(record, sign_count=record.sign_count + 1)})
    assert version_of(again) == version_of(state)
    assert version_of(replace(state, frozen=True)) != version_of(state)
    assert version_of(replace(state, devices={key: replace(record, counter_fell=True)})) != version_of(state)


def test_who_waits_is_answered_at_the_end_and_only_so_many_wait() -> None:
    live = Live()
    first = live.answer("")
    assert first.status == 200
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(int(live.answer("1").status))) for _ in range(MAX_WAITING)
    ]
    for thread in threads:
        thread.start()
    while live._waiting < MAX_WAITING:
        threading.Event().wait(0.01)
    assert live.answer("1").status == 503
    live.close()
    for thread in threads:
        thread.join(10)
    assert replies == [200] * MAX_WAITING


@pytest.mark.parametrize("reason", ["device_revoked", "device_unknown"])
def test_what_only_the_broker_says_is_told_as_its_word(reason: str) -> None:
    live = Live()
    live.deaf(reason)
    words = json.loads(live.answer("").body)["words"]
    assert words.startswith("The broker says")
