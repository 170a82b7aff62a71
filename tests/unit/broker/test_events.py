"""Live registry changes over a real HTTPS port: who hears what, who catches up, and when it ends."""

import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.proof import PROOF_HEADER
from agentkeys_runtime.registry_client import RegistryChange
from agentkeys_runtime.web.app import create_app
from broker.change_feed import IN_ALL, KEPT, PER_DEVICE, PER_USER, ChangeFeed
from broker.web.event_routes import event_endpoints
from tests.fakes.https_app import https_app, loopback
from tests.fakes.services_kit import Services
from tests.unit.broker.visitor import Visit

BEAT_S = 0.05
MAX_BEATS = 200
PATH = "/v1/events"


def change(sequence: int, operator: bytes, kind: str = "SetScope") -> RegistryChange:
    return RegistryChange(sequence, operator, sha256(sequence.to_bytes(8, "big")), kind)


@dataclass
class Live:
    """A broker's stream at a real port, and the feed behind it. `head` is what the follower knows."""

    services: Services
    feed: ChangeFeed
    origin: str
    trust: ssl.SSLContext
    head: int = 10

    @property
    def operator(self) -> bytes:
        return self.services.world.user.operator

    def visit(self, key: DeviceKey | None = None) -> Visit:
        visit = Visit(self.services.broker, self.services.world.clock, key or self.services.world.user.master)
        assert visit.sign_in().status_code == 200
        return visit

    def publish(self, operator: bytes | None = None, kind: str = "SetScope") -> int:
        self.head += 1
        self.feed.publish(change(self.head, operator or self.operator, kind))
        return self.head

    def headers(self, visit: Visit, **more: str) -> dict[str, str]:
        proof = visit.proof("request", "GET", PATH, b"")
        return {PROOF_HEADER: proof, "Authorization": f"Bearer {visit.token}", **more}

    @contextmanager
    def stream(self, visit: Visit, **more: str) -> Iterator["Reader"]:
        with (
            httpx.Client(verify=self.trust, timeout=10, trust_env=False) as client,
            client.stream("GET", self.origin + PATH, headers=self.headers(visit, **more)) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
            yield Reader(answer)


class Reader:
    """Reads events one by one."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()

    def block(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self._lines:
            if not line:
                return found
            name, _, value = line.partition(": ")
            found[name] = value
        raise EOFError

    def event(self) -> tuple[str, Any]:
        """The next event that is no beat. A stream that only beats is told from one that has something to tell."""
        for _ in range(MAX_BEATS):
            found = self.block()
            if "event" in found:
                return found["event"], json.loads(found["data"])
        raise AssertionError("nothing but beats")

    def is_over(self) -> bool:
        return next(self._lines, None) is None


@pytest.fixture
def live(services: Services) -> Iterator[Live]:
    feed = ChangeFeed()
    made: Live
    endpoints = event_endpoints(feed=feed, sessions=services.sessions, head=lambda: made.head, beat_s=BEAT_S)
    listener = loopback()
    app = create_app("test", endpoints, clock=services.world.clock.now)
    with https_app(app, listener, "localhost") as trust:
        made = Live(services, feed, f"https://localhost:{listener.getsockname()[1]}", trust)
        yield made


def test_a_change_is_told_when_it_happens(live: Live) -> None:
    with live.stream(live.visit()) as reader:
        assert reader.answer.headers["content-type"].startswith("text/event-stream")
        assert reader.answer.headers["cache-control"] == "no-store"
        assert reader.block() == {"id": "10"}
        sequence = live.publish(kind="RevokeDevice")
        told = {"digest": sha256(sequence.to_bytes(8, "big")).hex(), "sequence": sequence, "type": "RevokeDevice"}
        assert reader.event() == ("change", told)


def test_nobody_hears_of_another_user(live: Live) -> None:
    with live.stream(live.visit()) as reader:
        reader.block()
        live.publish(operator=bytes(32))
        mine = live.publish()
        assert reader.event()[1]["sequence"] == mine


def test_a_silent_stream_beats(live: Live) -> None:
    with live.stream(live.visit()) as reader:
        assert [reader.block() for _ in range(3)] == [{"id": "10"}] * 3


def test_whoever_comes_back_catches_up(live: Live) -> None:
    visit = live.visit()
    first, other, last = live.publish(), live.publish(operator=bytes(32)), live.publish()
    with live.stream(visit, **{"Last-Event-ID": str(first)}) as reader:
        assert reader.event()[1]["sequence"] == last
        assert reader.block() == {"id": str(last)}
    assert first < other < last


@pytest.mark.parametrize("after", ["3", "999"])
def test_whoever_may_have_missed_something_is_told_so(live: Live, after: str) -> None:
    """From before this broker's time, or of a registry that has gone back to a backup since."""
    last = live.publish()
    with live.stream(live.visit(), **{"Last-Event-ID": after}) as reader:
        assert reader.event() == ("missed", {"sequence": last})
        assert reader.block() == {"id": str(last)}


@pytest.mark.parametrize("after", ["x", "-1", "1" * 17, "1 2"])
def test_another_event_id_is_refused(live: Live, after: str) -> None:
    with live.stream(live.visit(), **{"Last-Event-ID": after}) as reader:
        assert reader.answer.json()["reason"] == "invalid_encoding"


def test_without_a_session_nothing_is_told(live: Live) -> None:
    visit = live.visit()
    visit.token = "none"
    with live.stream(visit) as reader:
        assert reader.answer.json()["reason"] == "session_invalid"


def test_a_stream_ends_with_its_session(live: Live) -> None:
    visit = live.visit()
    ended = visit.sessions().json()["sessions"][0]["id"]
    with live.stream(visit) as reader:
        reader.block()
        visit.ask("request", "POST", "/v1/session/end", json.dumps({"id": ended}).encode())
        assert reader.event() == ("end", {"reason": "session_invalid"})
        assert reader.is_over()


def test_a_stream_ends_when_its_device_is_revoked(live: Live) -> None:
    visit = live.visit()
    with live.stream(visit) as reader:
        reader.block()
        live.services.world.registry.bend_device(visit.key.key_hash, revoked=True)
        live.publish(kind="RevokeDevice")
        assert reader.event() == ("end", {"reason": "device_revoked"})
        assert reader.is_over()


def test_a_stream_ends_while_the_registry_is_not_heard(live: Live) -> None:
    with live.stream(live.visit()) as reader:
        reader.block()
        live.services.followed.failing = Reason.REGISTRY_STALE
        assert reader.event() == ("end", {"reason": "registry_stale"})


def test_a_user_has_only_so_many_streams_and_gets_them_back(live: Live) -> None:
    visit = live.visit()
    held = [live.feed.watch(live.operator, bytes([number]) * 32, is_master=True) for number in range(PER_USER - 1)]
    with live.stream(visit) as reader:
        reader.block()
        with live.stream(visit) as refused:
            assert refused.answer.json()["reason"] == "rate_limited"
    held.pop().close()
    with live.stream(visit) as reader:
        assert reader.block() == {"id": "10"}


def test_a_device_has_only_so_many_streams(live: Live) -> None:
    agent, master = live.visit(live.services.world.user.agent), live.visit()
    held = [live.feed.watch(live.operator, agent.key.key_hash, is_master=False) for _ in range(PER_DEVICE)]
    with live.stream(agent) as refused:
        assert refused.answer.json()["reason"] == "rate_limited"
    with live.stream(master) as reader:
        assert reader.block() == {"id": "10"}
    assert len(held) == PER_DEVICE


def test_agents_together_leave_masters_their_streams(live: Live) -> None:
    for number in range(PER_USER - PER_DEVICE):
        live.feed.watch(live.operator, bytes([number]) * 32, is_master=False)
    with live.stream(live.visit(live.services.world.user.agent)) as refused:
        assert refused.answer.json()["reason"] == "rate_limited"
    with live.stream(live.visit()) as reader:
        assert reader.block() == {"id": "10"}


def test_a_stream_that_was_left_gives_its_place_back(live: Live) -> None:
    gone = threading.Event()
    forget = live.feed._forget

    def forgotten(watch: Any) -> None:
        forget(watch)
        gone.set()

    live.feed._forget = forgotten  # type: ignore[method-assign]  # to be told, rather than to wait and look
    with live.stream(live.visit()) as reader:
        reader.block()
    assert gone.wait(10)
    assert live.feed._watches == set()


def test_all_users_together_have_only_so_many() -> None:
    feed = ChangeFeed()
    held = [feed.watch(number.to_bytes(32, "big"), bytes(32), is_master=True) for number in range(IN_ALL)]
    with pytest.raises(KeyServiceError) as caught:
        feed.watch(bytes(32), bytes(32), is_master=True)
    assert caught.value.reason is Reason.OVERLOADED
    held[0].close()
    held[0].close()
    feed.watch(bytes(32), bytes(32), is_master=True)


def test_few_users_never_have_all_streams() -> None:
    """As they run out, each user may hold only a part of what is left: the last ones are for those who have none."""
    feed = ChangeFeed()

    def opened(user: int) -> bool:
        try:
            feed.watch(user.to_bytes(32, "big"), secrets.token_bytes(32), is_master=True)
        except KeyServiceError:
            return False
        return True

    greedy = sum(opened(user) for user in range(IN_ALL // PER_USER) for _ in range(PER_USER))
    left = IN_ALL - greedy
    assert left >= PER_USER
    assert all(opened(1000 + user) for user in range(left))
    assert not opened(2000)


def test_only_so_many_changes_are_kept_and_a_gap_forgets_them() -> None:
    feed, mine = ChangeFeed(), bytes(32)
    for sequence in range(1, KEPT + 3):
        feed.publish(change(sequence, mine))
    assert feed.since(mine, 1, head=KEPT + 2).missed
    caught = feed.since(mine, 2, head=KEPT + 2)
    assert (len(caught.changes), caught.missed) == (KEPT, False)
    feed.publish(change(KEPT + 9, mine))
    assert feed.since(mine, KEPT, head=KEPT + 9).missed
    assert [found.sequence for found in feed.since(mine, KEPT + 8, head=KEPT + 9).changes] == [KEPT + 9]


def test_what_the_follower_knows_before_the_first_change_is_no_gap() -> None:
    feed = ChangeFeed()
    assert feed.since(bytes(32), 7, head=7) == ((), 7, False)
    assert feed.since(bytes(32), 6, head=7) == ((), 7, True)
