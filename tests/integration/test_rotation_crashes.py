"""A process that dies at a chosen point of a rotation: the vault opens, one epoch is current, nothing is made twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from signer.journal import verify_journal
from tests.unit.signer.epochs import Deployment

ROOT = Path(__file__).parents[2]

#: Rotates, and is gone when the named function is called (or, with `after`, has returned) for the first time.
DYING = """
import os, signal, sys
from pathlib import Path
from tests.unit.signer.epochs import Deployment
import signer.adapters.committer, signer.adapters.epoch_store, signer.private_files, signer.rotation
from signer.epoch_board import EpochBoard
from signer.keyring import Keyring
folder, owner, name, when = sys.argv[1:]
owner = eval(owner)
real = getattr(owner, name)
def dying(*args, **rest):
    if when == "after":
        real(*args, **rest)
    os.kill(os.getpid(), signal.SIGKILL)
with Deployment(Path(folder)) as made:
    setattr(owner, name, dying)
    step = made.rotation()
    made.publish(step.prepare())
    step.commit()
"""

#: Where it dies, and what is held and current afterwards.
POINTS = {
    "the intention is in the journal": ("signer.rotation", "new_k3", "before", (1,), 1),
    "the new vault has no name yet": ("os", "rename", "before", (1,), 1),
    "the new vault has its name": ("os", "rename", "after", (1, 2), 1),
    "the name is not durable yet": ("signer.private_files", "sync_folder", "before", (1, 2), 1),
    "this process is about to hold it": ("Keyring", "hold", "before", (1, 2), 1),
    "it is announced": ("EpochBoard", "announce", "after", (1, 2), 1),
    "about to be committed": ("signer.adapters.epoch_store.EpochStore", "advance", "before", (1, 2), 1),
    "inside the transaction": ("signer.adapters.epoch_store", "_write", "after", (1, 2), 1),
    "committed, not answered": ("signer.adapters.epoch_store.EpochStore", "advance", "after", (1, 2), 2),
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_whatever_was_reached_is_whole(tmp_path: Path, point: tuple[str, str, str, tuple[int, ...], int]) -> None:
    owner, name, when, held, current = point
    with Deployment(tmp_path):
        pass
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "gen")))}
    command = [sys.executable, "-c", DYING, str(tmp_path), owner, name, when]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Deployment(tmp_path) as made:
        assert made.keyring.epochs == held
        assert made.registry.record().current == current
        verify_journal(made.database.reader(), made.keyring)
        if current == 1:
            before = made.keyring.k3_check(2) if 2 in held else None
            step = made.rotation()
            made.publish(step.prepare())
            assert before in {None, made.keyring.k3_check(2)}, "never generated anew"
            step.commit()
    with Deployment(tmp_path) as after:
        assert (after.keyring.epochs, after.registry.record().current) == ((1, 2), 2)
        verify_journal(after.database.reader(), after.keyring)
