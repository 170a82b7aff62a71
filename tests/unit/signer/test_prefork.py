"""Children of this very test process; each test ends what it starts."""

import os
import signal
import subprocess
import sys
import time
from textwrap import dedent
from typing import Any

import pytest


def run(script: Any, **options: Any) -> Any:
    return subprocess.run(
        [sys.executable, "-c", dedent(script)], capture_output=True, text=True, timeout=60, check=False, **options
    )


HEAD = """
import os, signal, sys, time
from signer.prefork import Children, ChildError, StopFlag
stop = StopFlag(); stop.install()
children = Children()
"""


def test_children_report_serve_and_stop() -> None:
    done = run(
        HEAD
        + """
def serve(report):
    own = StopFlag(); own.install(); report(); own.wait()
children.fork(3, serve)
children.wait_ready()
print(len(children.running))
os.kill(os.getpid(), signal.SIGTERM)
children.supervise(stop)
children.end()
print(len(children.running))
"""
    )
    assert (done.stdout.split(), done.returncode) == (["3", "0"], 0), done.stderr


@pytest.mark.parametrize("fault", ["raise ValueError('x')", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_child_that_does_not_start_is_an_error(fault: Any) -> None:
    done = run(
        HEAD
        + f"""
def serve(report):
    {fault}
children.fork(2, serve)
try:
    children.wait_ready()
except ChildError as error:
    print("error")
finally:
    children.end()
"""
    )
    assert done.stdout.split() == ["error"]


def test_a_child_that_ends_by_itself_is_an_error() -> None:
    done = run(
        HEAD
        + """
def serve(report):
    own = StopFlag(); own.install(); report(); time.sleep(0.2)
children.fork(1, serve)
children.wait_ready()
try:
    children.supervise(stop)
except ChildError:
    print("error")
finally:
    children.end()
"""
    )
    assert done.stdout.split() == ["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_children_do_not_outlive_a_killed_parent() -> None:
    script = (
        HEAD
        + """
def serve(report):
    own = StopFlag(); own.install(); report(); own.wait()
children.fork(1, serve)
children.wait_ready()
print(min(children.running), flush=True)
time.sleep(60)
"""
    )
    parent = subprocess.Popen([sys.executable, "-c", dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(process: Any) -> Any:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_process_denies_core_dumps_and_debuggers() -> None:
    done = run(
        """
import ctypes, os, resource
from signer.hardening import harden
harden()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), oct(os.umask(0)))
"""
    )
    assert done.stdout.split() == ["(0,", "0)", "0", "0o77"]


@pytest.mark.parametrize("refused", ["setrlimit", "prctl"])
def test_a_protection_that_the_system_refuses_is_an_error(monkeypatch: Any, refused: str) -> None:
    from signer import hardening

    class Library:
        def prctl(self, *_: Any) -> int:
            return -1 if refused == "prctl" else 0

    def setrlimit(*_: Any) -> None:
        if refused == "setrlimit":
            raise OSError

    monkeypatch.setattr("signer.hardening.ctypes.CDLL", lambda *_, **__: Library())
    monkeypatch.setattr("signer.hardening.resource.setrlimit", setrlimit)
    monkeypatch.setattr("signer.hardening.os.umask", lambda _: 0)
    with pytest.raises(hardening.HardeningError):
        hardening.harden()
