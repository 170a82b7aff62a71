"""`agentkeys-worker rewrap` as its host runs it: legacy objects become readable, whenever the command is killed."""

import json
import random
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys_core.bodies import FetchAnswer, StoreBody
from agentkeys_core.ops import Op
from signer.derivation import legacy_key
from tests.integration.signer_process import WORKER, SignerProcess
from tests.integration.signer_user import Deployed
from tests.integration.test_worker_process import ADDRESS, Asker, WorkerProcess, opened

K3 = bytes(range(32))
OBJECTS = 40
KILLS = 12


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[SignerProcess]:
    """A signer whose master secret of epoch 1 is that of the deployment before."""
    made = SignerProcess(tmp_path)
    made.prepare()
    for path in (made.folder / "vault.bin", *(made.folder / "state").iterdir()):
        path.unlink()
    secret = made.folder / "k3"
    secret.touch(mode=0o600)
    secret.write_bytes(K3)
    made.command("import-k3", str(secret), check=True)
    made.leaf("w1", names=(*WORKER, ADDRESS))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def value_of(number: int) -> bytes:
    return f"sk-legacy-{number}".encode()


def leave_legacy_objects(folder: Path, owner: bytes) -> Path:
    """What the deployment before left: one key for a whole owner."""
    place = folder / "objects" / "bots" / owner.hex() / "credentials"
    place.mkdir(parents=True)
    key = AESGCM(bytes(legacy_key(K3, owner)))
    for number in range(OBJECTS):
        spelling = f"name{number}" if number % 2 else f"cred:name{number}"
        nonce = secrets.token_bytes(12)
        sealed = key.encrypt(nonce, value_of(number), f"agentkeys.cred.aad.v2|{owner.hex()}|{spelling}".encode())
        (place / f"name{number}.enc").write_bytes(b"\x04\x01" + nonce + sealed)
    return place


def rewrap(worker: WorkerProcess) -> "subprocess.Popen[str]":
    worker.command()
    command = [sys.executable, "-m", "worker", "rewrap", "--config", str(worker.signer.folder / "worker.toml")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.timeout(300)
def test_legacy_objects_are_taken_over_through_any_number_of_kills(deployed: SignerProcess) -> None:
    user = Deployed(deployed)
    user.enrol()
    place = leave_legacy_objects(deployed.folder, user.person.operator)
    worker = WorkerProcess(deployed, registry_id=user.registry_id)
    code, out, err = finished(rewrap(worker))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("agentkeys-worker: stopped: window_closed")
    assert {path.read_bytes()[0] for path in place.iterdir()} == {4}

    deployed.command("rewrap-window", "--minutes", "20", check=True)
    dice = random.Random(OBJECTS)
    for _ in range(KILLS):
        process = rewrap(worker)
        wait_for_progress(process, place, dice.randint(1, OBJECTS // KILLS))
        process.kill()
        finished(process)
        assert {path.read_bytes()[0] for path in place.glob("*.enc")} <= {4, 5}, "each is the old one or the new one"
        assert len(list(place.glob("*.enc"))) == OBJECTS
    with worker.running(), worker.client() as client:  # beside a worker that serves
        code, out, err = finished(rewrap(worker))
        assert (code, err.count("Traceback")) == (0, 0), err
        assert out.startswith("rewrapped ")
        assert {path.read_bytes()[0] for path in place.glob("*.enc")} == {5}
        asker = Asker(deployed, user)
        for number in range(OBJECTS):
            asked, reply = asker.ask(Op.CRED_FETCH, touch=True, service=f"cred:name{number}")
            got = FetchAnswer.parse(opened(client.post("/v1/credentials/fetch", json=asked), asked, reply))
            assert StoreBody.parse(got.body).value == value_of(number)
    code, out, _ = finished(rewrap(worker))
    assert (code, out) == (0, f"rewrapped 0, already current {OBJECTS}, left 0\n")
    told = json.loads(deployed.command("status", "--json", check=True).stdout)
    assert told["salts_by_epoch"] == {"1": OBJECTS}


def wait_for_progress(process: "subprocess.Popen[str]", place: Path, count: int) -> None:
    """Return once so many more objects are new, or the command has ended by itself."""

    def new() -> int:
        return sum(path.read_bytes()[:1] == b"\x05" for path in place.glob("*.enc"))

    begun, deadline = new(), time.monotonic() + 30
    while new() < begun + count and process.poll() is None:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.002)
