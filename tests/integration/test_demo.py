"""`make demo` and `make up` as a newcomer runs them, and what they do when something is wrong."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import demo.__main__ as command
from demo.attacker import LET_THROUGH, https
from demo.drills import GROUPS, Drill, Group
from demo.proxy import Detour
from demo.screen import Screen

CHECKOUT = Path(__file__).parents[2]
#: Everybody's tests share the machine; alone it takes below a minute.
LIMIT_S = 500
#: Each issue's drill, by a word of its title and the reason that it must get.
PROMISED = (
    ("without any certificate", "refused by TLS"),
    ("bearer token alone", "signer_unreachable"),
    ("/dev/sign-message", "gone (410)"),
    ("/dev/derive-address", "gone (410)"),
    ("daemon certificate, all", "role_not_allowed"),
    ("nobody registered", "device_unknown"),
    ("naming the victim's device", "device_signature_invalid"),
    ("presented by the broker", "sealed to the device"),
    ("with the broker's certificate", "role_not_allowed"),
    ("a sign-in with the agent's wallet", "device_signature_invalid"),
    ("AddAgent", "change_not_authorised"),
    ("Enrol", "change_not_authorised"),
    ("Unfreeze", "change_not_authorised"),
    ("revocation swallowed", "device_revoked"),
    ("another service", "version_not_current"),
    ("another owner: Bob", "version_not_current"),
    ("another class: a memory", "class_mismatch"),
    ("replayed", "cap_replayed"),
    ("older version", "version_not_current"),
    ("swapped value", "row_not_trusted, exit 6"),
    ("Pair names Alice", "change_not_authorised"),
    ("naming another operator", "actor_binding_mismatch"),
    ("expired cap", "cap_expired"),
    ("a device revoked", "device_revoked"),
    ("stale registry", "registry_stale"),
    ("journal", "journal_unavailable"),
)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


@contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "demo", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"it ended without saying {words!r}:\n{seen}")


def pids_in(text: str) -> list[int]:
    line = next(line for line in text.splitlines() if "services started" in line)
    return [int(pid) for pid in re.findall(r"(?:issuer|signer|broker|credentials|audit) (\d+)", line)]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.timeout(LIMIT_S)
def test_the_demo_shows_the_main_job_and_refuses_every_attack(tmp_path: Path) -> None:
    every_byte = tmp_path / "credential"
    every_byte.write_bytes(bytes(range(256)) * 256)
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--credential", str(every_byte)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "65,536 bytes, byte for byte" in done.stdout
    assert "FAIL" not in done.stdout
    assert "\x1b" not in done.stdout
    assert len(re.findall(r"^  ok +\d+\.\d\d s  ", done.stdout, re.MULTILINE)) == 16 + sum(
        len(group.drills) for group in GROUPS
    )
    pids = pids_in(done.stdout)
    assert len(pids) == 5
    assert not [pid for pid in pids if is_running(pid)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "credential"]


def test_every_promised_attempt_is_in_the_list() -> None:
    drills = [drill for group in GROUPS for drill in group.drills]
    for words, reason in PROMISED:
        assert any(words in drill.title and drill.expected == reason for drill in drills), words
    names = [drill.name for drill in drills]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "is empty"), (bytes(65_537), "more than 65,536 bytes")],
)
def test_a_credential_that_cannot_be_stored_is_refused_before_anything_starts(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "credential"
    if content is not None:
        file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--credential", str(file)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "build").exists()


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as process:
        pids = pids_in(read_until(process, "services started"))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not [pid for pid in pids if is_running(pid)]


@pytest.mark.timeout(LIMIT_S)
def test_up_says_how_to_use_the_stack_and_it_works_that_way(tmp_path: Path) -> None:
    with running(tmp_path, "up") as process:
        text = read_until(process, "Ctrl-C ends it")
        pids = pids_in(text)
        agentkeys = next(line for line in text.splitlines() if line.endswith("cred list")).split()
        listed = subprocess.run(
            [sys.executable, "-m", "device", *agentkeys[1:]], cwd=tmp_path, env=environment(), check=False
        )
        assert listed.returncode == 0
        health = next(line for line in text.splitlines() if line.endswith("/healthz")).split()
        with https(tmp_path / health[-2]) as client:
            assert client.get(health[-1]).json()["registry"] == "fresh"
        second = subprocess.run(
            [sys.executable, "-m", "demo", "up"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 2
        assert "another run works in" in second.stderr
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert not [pid for pid in pids if is_running(pid)]


def outcome_of(monkeypatch: pytest.MonkeyPatch, folder: Path, drill: Drill) -> int:
    monkeypatch.chdir(folder)
    for name in ("DEPLOYMENT", "PEOPLE", "MAIN_JOB"):
        monkeypatch.setattr(command, name, ())
    monkeypatch.setattr(command, "GROUPS", (Group(title="one", drills=(drill,)),))
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return command.demonstrate(b"value", "a test")
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def crash(_: object) -> str:
    raise httpx.ConnectError("nobody there")


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        (lambda _: "device_unknown", 0),
        (lambda _: LET_THROUGH, 1),
        (lambda _: "device_revoked", 1),
        (crash, 1),
    ],
)
def test_the_exit_code_tells_of_any_attempt_that_did_not_end_as_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], attempt, code: int
) -> None:
    drill = Drill(title="an attempt", expected="device_unknown", attempt=attempt)
    assert outcome_of(monkeypatch, tmp_path, drill) == code
    assert ("FAIL" in capsys.readouterr().out) is bool(code)


def test_colour_goes_to_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, colour in ((Terminal(), True), (io.StringIO(), False)):
        Screen(out).attempt("an attempt", "refused", lambda: "refused")
        assert ("\x1b[32m" in out.getvalue()) is colour


def test_a_line_that_is_taken_back_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    Screen(out).attempt("an attempt whose title is longer than the terminal is wide", "refused", lambda: "refused")
    assert len(out.getvalue().partition("\r")[0]) < 40


def test_a_detour_passes_on_holds_and_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Detour() as detour:
        detour.target = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", detour.port)) as client:
            far, _ = server.accept()
            with far:
                client.sendall(b"one")
                assert far.recv(16) == b"one"
                detour.hold()
                client.sendall(b"two")
                far.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    far.recv(16)
                detour.pass_on()
                far.settimeout(5)
                assert far.recv(16) == b"two"
                detour.refuse()
                assert far.recv(16) == b""
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", detour.port), timeout=5) as late:
            assert late.recv(16) == b""
        assert time.monotonic() - started < 5
