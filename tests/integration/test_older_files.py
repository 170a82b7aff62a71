"""Any file of a signer put back from an older copy, and all of them together: each has its name, none brings the past back."""

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.errors import Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import Op
from tests.integration.issuer_origin import IssuerOrigin
from tests.integration.signer_process import SignerProcess, eventually, refusal
from tests.integration.signer_user import Deployed, store, stub


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[IssuerOrigin]:
    made = IssuerOrigin(tmp_path / "issuer")
    yield made
    made.close()


@pytest.fixture
def signer(tmp_path: Path, issuer: IssuerOrigin) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path / "signer", tables=issuer.table)
    made.folder.mkdir()
    made.prepare()
    made.start("--allow-software-k11")
    try:
        yield made
    finally:
        made.stop()


def copied(signer: SignerProcess, into: Path) -> Path:
    """A copy of everything that a stopped signer has."""
    assert signer.stop() == 0
    shutil.copytree(signer.folder, into)
    return into


def put_back(signer: SignerProcess, older: Path, *names: str) -> None:
    """Put files of an older copy under a stopped signer; state.db with what belongs to it."""
    for name in names:
        (found,) = older.glob(name)
        target = signer.folder / found.relative_to(older)
        for left in target.parent.glob(f"{target.name}-*"):
            left.unlink()
        shutil.copy2(found, target)


def fails(signer: SignerProcess) -> str:
    """Why the signer does not start."""
    done = signer.command("serve")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def released(signer: SignerProcess, user: Deployed, name: str) -> bytes:
    """A store that is acknowledged, and so recorded; the cap."""
    with signer.channel("worker") as channel:
        cap, _, _ = store(channel, user, f"cred:{name}")
    return bytes(cap)


def known_to_workers(signer: SignerProcess) -> registry_pb2.ChangeEvent:
    """What a worker's stream has told it by now."""
    with signer.channel("worker") as channel:
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest())
        event = next(stream)
        while event.HasField("change"):
            event = next(stream)
        stream.cancel()
    return event


def rotate(signer: SignerProcess, issuer: IssuerOrigin) -> None:
    signer.command("rotate", "--prepare", "--out", str(issuer.files), check=True)
    signer.command("rotate", "--commit", check=True)


def test_an_older_state_beside_its_stamp(signer: SignerProcess, tmp_path: Path) -> None:
    """Nothing but releases happened since: the registry's head would not tell, the journal's high water does."""
    user = Deployed(signer)
    user.enrol()
    older = copied(signer, tmp_path / "older")
    signer.start()
    released(signer, user, "one")
    assert signer.stop() == 0
    put_back(signer, older, "state/state.db")
    assert "registry_rolled_back" in fails(signer)


def test_a_state_without_its_write_ahead_log(signer: SignerProcess) -> None:
    """The newest commits lie in that file alone while the signer runs."""
    user = Deployed(signer)
    user.enrol()
    with closing(sqlite3.connect(signer.folder / "state" / "state.db")) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    released(signer, user, "one")
    head = json.loads(signer.command("status", "--json", check=True).stdout)["journal"]
    stamp = next((signer.folder / "state").glob("*.stamp"))
    eventually(lambda: memoryview(stamp.read_bytes()).cast("Q")[3] >= int(head.partition(":")[0]))
    signer.stop(signal.SIGKILL)
    (signer.folder / "state" / "state.db-wal").unlink()
    assert "registry_rolled_back" in fails(signer)


def test_an_older_vault(signer: SignerProcess, issuer: IssuerOrigin, tmp_path: Path) -> None:
    older = copied(signer, tmp_path / "older")
    signer.start()
    rotate(signer, issuer)
    assert signer.stop() == 0
    put_back(signer, older, "vault.bin")
    assert "epoch_not_held" in fails(signer)


def test_a_vault_from_before_an_epoch_was_prepared(signer: SignerProcess, issuer: IssuerOrigin, tmp_path: Path) -> None:
    """Nothing was made under that epoch yet. Another is generated, and its keys are not those that are published."""
    older = copied(signer, tmp_path / "older")
    signer.start()
    signer.command("rotate", "--prepare", "--out", str(issuer.files), check=True)
    assert signer.stop() == 0
    put_back(signer, older, "vault.bin")
    signer.start()
    assert "nothing_prepared" in signer.command("rotate", "--commit").stderr
    signer.command("rotate", "--prepare", "--out", str(tmp_path / "not-published"), check=True)
    assert "not_published" in signer.command("rotate", "--commit").stderr
    assert json.loads(signer.command("status", "--json", check=True).stdout)["k3_epoch"] == 1


def test_a_state_from_before_a_rotation(signer: SignerProcess, issuer: IssuerOrigin, tmp_path: Path) -> None:
    older = copied(signer, tmp_path / "older")
    signer.start()
    rotate(signer, issuer)
    assert signer.stop() == 0
    put_back(signer, older, "state/state.db")
    assert "registry_rolled_back" in fails(signer)


