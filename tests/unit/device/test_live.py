"""Live changes on the device's side: heard, caught up with, and no more than hints."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.events import MAX_EVENT_BYTES, Event, Events, listening
from device.home import Home
from device.live import LOOK_PAUSE_S, Following
from device.session import Device
from device.show import Show
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.listening import PATIENCE_S, Heard, following


def operator_of(master: Person) -> bytes:
    return bytes.fromhex(master("whoami", "--offline").data["operator_omni"])


def test_each_connection_begins_with_a_look_and_a_change_brings_another(master: Person, deployment: Deployment) -> None:
    with following(master.home) as (heard, _):
        heard.until(lambda it: it.hearing == 1)
        assert [state.frozen for state in heard.states] == [False]
        assert master("freeze").code == 0
        heard.until(lambda it: it.states[-1].frozen)
        assert heard.reasons == []


def test_who_was_cut_off_comes_back_with_the_last_id(master: Person, deployment: Deployment) -> None:
    asked: list[str | None] = []
    stream = deployment.identity._stream

    def remember(path: str, headers: dict[str, str]) -> object:
        asked.append(headers.get("Last-Event-ID"))
        return stream(path, headers)

    deployment.identity._stream = remember  # type: ignore[method-assign, assignment]
    with following(master.home) as (heard, session):
        heard.until(lambda it: it.hearing == 1)
        deployment.identity.sequence = 40
        master("freeze")
        heard.until(lambda it: it.states[-1].frozen)
        ended = session.ask("GET", "/v1/sessions")
        assert isinstance(ended, dict)
        for found in ended["sessions"]:
            session.ask("POST", "/v1/session/end", {"id": found["id"]})
        heard.until(lambda it: it.hearing == 2)
    assert heard.reasons == ["session_invalid"]
    assert asked == [None, "41"]


def test_a_broker_that_is_away_ends_nothing(master: Person, deployment: Deployment) -> None:
    def away(_: bytes) -> tuple[int, object]:
        raise ConnectionError

    deployment.hooks["broker", "/v1/events"] = away
    with following(master.home) as (heard, _):
        heard.until(lambda it: len(it.reasons) >= 3)
        del deployment.hooks["broker", "/v1/events"]
        heard.until(lambda it: it.hearing == 1)
    assert set(heard.reasons) == {"unreachable"}


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.OVERLOADED, Reason.REGISTRY_STALE])
def test_a_refusal_is_told_by_name_and_tried_again(master: Person, deployment: Deployment, reason: Reason) -> None:
    deployment.hooks["broker", "/v1/events"] = lambda _: problem(reason, 429)
    with following(master.home) as (heard, _):
        heard.until(lambda it: len(it.reasons) >= 2)
    assert set(heard.reasons) == {str(reason)}


def test_a_revoked_device_is_told_so_and_shown_what_is(master: Person, deployment: Deployment) -> None:
    with following(master.home) as (heard, _):
        heard.until(lambda it: it.hearing == 1)
        own = bytes.fromhex(master("whoami", "--offline").data["device"])
        assert master("device", "revoke", own.hex()).code == 0
        heard.until(lambda it: "device_revoked" in it.reasons)
        assert heard.states[-1].devices[own].revoked


def test_pauses_grow_and_are_bounded(master: Person, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.hooks["broker", "/v1/events"] = lambda _: problem(Reason.OVERLOADED, 429)
    pauses: list[float] = []
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(master.home))
        device = stack.enter_context(Device.open(home, Show(as_json=True, yes=True)))
        made = Following(device, BrokerSession(device), Heard(), pause_s=1.0)

        def wait(timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            if len(pauses) == 9:
                made._ended.set()
            return False

        monkeypatch.setattr(made._ended, "wait", wait)
        made._run()
    assert all(0.75 * 2**n <= found <= 1.25 * 2**n for n, found in enumerate(pauses[:6], start=1) if 2**n < 60)
    assert max(pauses) <= 75.0


def test_however_often_a_broker_hints_the_registry_is_asked_now_and_then(
    master: Person, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(master.home))
        device = stack.enter_context(Device.open(home, Show(as_json=True, yes=True)))
        made, waits = Following(device, BrokerSession(device), Heard()), list[float]()
        monkeypatch.setattr(made._ended, "wait", waits.append)
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        for _ in range(3):
            made._look()
    assert waits == [0.0, LOOK_PAUSE_S, LOOK_PAUSE_S]


def test_what_broke_a_look_is_looked_at_again_with_the_next_beat(master: Person, deployment: Deployment) -> None:
    path = f"/v1/registry/operators/{operator_of(master).hex()}"
    with following(master.home) as (heard, _):
        heard.until(lambda it: it.hearing == 1)
        looked = threading.Event()

        def refuse(_: bytes) -> tuple[int, object]:
            looked.set()
            return problem(Reason.OVERLOADED, 429)

        before = len(heard.states)
        parts = ("broker", "credentials", "audit")
        deployment.hooks |= {(part, path): refuse for part in parts}
        deployment.identity.changed(operator_of(master), "Freeze")
        assert looked.wait(PATIENCE_S)
        for part in parts:
            del deployment.hooks[part, path]
        heard.until(lambda it: len(it.states) > before)


# What comes over the stream.


class Chunks:
    """A stream of these bytes."""

    status = 200

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    def chunks(self) -> Iterator[bytes]:
        return iter(self._chunks)


def events(*chunks: bytes) -> list[Event]:
    return list(Events(Chunks(*chunks)))  # type: ignore[arg-type]  # a stream's bytes are all that is asked


def test_events_are_read_wherever_they_are_cut() -> None:
    whole = b'id: 7\nevent: change\ndata: {"a":1}\n\nid: 8\n\nevent: end\ndata: x\n\nrest'
    expected = [Event("change", '{"a":1}', 7), Event("", "", 8), Event("end", "x", None)]
    assert events(whole) == expected
    assert events(*(whole[at : at + 1] for at in range(len(whole)))) == expected


@pytest.mark.parametrize("text", [b"x", b"-1", b"1" * 17, b"", "\u0661".encode()])
def test_an_id_that_is_none_is_not_kept(text: bytes) -> None:
    assert events(b"id: " + text + b"\n\n") == [Event("", "", None)]


@pytest.mark.parametrize("chunks", [[b"x" * (MAX_EVENT_BYTES + 1)], [b"x" * 4096] * 4, [b"x" * 9000 + b"\n\n"]])
def test_an_event_without_end_is_not_kept_in_memory(chunks: list[bytes]) -> None:
    with pytest.raises(DeviceError) as caught:
        events(*chunks)
    assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED


@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_none(data: bytes) -> None:
    assert all(isinstance(event, Event) for event in events(data, b"\n\n"))


def test_a_stream_that_ends_begins_a_new_session_only_where_that_is_why(master: Person, deployment: Deployment) -> None:
    with Home.open(master.home) as home, Device.open(home, Show(as_json=True, yes=True)) as device:
        session = BrokerSession(device)
        for reason, kept in ((Reason.RATE_LIMITED, True), (Reason.SESSION_INVALID, False)):
            session.ask("GET", "/v1/sessions")
            refusal = problem(reason, 401)
            deployment.hooks["broker", "/v1/events"] = lambda _, refusal=refusal: refusal  # type: ignore[misc]
            with pytest.raises(KeyServiceError) as caught, listening(session, after=None):
                pass
            assert caught.value.reason is reason
            assert (session._grant is not None) is kept


def test_another_answer_is_no_stream(master: Person, deployment: Deployment) -> None:
    deployment.hooks["broker", "/v1/events"] = lambda _: (204, {})
    with Home.open(master.home) as home, Device.open(home, Show(as_json=True, yes=True)) as device:
        with pytest.raises(DeviceError) as caught, listening(BrokerSession(device), after=None):
            pass
        assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED
