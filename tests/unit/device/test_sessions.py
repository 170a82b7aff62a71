"""`agentkeys sessions` and the console's page of them, over the broker's real desk."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from device.broker_session import BrokerSession
from device.home import Home
from device.session import Device
from device.show import Show
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.deployment import Deployment
from tests.unit.device.persons import Person


class Elsewhere:
    """Sessions of the same user that other programs hold."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def begin(self) -> str:
        session = BrokerSession(self._device)
        session.ask("GET", "/v1/sessions")
        assert session.signed_in is not None
        return session.signed_in.id.hex()


@pytest.fixture
def elsewhere(master: Person) -> Iterator[Elsewhere]:
    with Home.open(master.home) as home, Device.open(home, Show(as_json=True)) as device:
        yield Elsewhere(device)


def listed(master: Person) -> list[str]:
    return sorted(entry["id"] for entry in master("sessions", "list").data["sessions"])


def test_the_list_leaves_none_of_its_own(master: Person, elsewhere: Elsewhere, deployment: Deployment) -> None:
    assert listed(master) == []
    assert deployment.identity.sessions_left() == []
    made = elsewhere.begin()
    (entry,) = master("sessions", "list").data["sessions"]
    assert (entry["id"], entry["method"]) == (made, "device")
    shown = master("sessions", "list", as_json=False).out
    assert "master" in shown
    assert "the device's key" in shown
    assert deployment.identity.sessions_left() == ["device"]


def test_one_is_ended_and_all_are(master: Person, elsewhere: Elsewhere, deployment: Deployment) -> None:
    first, second, third = (elsewhere.begin() for _ in range(3))
    assert master("sessions", "end", second[:8]).data == {"ended": 1}
    assert listed(master) == sorted((first, third))
    assert master("sessions", "end", "--all").data == {"ended": 2}
    assert deployment.identity.sessions_left() == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [((), "usage"), (("--all", "0" * 32), "usage"), (("0",), "usage"), (("0" * 32,), "no_such_session")],
    ids=["none", "both", "short", "unknown"],
)
def test_what_ends_nothing(master: Person, elsewhere: Elsewhere, words: tuple[str, ...], reason: str) -> None:
    made = elsewhere.begin()
    assert master("sessions", "end", *words).reason == reason
    assert listed(master) == [made]


def test_sessions_of_somebody_else_are_not_shown(master: Person, deployment: Deployment) -> None:
    def lie(_: str, path: str, told: dict[str, Any]) -> None:
        for entry in told.get("sessions", []) if path == "/v1/sessions" else []:
            entry["operator_omni"] = "00" * 32

    deployment.identity.lie = lie
    assert master("sessions", "list").reason == "answer_not_trusted"


@pytest.mark.parametrize("told", [{}, {"sessions": 1}, {"sessions": [1]}, {"sessions": [{"id": "x"}]}], ids=str)
def test_a_broker_that_tells_nonsense_is_not_believed(
    master: Person, deployment: Deployment, told: dict[str, object]
) -> None:
    def lie(_: str, path: str, answer: dict[str, object]) -> None:
        if path == "/v1/sessions":
            answer.clear()
            answer.update(told)

    deployment.identity.lie = lie
    assert master("sessions", "list").reason == "answer_not_trusted"


def test_the_consoles_page_ends_others_and_not_itself(visitor: Visitor, elsewhere: Elsewhere) -> None:
    first, second = elsewhere.begin(), elsewhere.begin()
    page = visitor.get("/page/sessions").text
    assert page.count("this console") == 1
    assert first in page
    assert visitor.send("/end-session", id=first) == {"go": "sessions"}
    page = visitor.get("/page/sessions").text
    assert (first in page, second in page) == (False, True)
    assert visitor.send("/end-session", id=first)["reason"] == "usage"
    assert visitor.send("/end-session", which="others") == {"go": "sessions"}
    page = visitor.get("/page/sessions").text
    assert second not in page
    assert page.count("this console") == 1


def test_a_consoles_session_ends_with_it(master: Person, deployment: Deployment) -> None:
    with console_at(master.home) as visitor:
        assert "this console" in visitor.get("/page/sessions").text
        assert deployment.identity.sessions_left()
    assert deployment.identity.sessions_left() == []


def test_who_has_a_managed_wallet_is_told_so(visitor: Visitor, deployment: Deployment) -> None:
    assert "Sign in with your wallet" in visitor.get("/page/sessions").text
    for operator, state in deployment.states.items():
        deployment.states[operator] = replace(state, wallet_epoch=1)
    page = visitor.get("/page/sessions").text
    assert "held by the signer" in page
    assert 'data-post="/sign-in"' not in page
    assert visitor.send("/sign-in")["reason"] == "policy_refused"


def test_the_other_pages_do_without_the_broker(visitor: Visitor, deployment: Deployment) -> None:
    """Devices and agents are the registry's, audit rows the signer's: no session is needed to see or to change them."""
    for path in ("/v1/session", "/v1/session/challenge", "/v1/sessions"):
        deployment.hooks["broker", path] = lambda _: (503, {"reason": "overloaded", "status": 503})
    for page in ("devices", "agents", "masters", "audit"):
        assert visitor.get(f"/page/{page}").status_code == 200
    assert visitor.get("/page/sessions").status_code == 502
    assert visitor.send("/do", what="freeze") == {"go": "job"}
    assert "Sign and send" in visitor.get("/page/job").text
    assert "frozen" in visitor.agree()
