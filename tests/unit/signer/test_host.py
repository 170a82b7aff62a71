import json
import os
import socket
import stat
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret
from signer import hostsocket
from signer.adapters.committer import Committer
from signer.adapters.database import initialise, open_state
from signer.gate import Gate
from signer.hostactions import CLOCK_RESET_WAIT_S, HostActions
from signer.hostsocket import HostSocket, HostSocketError, ask_host
from signer.journal import verify_journal
from signer.keyring import Keyring
from signer.ports import VaultError, VaultProblem
from signer.rotation import RotationError, RotationProblem
from tests.fakes.clock import StillClock


def nothing() -> dict[str, object]:
    return {}


@pytest.fixture
def serve(tmp_path: Any) -> Any:
    made = []

    def start(handlers: Any, path: Any = tmp_path / "host.sock") -> Any:
        host = HostSocket(path, handlers)
        host.start()
        made.append(host)
        return path

    yield start
    for host in made:
        host.close()


def raw(path: Any, data: Any) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return json.loads(connection.makefile("rb").readline())


def test_answers_a_command(serve: Any) -> None:
    path = serve({"status": lambda: {"serving": True}})
    assert ask_host(path, "status") == {"ok": True, "serving": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_its_own_account_is_answered(serve: Any, monkeypatch: Any) -> None:
    path = serve({"status": nothing})
    monkeypatch.setattr("signer.hostsocket.os.geteuid", lambda: 12_345)
    if os.getuid() == 0:  # root may always ask
        assert ask_host(path, "status")["ok"]
        monkeypatch.setattr(
            hostsocket, "_UCRED", type("Other", (), {"size": 12, "unpack": lambda _, raw: (1, 777, 7)})()
        )
    with pytest.raises(HostSocketError):
        ask_host(path, "status")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"command":"reboot"}\n', Reason.NOT_IMPLEMENTED),
        (b'{"command":["seal"]}\n', Reason.NOT_IMPLEMENTED),
        (b'{"command":"status","x":1}\n', Reason.UNKNOWN_FIELDS),
        (b'{"command":"status","command":"seal"}\n', Reason.INVALID_BODY),
        (b"\n", Reason.INVALID_BODY),
        (b"", Reason.INVALID_BODY),
        (b"[]\n", Reason.INVALID_BODY),
        (b"\xff\n", Reason.INVALID_BODY),
        (b"x" * 5000, Reason.TOO_LARGE),
    ],
)
def test_bad_commands_have_a_reason(serve: Any, line: Any, reason: Any) -> None:
    path = serve({"status": nothing, "seal": nothing})
    assert raw(path, line) == {"ok": False, "reason": reason}
    assert ask_host(path, "status")["ok"]


def test_a_handler_that_breaks_says_nothing(serve: Any) -> None:
    def fail() -> None:
        raise ValueError("a secret")

    assert ask_host(serve({"status": fail}), "status") == {"ok": False, "reason": "internal"}


def test_a_refused_host_action_has_its_name(serve: Any) -> None:
    def refuse() -> None:
        raise RotationError(RotationProblem.TOO_SOON, "wait")

    def broken() -> None:
        raise VaultError(VaultProblem.CANNOT_OPEN, "the file was changed")

    path = serve({"rotate": refuse, "vault": broken})
    assert ask_host(path, "rotate") == {"ok": False, "reason": "too_soon", "detail": "wait"}
    answer = ask_host(path, "vault")
    assert (answer["ok"], answer["reason"]) == (False, "cannot_open")


def test_a_command_that_waits_keeps_nobody_from_sealing(serve: Any) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def wait() -> dict[str, object]:
        asked.set()
        assert go_on.wait(10)
        return {}

    path = serve({"rotate-commit": wait, "seal": lambda: {"sealed": True}})
    slow = threading.Thread(target=ask_host, args=(path, "rotate-commit"), kwargs={"timeout_s": 20.0})
    slow.start()
    try:
        assert asked.wait(10)
        assert ask_host(path, "seal") == {"ok": True, "sealed": True}
    finally:
        go_on.set()
        slow.join()


def test_replaces_a_socket_that_a_killed_signer_left(serve: Any, tmp_path: Any) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "host.sock"))
    assert ask_host(serve({"status": nothing}), "status")["ok"]


def test_serves_from_folders_with_long_names(serve: Any, tmp_path: Any) -> None:
    folder = tmp_path / ("a" * 120)
    folder.mkdir()
    before = os.getcwd()
    path = serve({"status": nothing}, folder / "host.sock")
    assert ask_host(path, "status")["ok"]
    assert os.getcwd() == before


def test_says_where_nobody_answers(tmp_path: Any) -> None:
    with pytest.raises(HostSocketError):
        ask_host(tmp_path / "none.sock", "status")
    with pytest.raises(HostSocketError):
        HostSocket(tmp_path / "no folder" / "host.sock", {})


class State:
    def __init__(self, tmp_path: Any) -> None:
        self.keyring = Keyring({1: Secret.copy_of(b"k" * 32)})
        initialise(tmp_path / "state.db", registry_id="ab" * 32, keyring=self.keyring, now=1_764_000_000)
        self.clock = StillClock()
        self.database = open_state(tmp_path / "state.db", self.keyring)
        self.committer = Committer(self.database, self.keyring, self.clock)
        self.gate = Gate()

    def actions(self, wait_s: Any = CLOCK_RESET_WAIT_S) -> Any:
        return HostActions(
            keyring=self.keyring,
            journal=self.committer,
            gate=self.gate,
            facts=lambda: {"registry_id": "ab" * 32},
            clock_reset_wait_s=wait_s,
        )

    def lines(self) -> Any:
        with self.database.reading() as conn:
            return [json.loads(line)["method"] for (line,) in conn.execute("SELECT line FROM journal ORDER BY seq")]

    def close(self) -> None:
        self.committer.close()
        self.database.close()


