"""Backup while serving, restore after a loss: what was signed before counts no more, and users wait for a master."""

import json
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.changes import AddAgent, RevokeDevice, Unfreeze
from agentkeys_core.eip712 import Domain
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.signed_change import SignedChange, SignedPair
from signer.restore import CAPS_AFTER_S
from tests.integration.issuer_origin import IssuerOrigin
from tests.integration.signer_process import SignerProcess, refusal
from tests.integration.signer_user import Deployed, store, stub


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[SignerProcess]:
    plenty = "[limits]\ndevice_per_s = 1e6\ndevice_burst = 1e6\n"
    made = SignerProcess(tmp_path / "signer", tables=plenty)
    made.folder.mkdir()
    made.prepare()
    made.start("--allow-software-k11")
    try:
        yield made
    finally:
        made.stop()


def apply(signer: SignerProcess, signed: SignedChange) -> bytes:
    with signer.channel("broker") as channel:
        request = registry_pb2.ApplyChangeRequest(change=signed.encode())
        return bytes(registry_pb2_grpc.RegistryStub(channel).ApplyChange(request, timeout=10).row)


def agent_state(signer: SignerProcess, agent: DeviceKey) -> bool:
    """Whether the registry says that the agent's device is revoked."""
    with signer.channel("broker") as channel:
        request = registry_pb2.GetDeviceRequest(device_key_hash=agent.key_hash)
        operator = registry_pb2_grpc.RegistryStub(channel).GetDevice(request, timeout=10).operator
    (found,) = (device for device in operator.devices if device.device_key_hash == agent.key_hash)
    return found.revoked


def status(signer: SignerProcess) -> Any:
    return json.loads(signer.command("status", "--json", check=True).stdout)


def lose(signer: SignerProcess, *, also_vault: bool = True) -> None:
    """The disk is gone."""
    assert signer.stop() == 0
    (signer.folder / "state").rename(signer.folder / f"lost-{time.monotonic_ns()}")
    if also_vault:
        (signer.folder / "vault.bin").unlink()


def restored(signer: SignerProcess, backup: Path) -> Any:
    return json.loads(signer.command("restore", str(backup), "--json", check=True).stdout)


def shift_caps(signer: SignerProcess) -> None:
    """Let the minute after a restore be over; the signer must be stopped."""
    with closing(sqlite3.connect(signer.folder / "state" / "state.db")) as conn:
        conn.execute("UPDATE meta SET value = value - ? WHERE key = 'caps_after'", (CAPS_AFTER_S + 1,))
        conn.commit()


def added(user: Deployed, agent: DeviceKey) -> tuple[AddAgent, SignedPair]:
    """An agent of that user: the change, and the agent's own word."""
    person, domain = user.person, Domain.embedded(user.registry_id)
    signed = person.add_agent(agent, 1)
    assert isinstance(signed.change, AddAgent)
    pair = signed.signatures.pair
    assert pair is not None
    signature = agent.sign_recoverable(pair.message.digest(domain))
    return signed.change, SignedPair(message=pair.message, signature=signature)


def test_a_restore_voids_what_was_signed_before_it(signer: SignerProcess, tmp_path: Path) -> None:
    user = Deployed(signer)
    person, domain = user.person, Domain.embedded(user.registry_id)
    user.enrol()
    with signer.channel("worker") as channel:
        _, stored, _ = store(channel, user)
    agent = DeviceKey.generate()
    adding, pair = added(user, agent)
    apply(signer, person.approved(adding, domain=domain, pair=pair))
    backup = tmp_path / "backup"
    signer.command("backup", str(backup), check=True)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in backup.iterdir()} == {
        "backup.json": 0o600,
        "state.db": 0o600,
        "vault.bin": 0o600,
    }
    assert "exists" in signer.command("backup", str(backup)).stderr
    signer.command("journal", "verify", "--state", str(backup / "state.db"), check=True)

    # What the backup does not know: a revocation, a store, and what workers have seen of it.
    apply(signer, person.approved(person.revoke(2, agent.key_hash), domain=domain))
    with signer.channel("worker") as channel:
        spent, _, _ = store(channel, user, "cred:later")
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest())
        event = next(stream)
        while event.HasField("change"):
            event = next(stream)
        stream.cancel()
    early = user.cap(Op.CRED_FETCH, "cred:openrouter", touch=True)
    waiting = person.approved(person.unfreeze(2), domain=domain)

    lose(signer)
    done = restored(signer, backup)
    assert (done["registry_id"], done["k3_epoch"], done["frozen"]) == (user.registry_id, 1, 1)
    assert done["incarnation"] > 1_700_000_000
    signer.start("--allow-software-k11")
    assert status(signer)["incarnation"] == done["incarnation"]
    signer.command("journal", "verify", check=True)
    with signer.channel("worker") as channel:
        read = signer_pb2.DeriveCredKekRequest(cap=early, epoch=1, salt=stored.salt)
        assert refusal(lambda: stub(channel).DeriveCredKek(read, timeout=10)).reason is Reason.CAP_EXPIRED
        again = signer_pb2.DeriveCredKekRequest(cap=spent)
        assert refusal(lambda: stub(channel).DeriveCredKek(again, timeout=10)).reason is Reason.CAP_EXPIRED
        # A worker that still holds a head of the lost time does not make this signer seal itself.
        request = registry_pb2.WatchChangesRequest(after=0, known=event.head, known_journal=event.journal)
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(request)
        assert next(stream).incarnation == done["incarnation"]
        stream.cancel()
    assert refusal(partial(apply, signer, waiting)).reason is Reason.CHANGE_NOT_AUTHORISED

    assert signer.stop() == 0
    shift_caps(signer)
    signer.start("--allow-software-k11")
    fresh = partial(user.cap, Op.CRED_FETCH, "cred:openrouter", touch=True)
    with signer.channel("worker") as channel:
        read = signer_pb2.DeriveCredKekRequest(cap=fresh(), epoch=1, salt=stored.salt)
        assert refusal(lambda: stub(channel).DeriveCredKek(read, timeout=10)).reason is Reason.OPERATOR_FROZEN
    # The agent is registered again, behind the freeze: its master revokes it again, and then confirms.
    assert agent_state(signer, agent) is False
    renewed = person.header(2, incarnation=done["incarnation"])
    revoking = RevokeDevice(operator_omni=person.operator, device_key_hash=agent.key_hash, **renewed)
    apply(signer, person.approved(revoking, domain=domain))
    change = Unfreeze(operator_omni=person.operator, **(renewed | {"nonce": 3}))
    assert apply(signer, person.approved(change, domain=domain))
    assert agent_state(signer, agent) is True
    with signer.channel("worker") as channel:
        read = signer_pb2.DeriveCredKekRequest(cap=fresh(), epoch=1, salt=stored.salt)
        assert stub(channel).DeriveCredKek(read, timeout=10).key == stored.key
    signer.command("journal", "verify", check=True)


