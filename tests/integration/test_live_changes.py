"""Live changes and last uses against real processes: signer, broker, worker, and a device that listens."""

import threading
import time
from collections.abc import Iterator

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device.agents import freeze, revoke_device, set_scope, unfreeze
from device.broker_session import BrokerSession
from device.credentials import get, put
from device.events import Event, Events, listening
from device.last_use import last_uses
from tests.adversarial.town import OPENROUTER, Member, Town
from tests.unit.device.console_kit import console_at
from tests.unit.device.listening import PATIENCE_S, following


@pytest.fixture
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture
def session(master: Member) -> BrokerSession:
    return BrokerSession(master.device)


def change(events: Iterator[Event]) -> tuple[str, int]:
    """Type and sequence of the next change."""
    for event in events:
        if event.kind:
            assert event.kind == "change", event
            assert event.id is not None
            return event.data.partition('"type": "')[2].partition('"')[0], event.id
    raise AssertionError("the stream ended")


def first_id(events: Iterator[Event]) -> int:
    """Where the stream begins."""
    beat = next(events)
    assert beat.kind == ""
    assert beat.id is not None
    return beat.id


def end_all(session: BrokerSession) -> None:
    """End every session of this user, this one last."""
    told = session.ask("GET", "/v1/sessions")
    assert isinstance(told, dict)
    for found in told["sessions"]:
        session.ask("POST", "/v1/session/end", {"id": found["id"]})


def test_a_change_comes_through_signer_and_broker_and_none_of_others(
    town: Town, master: Member, session: BrokerSession
) -> None:
    other = town.master()
    with listening(session, after=None) as opened:
        events = iter(opened)
        head = first_id(events)
        freeze(other.device)
        freeze(master.device)
        kind, sequence = change(events)
        assert kind == "Freeze"
        assert sequence > head + 1  # the other's lies between
        unfreeze(other.device)
        unfreeze(master.device)
        assert change(events)[0] == "Unfreeze"


def test_whoever_was_away_catches_up_by_the_last_id(town: Town, master: Member, session: BrokerSession) -> None:
    with listening(session, after=None) as opened:
        events = iter(opened)
        first_id(events)
        freeze(master.device)
        _, after = change(events)
    unfreeze(master.device)
    agent = town.agent(master, OPENROUTER)
    with listening(session, after=after) as opened:
        events = iter(opened)
        found = [change(events), change(events)]
    assert [kind for kind, _ in found] == ["Unfreeze", "AddAgent"]
    assert after < found[0][1] < found[1][1]
    assert agent.key.key_hash in master.state().devices


def test_a_broker_that_starts_again_says_what_it_does_not_know(
    town: Town, master: Member, session: BrokerSession
) -> None:
    with listening(session, after=None) as opened:
        after = first_id(iter(opened))
    town.stack.stop("broker")
    freeze(master.device)  # through a worker meanwhile
    town.stack.start("broker")
    town.settle()
    with listening(session, after=after) as opened:
        events = iter(opened)
        told = next(events)
        assert told.kind == "missed"  # so that everything is read anew
        now = first_id(events)
        assert now > after
        unfreeze(master.device)
        assert change(events)[1] > now


def test_a_device_follows_through_a_restart_and_its_sessions_end(town: Town, master: Member) -> None:
    with following(master.device.home.path) as (heard, session):
        heard.until(lambda it: it.hearing == 1)
        assert not heard.states[-1].frozen
        freeze(master.device)
        heard.until(lambda it: it.states[-1].frozen)
        town.stack.stop("broker")
        heard.until(lambda it: "unreachable" in it.reasons)
        unfreeze(master.device)
        town.stack.start("broker")
        heard.until(lambda it: it.hearing == 2 and not it.states[-1].frozen)
        town.settle()
        end_all(session)
        freeze(master.device)  # the stream looks at its session with every change
        heard.until(lambda it: "session_invalid" in it.reasons)
        heard.until(lambda it: it.hearing == 3 and it.states[-1].frozen)
        unfreeze(master.device)


def test_a_stream_ends_with_its_device(town: Town, master: Member) -> None:
    agent = town.agent(master, OPENROUTER)
    with following(agent.device.home.path) as (heard, _):
        heard.until(lambda it: it.hearing == 1)
        revoke_device(master.device, agent.key.key_hash)
        heard.until(lambda it: "device_revoked" in it.reasons)
        assert heard.states[-1].devices[agent.key.key_hash].revoked


def test_a_stream_is_cut_from_another_thread(session: BrokerSession) -> None:
    """Whoever ends the console does not wait for the next beat."""
    opened, ended = threading.Event(), threading.Event()
    found: list[Events] = []

    def read() -> None:
        try:
            with listening(session, after=None) as events:
                found.append(events)
                for _ in events:
                    opened.set()
        except Exception:
            pass
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert opened.wait(PATIENCE_S)
    found[0].cut()
    assert ended.wait(5)  # a beat comes every 15 s
    thread.join()


def test_last_uses_outlive_the_broker_and_are_the_masters_alone(town: Town, master: Member) -> None:
    agent = town.agent(master, OPENROUTER)
    put(master.device, "openrouter", b"value")
    before = int(time.time()) // 60 * 60
    assert get(agent.device, "openrouter").value == b"value"
    session = BrokerSession(master.device)
    uses = last_uses(session)
    assert uses is not None
    assert set(uses) == {master.key.key_hash, agent.key.key_hash}
    assert before <= uses[agent.key.key_hash] <= time.time()
    town.restart("broker")
    assert last_uses(session) == uses
    assert last_uses(BrokerSession(town.master().device)) == {}
    with pytest.raises(KeyServiceError) as caught:
        BrokerSession(agent.device).ask("GET", "/v1/devices/uses")
    assert caught.value.reason is Reason.DEVICE_ROLE_MISSING


def test_an_open_page_is_told_and_shows_agents_their_trails(town: Town, master: Member) -> None:
    agent = town.agent(master, OPENROUTER, label="research", generation=0)
    put(master.device, "openrouter", b"value")
    get(agent.device, "openrouter")
    with console_at(master.device.home.path) as visitor:
        shown = visitor.get("/page/agents").text.partition('data-live="')[2].partition('"')[0].partition(".")[2]
        told = visitor.get("/live").json()
        while told["version"] != shown or told["words"]:
            told = visitor.get(f"/live?tick={told['tick']}").json()
        set_scope(master.device, agent.who.actor, grant=("cred:more",), revoke=())
        while told["version"] == shown:
            told = visitor.get(f"/live?tick={told['tick']}").json()
        assert "cred:more" in visitor.get("/page/agents").text
        trail = visitor.get("/page/audit?whose=tree").text
        assert "of 2 actors are genuine" in trail
        assert '<td data-label="Whose">research/0</td>' in trail
        assert "Last seen by the broker: 20" in visitor.get("/page/agents").text
