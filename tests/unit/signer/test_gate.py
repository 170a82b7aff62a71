import subprocess
import sys
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from signer.gate import Gate


class Monotonic:
    at = 100.0

    def __call__(self) -> Any:
        return self.at


def reason_of(gate: Any) -> Any:
    with pytest.raises(KeyServiceError) as caught:
        gate.check()
    return caught.value.reason


def seen_after_fork(call: str, name: str) -> str:
    """What a process sees of its gate once a child of it has made a call.

    In a process of its own, without threads: one that other tests have loaded libraries into does not survive a fork.
    """
    program = f"""
import os
from signer.gate import Gate
gate = Gate()
child = os.fork()
if child == 0:
    gate.{call}
    os._exit(0)
os.waitpid(child, 0)
print(gate.{name})
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_is_open_at_first() -> None:
    gate = Gate()
    gate.check()
    assert not gate.sealed
    assert gate.held_s == 0


def test_serves_nothing_once_sealed() -> None:
    gate = Gate()
    gate.seal()
    assert reason_of(gate) is Reason.SEALED


def test_a_hold_ends_by_itself() -> None:
    clock = Monotonic()
    gate = Gate(clock)
    gate.hold(420)
    assert reason_of(gate) is Reason.CLOCK_BEHIND
    clock.at += 419.9
    assert reason_of(gate) is Reason.CLOCK_BEHIND
    clock.at += 0.2
    gate.check()


def test_every_forked_process_sees_the_seal() -> None:
    assert seen_after_fork("seal()", "sealed") == "True"


def window_of(gate: Any) -> Any:
    try:
        gate.check_window()
    except KeyServiceError as error:
        return error.reason
    return None


def test_the_rewrap_window_is_closed_at_first_and_closes_by_itself() -> None:
    clock = Monotonic()
    gate = Gate(clock)
    assert (window_of(gate), gate.window_s) == (Reason.WINDOW_CLOSED, 0)
    gate.open_window(60)
    clock.at += 59.9
    assert window_of(gate) is None
    clock.at += 0.2
    assert (window_of(gate), gate.window_s) == (Reason.WINDOW_CLOSED, 0)
    gate.open_window(60)
    gate.open_window(0)
    assert window_of(gate) is Reason.WINDOW_CLOSED
    gate.check()  # and whatever else is served stays so


def test_every_forked_process_sees_the_window() -> None:
    assert float(seen_after_fork("open_window(600)", "window_s")) > 500
