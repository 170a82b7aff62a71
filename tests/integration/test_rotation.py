"""Rotation of K3 at a running signer, by the host's own commands."""

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from agentkeys_runtime.grpc_errors import from_rpc_error
from signer.adapters.issuer import IssuerReader
from signer.adapters.unseal_passphrase import PassphraseUnsealer, passphrase_secret
from signer.rotation import RotationError
from signer.vault import Vault
from tests.integration.issuer_origin import IssuerOrigin
from tests.integration.signer_process import SignerProcess, eventually, refusal
from tests.integration.signer_user import Deployed, store, stub


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[IssuerOrigin]:
    made = IssuerOrigin(tmp_path / "issuer")
    yield made
    made.close()


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def signer(tmp_path: Path, issuer: IssuerOrigin, request: Any) -> Iterator[SignerProcess]:
    plenty = "[limits]\ndevice_per_s = 1e6\ndevice_burst = 1e6\n"
    made = SignerProcess(tmp_path / "signer", tables=issuer.table + plenty, extra=f"processes = {request.param}\n")
    made.folder.mkdir()
    made.prepare()
    made.start("--allow-software-k11")
    try:
        yield made
    finally:
        assert made.stop() == 0


def refused(signer: SignerProcess, *words: str) -> str:
    """The reason with which a host command is refused."""
    done = signer.command(*words)
    assert done.returncode == 1
    return done.stderr.removeprefix("agentkeys-signer: the signer refused: ").split(" (")[0].strip()


def facts(signer: SignerProcess) -> Any:
    return json.loads(signer.command("status", "--json", check=True).stdout)


def rotate(signer: SignerProcess, issuer: IssuerOrigin) -> None:
    signer.command("rotate", "--prepare", "--out", str(issuer.files), check=True)
    signer.command("rotate", "--commit", check=True)


def fetch(signer: SignerProcess, user: Deployed, stored: Any, *, epoch: int) -> Any:
    cap = user.cap(Op.CRED_FETCH, "cred:openrouter", touch=True, epoch=epoch)
    request = signer_pb2.DeriveCredKekRequest(cap=cap, epoch=stored.epoch, salt=stored.salt)
    with signer.channel("worker") as channel:
        return stub(channel).DeriveCredKek(request, timeout=10)


def test_end_to_end(signer: SignerProcess, issuer: IssuerOrigin) -> None:
    user = Deployed(signer)
    user.enrol()
    with signer.channel("worker") as channel:
        _, stored, _ = store(channel, user)
    assert refused(signer, "rotate", "--commit") == "nothing_prepared"
    published = issuer.files
    done = signer.command("rotate", "--prepare", "--out", str(published), "--json", check=True)
    assert json.loads(done.stdout)["epoch"] == 2
    known = facts(signer)
    assert (known["k3_epoch"], known["epochs_held"]) == (1, [1, 2])

    elsewhere = published.with_name("elsewhere")
    published.rename(elsewhere)
    assert refused(signer, "rotate", "--commit") == "issuer_unreachable"
    elsewhere.rename(published)
    with signer.channel("broker") as channel:  # a prepared epoch derives nothing yet
        request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=2)
        assert refusal(lambda: stub(channel).DeriveAddress(request, timeout=10)).reason is Reason.EPOCH_NOT_HELD
        before = stub(channel).DeriveAddress(signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)).address
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest())
        while next(stream).HasField("change"):
            pass
        signer.command("rotate", "--commit", check=True)
        eventually(lambda: next(stream).k3_epoch == 2)
        stream.cancel()
        for _ in range(8):  # whichever process answers
            with signer.channel("broker") as other:
                assert stub(other).DeriveAddress(request, timeout=10).address != before
                old = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
                assert stub(other).DeriveAddress(old, timeout=10).address == before, "wallets keep their addresses"

    error = refusal(partial(fetch, signer, user, stored, epoch=1))
    assert (error.reason, error.metadata["current_epoch"]) == (Reason.STALE_EPOCH, "2")
    again = fetch(signer, user, stored, epoch=2)
    assert (again.key, again.epoch) == (stored.key, 1), "an old object still opens"
    with signer.channel("worker") as channel:
        _, newer, _ = store(channel, user, "cred:other", epoch=2)
        assert newer.epoch == 2

    assert refused(signer, "rotate", "--prepare", "--out", str(published)) == "too_soon"
    assert refused(signer, "rotate", "--commit") == "nothing_prepared"
    methods = [line["method"] for line in signer.journal() if line["kind"] == "host"]
    assert [method for method in methods if method != "status"] == ["init", "rotate-prepare", "rotate-commit"]
    signer.command("journal", "verify", check=True)