def test_an_older_stamp_alone_says_nothing_new(signer: SignerProcess, tmp_path: Path) -> None:
    user = Deployed(signer)
    user.enrol()
    older = copied(signer, tmp_path / "older")
    signer.start()
    cap = released(signer, user, "one")
    assert signer.stop() == 0
    put_back(signer, older, "state/*.stamp")
    signer.start()
    with signer.channel("worker") as channel:
        again = signer_pb2.DeriveCredKekRequest(cap=cap)
        assert refusal(lambda: stub(channel).DeriveCredKek(again, timeout=10)).reason is Reason.CAP_REPLAYED


def test_an_older_configuration_pins_keys_that_are_no_more(signer: SignerProcess, tmp_path: Path) -> None:
    """K1 was replaced since: what the broker co-signs now is refused by name."""
    user = Deployed(signer)
    user.enrol()
    older = copied(signer, tmp_path / "older")
    signer.k1 = ec.generate_private_key(ec.SECP256R1())
    new = signer.folder / "k1-new.jwk.json"
    new.write_text(json.dumps(ES256PublicKey.of(signer.k1.public_key()).jwk()))
    signer.config.write_text(signer.config.read_text().replace("k1.jwk.json", new.name))
    signer.start()
    released(signer, user, "one")
    assert signer.stop() == 0
    put_back(signer, older, "signer.toml")
    signer.start()
    with signer.channel("worker") as channel:
        request = signer_pb2.DeriveCredKekRequest(cap=user.cap(Op.CRED_STORE, "cred:two"))
        reason = refusal(lambda: stub(channel).DeriveCredKek(request, timeout=10)).reason
    assert reason is Reason.BROKER_SIGNATURE_INVALID


def refused_as_rolled_back(signer: SignerProcess, event: registry_pb2.ChangeEvent) -> bool:
    """Whether the signer refuses a worker that echoes what it knows, and has sealed itself by then."""
    with signer.channel("worker") as channel:
        request = registry_pb2.WatchChangesRequest(known=event.head, known_journal=event.journal)
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(request)
        return refusal(lambda: next(stream)).reason is Reason.REGISTRY_ROLLED_BACK


@pytest.mark.parametrize("rotated", [False, True], ids=["releases", "a rotation"])
def test_everything_together(signer: SignerProcess, issuer: IssuerOrigin, tmp_path: Path, rotated: bool) -> None:
    """Nothing on this disk knows better. A worker does: a spent request is not spent twice, an old epoch not revived."""
    user = Deployed(signer)
    user.enrol()
    older = copied(signer, tmp_path / "older")
    signer.start()
    if rotated:
        rotate(signer, issuer)
    cap = None if rotated else released(signer, user, "one")
    event = known_to_workers(signer)
    assert signer.stop() == 0
    put_back(signer, older, "state/state.db", "state/*.stamp", "vault.bin", "signer.toml")
    signer.start()
    assert refused_as_rolled_back(signer, event)
    with signer.channel("worker") as channel:
        again = signer_pb2.DeriveCredKekRequest(cap=cap or user.cap(Op.CRED_STORE, "cred:two"))
        assert refusal(lambda: stub(channel).DeriveCredKek(again, timeout=10)).reason is Reason.SEALED
    assert signer.stop() == 0
    assert any(line["reason"] == "registry_rolled_back" for line in signer.journal())


def test_a_head_that_nobody_signed_seals_nothing(signer: SignerProcess) -> None:
    event = known_to_workers(signer)
    for bent in (
        {"sequence": event.journal.sequence + 5},
        {"hash": bytes(32)},
        {"mac": bytes(32)},
        {"epoch": 9},
        {"incarnation": 2},
        {"sequence": 2**64 - 1},
        {"hash": b"short"},
    ):
        names = ("sequence", "hash", "mac", "epoch", "incarnation")
        members: dict[str, Any] = {name: getattr(event.journal, name) for name in names}
        with signer.channel("worker") as channel:
            request = registry_pb2.WatchChangesRequest(known_journal=registry_pb2.JournalHead(**(members | bent)))
            stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(request)
            assert next(stream).journal.sequence >= event.journal.sequence
            stream.cancel()
    assert json.loads(signer.command("status", "--json", check=True).stdout)["sealed"] is False


def test_a_file_swapped_under_a_running_signer_seals_it(signer: SignerProcess) -> None:
    """Not even a restart: the journal is looked at ten times a second."""
    with closing(sqlite3.connect(signer.folder / "state" / "state.db", timeout=10)) as conn:
        conn.execute("UPDATE journal_head SET seq = 0")
        conn.commit()

    def sealed() -> bool:
        return bool(json.loads(signer.command("status", "--json", check=True).stdout)["sealed"])

    eventually(sealed)