def test_nothing_in_place_is_overwritten(signer: SignerProcess, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    signer.command("backup", str(backup), check=True)
    assert "another signer" in signer.command("restore", str(backup)).stderr
    assert signer.stop() == 0
    before = (signer.folder / "vault.bin").read_bytes()
    assert "in place" in signer.command("restore", str(backup)).stderr
    (signer.folder / "state" / "state.db").unlink()
    restored(signer, backup)
    assert (signer.folder / "vault.bin").read_bytes() == before
    assert not list((signer.folder / "state").glob("*.restoring"))


def test_a_vault_in_place_that_holds_a_newer_epoch_stays(tmp_path: Path) -> None:
    issuer = IssuerOrigin(tmp_path / "issuer")
    signer = SignerProcess(tmp_path / "signer", tables=issuer.table)
    signer.folder.mkdir()
    signer.prepare()
    signer.start()
    try:
        backup = tmp_path / "backup"
        signer.command("backup", str(backup), check=True)
        signer.command("rotate", "--prepare", "--out", str(issuer.files), check=True)
        signer.command("rotate", "--commit", check=True)
        lose(signer, also_vault=False)
        assert restored(signer, backup)["k3_epoch"] == 1
        signer.start()
        found = status(signer)
        assert (found["k3_epoch"], found["epochs_held"]) == (1, [1, 2])
        signer.command("rotate", "--commit", check=True)  # its keys are published, and nothing is generated anew
        assert status(signer)["k3_epoch"] == 2
        # The other way round: a vault that is older than the state restores nothing.
        late = tmp_path / "late"
        signer.command("backup", str(late), check=True)
        lose(signer)
        (signer.folder / "vault.bin").write_bytes((backup / "vault.bin").read_bytes())
        (signer.folder / "vault.bin").chmod(0o600)
        assert "epoch_not_held" in signer.command("restore", str(late)).stderr
        assert not (signer.folder / "state" / "state.db").exists()
    finally:
        signer.stop()
        issuer.close()


def test_a_backup_that_was_touched_is_not_restored(signer: SignerProcess, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    signer.command("backup", str(backup), check=True)
    with closing(sqlite3.connect(backup / "state.db")) as conn:
        conn.execute("UPDATE journal SET line = x'7b7d' WHERE seq = 2")
        conn.commit()
    lose(signer)
    done = signer.command("restore", str(backup))
    assert done.returncode == 1
    assert "changed" in done.stderr
    assert not (signer.folder / "vault.bin").exists()
    assert not (signer.folder / "state" / "state.db").exists()


def test_two_restores_of_one_backup_share_no_incarnation(signer: SignerProcess, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    signer.command("backup", str(backup), check=True)
    lose(signer)
    first = restored(signer, backup)["incarnation"]
    time.sleep(1.0)  # seconds are what tells them apart
    lose(signer)
    assert restored(signer, backup)["incarnation"] > first


def test_a_backup_under_load_is_one_moment(signer: SignerProcess, tmp_path: Path) -> None:
    user = Deployed(signer)
    user.enrol()
    done = threading.Event()
    stored: list[int] = []

    def load() -> None:
        with signer.channel("worker") as channel:
            while not done.is_set():
                store(channel, user, f"cred:name{len(stored)}")
                stored.append(1)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in range(3):
            backup = tmp_path / f"backup{number}"
            signer.command("backup", str(backup), check=True)
            signer.command("journal", "verify", "--state", str(backup / "state.db"), check=True)
    finally:
        done.set()
        thread.join(30)
    assert stored
    assert [line["method"] for line in signer.journal()].count("backup") == 3