def test_a_rotation_outlives_a_restart(signer: SignerProcess, issuer: IssuerOrigin) -> None:
    rotate(signer, issuer)
    assert signer.stop() == 0
    signer.start()
    known = facts(signer)
    assert (known["k3_epoch"], known["epochs_held"]) == (2, [1, 2])


def test_under_load_no_fetch_fails_but_for_the_epoch(signer: SignerProcess, issuer: IssuerOrigin) -> None:
    """Fetches go on throughout; one that named the old epoch is refused as such, and the next is served."""
    user = Deployed(signer)
    user.enrol()
    with signer.channel("worker") as channel:
        _, stored, _ = store(channel, user)
    done = threading.Event()
    outcomes: list[set[str]] = [set() for _ in range(3)]
    served = [[0, 0] for _ in range(3)]

    def load(number: int) -> None:
        epoch = 1
        with signer.channel("worker") as channel:
            while not done.is_set() or served[number][1] < 5:
                cap = user.cap(Op.CRED_FETCH, "cred:openrouter", touch=True, epoch=epoch)
                request = signer_pb2.DeriveCredKekRequest(cap=cap, epoch=1, salt=stored.salt)
                try:
                    assert stub(channel).DeriveCredKek(request, timeout=10).key == stored.key
                    served[number][epoch - 1] += 1
                except grpc.RpcError as exc:
                    error = from_rpc_error(exc)
                    outcomes[number].add(error.reason)
                    epoch = int(error.metadata["current_epoch"])

    threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: all(before >= 5 for before, _ in served))
    rotate(signer, issuer)
    done.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert [found <= {Reason.STALE_EPOCH} for found in outcomes] == [True] * 3
    signer.command("journal", "verify", check=True)


def opened(signer: SignerProcess) -> tuple[int, ...]:
    content = bytearray((signer.folder / "passphrase").read_bytes())
    secrets = Vault(signer.folder / "vault.bin").open(PassphraseUnsealer(passphrase_secret(content)))
    return tuple(secrets)


@pytest.mark.timeout(300)
def test_a_kill_at_any_moment_leaves_a_vault_that_opens_and_one_epoch(tmp_path: Path, issuer: IssuerOrigin) -> None:
    dice = random.Random("rotation")
    for number in range(6):
        signer = SignerProcess(tmp_path / f"{number}", tables=issuer.table)
        signer.folder.mkdir()
        signer.prepare()
        signer.start()
        try:
            step = threading.Thread(target=attempt, args=(signer, issuer, number % 2 == 1))
            step.start()
            time.sleep(dice.uniform(0.25, 0.9))  # the command itself takes its time to start
            signer.stop(signal.SIGKILL)
            step.join(60)
            held = opened(signer)
            assert held in {(1,), (1, 2)}
            signer.start()
            current = facts(signer)["k3_epoch"]
            assert current in held
            if current == 1:
                vault = (signer.folder / "vault.bin").read_bytes()
                rotate(signer, issuer)
                assert held == (1,) or (signer.folder / "vault.bin").read_bytes() == vault, "never generated anew"
            assert facts(signer)["k3_epoch"] == 2
            signer.command("journal", "verify", check=True)
        finally:
            signer.stop()


def attempt(signer: SignerProcess, issuer: IssuerOrigin, both: bool) -> None:
    """What the host does while the signer is killed; it may fail at any point."""
    signer.command("rotate", "--prepare", "--out", str(issuer.files))
    if both:
        signer.command("rotate", "--commit")


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (b"", "issuer_unreachable"),
        (b"[]", "issuer_unreachable"),
        (b'{"keys":[{"kty":"RSA"}]}', "issuer_unreachable"),
        (b"x" * (1024 * 1024 + 1), "issuer_unreachable"),
    ],
    ids=["empty", "a list", "other keys", "too long"],
)
def test_whatever_the_issuer_serves_has_a_name(issuer: IssuerOrigin, served: bytes, reason: str) -> None:
    (issuer.files / "x").write_bytes(served)
    with pytest.raises(RotationError) as caught:
        IssuerReader(issuer.origin, issuer.ca).keys("x")
    assert caught.value.reason == reason


def test_an_issuer_under_another_root_is_not_believed(issuer: IssuerOrigin, tmp_path: Path) -> None:
    (issuer.files / "x").write_bytes(b'{"keys":[]}')
    assert IssuerReader(issuer.origin, issuer.ca).keys("x") == {}
    other = IssuerOrigin(tmp_path / "other")
    try:
        for reader in (IssuerReader(issuer.origin, other.ca), IssuerReader(issuer.origin, None)):
            with pytest.raises(RotationError) as caught:
                reader.keys("x")
            assert caught.value.reason == "issuer_unreachable"
    finally:
        other.close()


def test_without_an_issuer_nothing_is_committed() -> None:
    with pytest.raises(RotationError) as caught:
        IssuerReader(None, None).keys("x")
    assert caught.value.reason == "no_issuer"
