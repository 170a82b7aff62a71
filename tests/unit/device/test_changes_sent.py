"""Registry changes past parts that swallow, lie, or hang: done on the signed row alone."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentkeys_core.audit import OpKind
from agentkeys_core.changes import OrderedChange, SignedChange
from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import Reason
from agentkeys_core.ids import child_omni
from agentkeys_core.registry import AGENT
from device.change_desk import CHANGE_LIFE_S
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply
from tests.unit.device.ledger import Ledger

CHANGES = "/v1/registry/changes"
Lie = Callable[[bytes], Reply | None]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.change_desk.CATCH_UP_S", 0.01)


def swallow(_: bytes) -> Reply:
    raise ConnectionError


def refuse(_: bytes) -> Reply:
    return problem(Reason.CHANGE_NOT_AUTHORISED)


def pretend(_: bytes) -> Reply:
    return 200, {"row": Ledger().of_change(bytes(32), bytes(32), OpKind.DEVICE_REVOKE).to_json()}


def empty(_: bytes) -> Reply:
    return 200, {}


@pytest.mark.parametrize("lie", [swallow, refuse, pretend, empty])
@pytest.mark.parametrize("command", ["revoke", "scope", "freeze"])
def test_broker_that_swallows_changes_is_passed_by(
    master: Person, agent: Person, deployment: Deployment, lie: Lie, command: str
) -> None:
    deployment.hooks["broker", CHANGES] = lie
    device = agent("whoami", "--offline").data["device"]
    words = {
        "revoke": ["device", "revoke", device],
        "scope": ["scope", "set", "research", "--grant", "cred:more"],
        "freeze": ["freeze"],
    }[command]
    done = master(*words)
    assert done.code == 0, done.err
    assert done.data["done"] is True


def test_revocation_is_not_done_without_a_row(master: Person, agent: Person, deployment: Deployment) -> None:
    for part in ("broker", "credentials", "audit"):
        deployment.hooks[part, CHANGES] = pretend
    device = agent("whoami", "--offline").data["device"]
    outcome = master("device", "revoke", device)
    assert (outcome.code, outcome.reason) == (6, "row_not_trusted")
    assert outcome.out == ""


def row_about(
    deployment: Deployment, *, kind: OpKind | None = None, digest: bytes | None = None, operator: bytes | None = None
) -> Lie:
    """Answers with a genuine row that is about something else."""

    def lie(body: bytes) -> Reply:
        signed = SignedChange.parse(body)
        told = digest or signed.digest(deployment.profile.domain)
        row = deployment.ledger.of_change(operator or signed.change.operator_omni, told, kind or OpKind.FREEZE)
        return 200, {"row": row.to_json()}

    return lie


@pytest.mark.parametrize(
    "words",
    [{"kind": OpKind.UNFREEZE}, {"digest": b"\1" * 32}, {"operator": b"\1" * 32}],
    ids=["kind", "change", "operator"],
)
def test_genuine_row_about_something_else_is_no_receipt(
    master: Person, deployment: Deployment, words: dict[str, Any]
) -> None:
    for part in ("broker", "credentials", "audit"):
        deployment.hooks[part, CHANGES] = row_about(deployment, **words)
    outcome = master("freeze")
    assert (outcome.code, outcome.reason) == (6, "row_not_trusted")


def test_right_genuine_row_is_a_receipt(master: Person, deployment: Deployment) -> None:
    deployment.hooks["broker", CHANGES] = row_about(deployment)
    assert master("freeze").code == 0


def read_path(deployment: Deployment) -> str:
    return f"/v1/registry/operators/{next(iter(deployment.states)).hex()}"


def with_counters(deployment: Deployment, **members: object) -> Lie:
    told: dict[str, Any] = next(iter(deployment.states.values())).to_json()
    return lambda _: (200, {**told, **members})


@pytest.mark.parametrize("nonce", [0, 7], ids=["lower", "higher"])
def test_broker_that_lies_about_the_nonce_holds_up_nothing(
    master: Person, agent: Person, deployment: Deployment, nonce: int
) -> None:
    deployment.hooks["broker", read_path(deployment)] = with_counters(deployment, nonce=nonce)
    signed: list[int] = []

    def keep(body: bytes) -> None:
        change = SignedChange.parse(body).change
        assert isinstance(change, OrderedChange)
        signed.append(change.nonce)

    deployment.hooks["broker", CHANGES] = keep
    done = master("scope", "set", "research/0", "--grant", "cred:more")
    assert done.code == 0, done.err
    assert nonce not in signed or nonce < 7  # nothing is ever signed for a nonce that is yet to come


def test_both_are_asked_and_a_difference_is_told(master: Person, agent: Person, deployment: Deployment) -> None:
    told: dict[str, Any] = next(iter(deployment.states.values())).to_json()
    told["devices"] = [entry for entry in told["devices"] if entry["tier"] == 1]
    deployment.hooks["broker", read_path(deployment)] = lambda _: (200, told)
    outcome = master("device", "list")
    assert "different things" in outcome.err


def test_an_agent_keeps_no_actor_that_one_part_alone_tells(
    master: Person, agent: Person, deployment: Deployment
) -> None:
    """The lie would outlive whoever told it: every later request would name that actor."""
    operator = bytes.fromhex(master("whoami").data["operator_omni"])
    told: dict[str, Any] = next(iter(deployment.states.values())).to_json()
    for entry in told["devices"]:
        if entry["tier"] == AGENT:
            entry |= {"label": "other", "actor_omni": hex_encode(child_omni(operator, "other", 0))}
    deployment.hooks["broker", read_path(deployment)] = lambda _: (200, told)
    outcome = agent("cred", "list")
    assert (outcome.code, outcome.reason) == (6, "registry_views_differ")
    deployment.hooks.clear()
    assert agent("cred", "list").code == 0


def test_reads_go_on_past_a_broker_that_is_gone(master: Person, deployment: Deployment) -> None:
    deployment.hooks["broker", read_path(deployment)] = swallow
    assert master("device", "list").code == 0
    deployment.hooks["credentials", read_path(deployment)] = swallow
    assert master("device", "list").code == 0  # the audit worker answers
    deployment.hooks["audit", read_path(deployment)] = swallow
    outcome = master("device", "list")
    assert (outcome.code, outcome.reason) == (5, "unreachable")


@pytest.mark.parametrize("told", [{}, {"devices": 1}, [], {"devices": [{}]}])
def test_malformed_registry_answers_are_not_trusted(master: Person, deployment: Deployment, told: object) -> None:
    for part in ("broker", "credentials", "audit"):
        deployment.hooks[part, read_path(deployment)] = lambda _: (200, told)
    outcome = master("device", "list")
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")


def test_state_of_another_operator_is_not_trusted(master: Person, deployment: Deployment) -> None:
    told: dict[str, Any] = next(iter(deployment.states.values())).to_json()
    told["operator_omni"] = "00" * 32
    for entry in told["devices"]:
        entry["operator_omni"] = "00" * 32
    for part in ("broker", "credentials", "audit"):
        deployment.hooks[part, read_path(deployment)] = lambda _: (200, told)
    assert master("device", "list").reason == "answer_not_trusted"


def test_changes_live_five_minutes(master: Person, agent: Person, deployment: Deployment) -> None:
    deadlines: list[int] = []

    def keep(body: bytes) -> None:
        change = SignedChange.parse(body).change
        assert isinstance(change, OrderedChange)
        deadlines.append(change.deadline)

    deployment.hooks["broker", CHANGES] = keep
    assert master("scope", "set", "research", "--grant", "cred:y").code == 0
    assert 0 < deadlines[0] - time.time() <= CHANGE_LIFE_S


def test_what_is_signed_is_shown(master: Person, agent: Person) -> None:
    shown = master("scope", "set", "research", "--grant", "cred:y", as_json=False)
    assert "signing: Change what an agent may use" in shown.err
    assert "grant: cred:y" in shown.err
    assert "digest: " in shown.err


def test_nobody_to_ask_means_nothing_is_signed(
    master: Person, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from device.cli import run

    monkeypatch.setattr("sys.stdin", io.StringIO())
    deployment.seen.clear()
    master.capture.readouterr()
    assert run(["--home", str(master.home), "--json", "freeze"]) == 2
    assert json.loads(master.capture.readouterr().err)["error"]["reason"] == "usage"
    assert all(path != CHANGES for _, path in deployment.seen)


def test_part_that_is_a_moment_behind_is_waited_for(master: Person, agent: Person, deployment: Deployment) -> None:
    told: dict[str, Any] = next(iter(deployment.states.values())).to_json()
    late = [(200, {**told, "nonce": told["nonce"] - 1})]
    deployment.hooks["credentials", read_path(deployment)] = lambda _: late.pop() if late else None
    signed: list[int] = []

    def keep(body: bytes) -> None:
        change = SignedChange.parse(body).change
        assert isinstance(change, OrderedChange)
        signed.append(change.nonce)

    deployment.hooks["broker", CHANGES] = keep
    done = master("scope", "set", "research/0", "--grant", "cred:more")
    assert done.code == 0
    assert "different things" not in done.err
    assert signed == [told["nonce"]]  # one gesture, not two