@pytest.fixture
def state(tmp_path: Any) -> Any:
    made = State(tmp_path)
    yield made
    made.close()


def test_status_tells_nothing_secret_and_is_journalled(state: Any) -> None:
    assert state.actions().status() == {
        "registry_id": "ab" * 32,
        "epochs_held": [1],
        "sealed": False,
        "serving": True,
        "waiting_s": 0,
        "rewrap_window_s": 0,
    }
    assert state.lines()[-1] == "status"


def test_seal_wipes_every_process_and_is_journalled_first(state: Any) -> None:
    actions = state.actions()
    assert actions.seal() == {"sealed": True}
    assert state.lines()[-1] == "seal"
    assert state.gate.sealed
    assert state.keyring.sealed
    assert actions.status()["epochs_held"] == []
    assert not actions.status()["serving"]


def test_seal_works_where_the_journal_does_not(state: Any) -> None:
    state.committer.close()
    assert state.actions().seal() == {"sealed": True}
    assert state.keyring.sealed


def test_a_clock_reset_waits_out_the_longest_window(state: Any) -> None:
    state.clock.forward(10_000)
    state.committer.run(lambda _: None)
    state.clock.forward(-9_000)
    with pytest.raises(KeyServiceError) as caught:
        state.committer.run(lambda _: None)
    assert caught.value.reason is Reason.CLOCK_BEHIND
    actions = state.actions(wait_s=0.3)
    assert actions.clock_reset() == {"wait_s": 0}
    with pytest.raises(KeyServiceError) as caught:
        state.gate.check()
    assert caught.value.reason is Reason.CLOCK_BEHIND
    with pytest.raises(KeyServiceError):
        state.committer.run(lambda _: None)
    deadline = time.monotonic() + 10
    while "reset-clock" not in state.lines():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    state.committer.run(lambda _: None)
    actions.close()
    verify_journal(state.database.reader(), state.keyring)


def test_only_one_clock_reset_at_a_time_and_a_stop_gives_it_up(state: Any) -> None:
    actions = state.actions()
    actions.clock_reset()
    with pytest.raises(KeyServiceError) as caught:
        actions.clock_reset()
    assert caught.value.reason is Reason.CLOCK_BEHIND
    actions.close()
    assert "reset-clock" not in state.lines()
    assert not [thread for thread in threading.enumerate() if thread.name == "clock-reset"]


def test_a_reset_that_cannot_be_written_is_no_crash(state: Any) -> None:
    actions = state.actions(wait_s=0.05)
    with closing(state.database.connect()) as other:
        other.execute("BEGIN IMMEDIATE")
        actions.clock_reset()
        actions._reset.join(20)
        other.execute("ROLLBACK")
    assert not actions._reset.is_alive()
    assert "reset-clock" not in state.lines()


def test_the_wait_is_longer_than_any_request_lives() -> None:
    assert CLOCK_RESET_WAIT_S >= 300 + 60


def test_a_rewrap_window_is_journalled_and_bounded(state: Any) -> None:
    actions = state.actions()
    assert actions.rewrap_window() == {"rewrap_window_s": 0}
    assert actions.rewrap_window(minutes=240) == {"rewrap_window_s": 240 * 60}
    assert actions.rewrap_window(minutes=1) == {"rewrap_window_s": 60}
    state.gate.check_window()
    assert actions.rewrap_window(minutes=0) == {"rewrap_window_s": 0}
    assert state.lines()[1:] == ["rewrap-window-open", "rewrap-window-open", "rewrap-window-close"]
    for minutes in (-1, 241, 10**9, 1.5, "1", True, [1]):
        with pytest.raises(KeyServiceError) as caught:
            actions.rewrap_window(minutes=minutes)
        assert caught.value.reason is Reason.INVALID_BODY
    assert state.gate.window_s == 0


def test_a_window_that_cannot_be_journalled_stays_closed(state: Any) -> None:
    actions = state.actions()
    actions.rewrap_window(minutes=1)
    state.committer.close()
    assert actions.rewrap_window(minutes=0) == {"rewrap_window_s": 0}, "closing needs nobody's leave"
    with pytest.raises(KeyServiceError) as caught:
        actions.rewrap_window(minutes=1)
    assert caught.value.reason is Reason.JOURNAL_UNAVAILABLE
    assert state.gate.window_s == 0


@pytest.mark.parametrize("arguments", [{"hours": 1}, {"minutes": 1, "hours": 1}, [1], None, "x"])
def test_arguments_of_another_command_are_refused(serve: Any, arguments: Any) -> None:
    def window(minutes: object = None) -> dict[str, object]:
        return {"minutes": minutes}

    path = serve({"window": window})
    line = json.dumps({"arguments": arguments, "command": "window"}).encode() + b"\n"
    assert raw(path, line) == {"ok": False, "reason": "invalid_body"}
    assert ask_host(path, "window", minutes=3) == {"ok": True, "minutes": 3}
    assert ask_host(path, "window") == {"ok": True, "minutes": None}
