"""Two real processes on one state folder: what one commits, the other knows within a second, even if the first is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agentkeys_core.keys import DeviceKey
from tests.fakes.registry_kit import Opened, Person, opened

ROOT = Path(__file__).parents[2]

#: Looks the device up all the time; prints when it is known, and when it is revoked.
WATCHER = """
import sys, time
from pathlib import Path
from tests.fakes.registry_kit import opened
folder, device = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
with opened(folder) as signer:
    print("known", signer.registry.lookup_device(device).devices[device].revoked, flush=True)
    while not signer.registry.lookup_device(device).devices[device].revoked:
        time.sleep(0.001)
    print("revoked", flush=True)
"""

#: Applies the change on standard input and is gone at once, before it can say so to anybody.
KILLED = """
import os, signal, sys
from pathlib import Path
from agentkeys_core.signed_change import SignedChange
from signer.adapters.registry_stamp import SharedStamp
from tests.fakes.registry_kit import opened
with opened(Path(sys.argv[1])) as signer:
    change = SignedChange.parse(sys.stdin.buffer.read())
    bumps = []
    def dying(stamp):
        bumps.append(1)
        if len(bumps) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    SharedStamp.bump = dying
    signer.registry.apply(change)
"""


def started(code: str, *args: str, stdin: bool = False) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "gen")))}
    command = [sys.executable, "-c", code, *args]
    given = subprocess.PIPE if stdin else None
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=given, stdout=subprocess.PIPE)


def line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def enrolled(signer: Opened) -> tuple[Person, DeviceKey]:
    person, agent = Person(), DeviceKey.generate()
    signer.registry.apply(person.enrol())
    signer.registry.apply(person.add_agent(agent, 1))
    return person, agent


def test_another_process_sees_a_revocation_within_a_second(tmp_path: Path) -> None:
    with opened(tmp_path) as signer:
        person, agent = enrolled(signer)
        with started(WATCHER, str(tmp_path), agent.key_hash.hex()) as watcher:
            try:
                assert line(watcher) == b"known False\n"
                time.sleep(0.3)
                signer.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
                done = time.monotonic()
                assert line(watcher) == b"revoked\n"
                assert time.monotonic() - done < 1
                assert watcher.wait(10) == 0
            finally:
                watcher.kill()


def test_a_revocation_whose_process_was_killed_right_after_its_commit_holds(tmp_path: Path) -> None:
    with opened(tmp_path) as signer:
        person, agent = enrolled(signer)
        with (
            started(WATCHER, str(tmp_path), agent.key_hash.hex()) as watcher,
            started(KILLED, str(tmp_path), stdin=True) as applying,
        ):
            try:
                assert line(watcher) == b"known False\n"
                applying.communicate(person.approved(person.revoke(2, agent.key_hash)).encode(), timeout=20)
                assert applying.returncode == -signal.SIGKILL
                killed = time.monotonic()
                assert line(watcher) == b"revoked\n"
                assert time.monotonic() - killed < 1
            finally:
                watcher.kill()
                applying.kill()
        state = signer.registry.lookup_device(agent.key_hash)
        assert state is not None
        assert state.devices[agent.key_hash].revoked
        row = signer.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
        assert row  # whoever lost the answer asks again and gets the row
