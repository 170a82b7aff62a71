"""The signer as its host sees it: start, restart, seal, stop, several processes, and one clear line where it does not start."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from functools import partial
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.errors import Reason
from signer.rpc.permissions import PERMISSIONS, REFLECTION, SIGNER
from tests.integration.signer_process import SignerProcess, eventually, refusal
from tests.integration.signer_user import Deployed, health_of, store, stub


@pytest.fixture
def fresh(tmp_path: Any) -> Any:
    made = SignerProcess(tmp_path)
    made.prepare()
    try:
        yield made
    finally:
        made.stop()


def test_state_outlives_the_process(fresh: Any) -> None:
    fresh.start("--allow-software-k11")
    user = Deployed(fresh)
    user.enrol()
    with fresh.channel("worker") as channel:
        cap, released, row = store(channel, user)
    fresh.stop(signal.SIGKILL)
    assert json.loads(fresh.command("status", "--json", check=True).stdout)["serving"] is False
    fresh.start()
    with fresh.channel("worker") as channel:
        request = signer_pb2.SignAuditRowRequest(cap=cap, result=0)
        assert stub(channel).SignAuditRow(request, timeout=10).row == row
        error = refusal(lambda: stub(channel).DeriveCredKek(signer_pb2.DeriveCredKekRequest(cap=cap)))
        assert error.reason is Reason.CAP_REPLAYED
    assert released.key.hex() not in fresh.log


def test_the_host_can_ask_and_seal(fresh: Any) -> None:
    fresh.start()
    folder = fresh.folder / "state"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()} == {0o600}
    facts = json.loads(fresh.command("status", "--json", check=True).stdout)
    assert (facts["serving"], facts["epochs_held"], facts["k3_epoch"]) == (True, [1], 1)
    with fresh.channel("broker") as channel:
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest())
        next(stream)
        assert "True" in fresh.command("seal", check=True).stdout
        request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
        assert refusal(lambda: stub(channel).DeriveAddress(request)).reason is Reason.SEALED
        assert refusal(lambda: list(stream)).reason is Reason.SEALED
        state = health_of(channel)
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        eventually(lambda: state.Check(health_pb2.HealthCheckRequest()).status == not_serving)
    assert json.loads(fresh.command("status", "--json", check=True).stdout)["sealed"] is True
    assert fresh.stop() == 0
    assert [line["method"] for line in fresh.journal() if line["kind"] == "host"] == ["init", "status", "seal"]


def test_a_clock_reset_stops_service_at_once(fresh: Any) -> None:
    fresh.start()
    assert "wait_s" in fresh.command("clock-reset", check=True).stdout
    with fresh.channel("broker") as channel:
        request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
        assert refusal(lambda: stub(channel).DeriveAddress(request)).reason is Reason.CLOCK_BEHIND
    again = fresh.command("clock-reset")
    assert (again.returncode, again.stderr) == (1, "agentkeys-signer: the signer refused: clock_behind\n")
    begun = time.monotonic()
    assert fresh.stop() == 0
    assert time.monotonic() - begun < 15


def test_a_client_that_holds_its_connection_does_not_hold_up_a_stop(fresh: Any) -> None:
    fresh.start()
    with fresh.channel("broker") as channel:
        stream = registry_pb2_grpc.RegistryStub(channel).WatchChanges(registry_pb2.WatchChangesRequest())
        next(stream)
        begun = time.monotonic()
        assert fresh.stop() == 0
        assert time.monotonic() - begun < 12


def test_several_processes_serve_one_port_and_seal_together(tmp_path: Any) -> None:
    signer = SignerProcess(tmp_path, extra="processes = 2\n")
    signer.prepare()
    signer.start()
    try:
        user = Deployed(signer)
        user.enrol()
        for number in range(6):
            with signer.channel("worker") as channel:
                store(channel, user, f"cred:name{number}")
        signer.command("seal", check=True)
        for _ in range(6):
            with signer.channel("broker") as channel:
                call = partial(stub(channel).DeriveAddress, signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1))
                assert refusal(call).reason is Reason.SEALED
    finally:
        assert signer.stop() == 0


def test_reflection_can_be_switched_off(tmp_path: Any) -> None:
    signer = SignerProcess(tmp_path, extra="reflection = false\n")
    signer.prepare()
    signer.start()
    try:
        with signer.channel("broker") as channel:
            call: Any = channel.unary_unary(f"/{REFLECTION}/ServerReflectionInfo")
            assert refusal(lambda: call(b"", timeout=10)).reason is Reason.NOT_IMPLEMENTED
    finally:
        assert signer.stop() == 0


def fails(signer: Any, *words: Any, stdin: Any = None) -> Any:
    done = signer.command(*words, input=stdin)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("agentkeys-signer: ")
    return line


def test_says_in_one_line_why_it_does_not_start(fresh: Any) -> None:
    vault, config = fresh.folder / "vault.bin", fresh.config.read_text()
    good = vault.read_bytes()
    assert "exists" in fails(fresh, "init")
    secret = fresh.folder / "k3"
    secret.write_bytes(bytes(32))
    secret.chmod(0o600)
    assert "exists" in fails(fresh, "import-k3", str(secret))
    assert "no signer answers" in fails(fresh, "seal")
    vault.write_bytes(good[:70])
    assert "truncated" in fails(fresh, "serve")
    vault.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "cannot_open" in fails(fresh, "serve")
    vault.write_bytes(good)
    vault.chmod(0o644)
    assert "loose_mode" in fails(fresh, "serve")
    vault.chmod(0o600)
    (fresh.folder / "state").chmod(0o755)
    assert "chmod 700" in fails(fresh, "serve")
    (fresh.folder / "state").chmod(0o700)
    fresh.config.write_text(config.replace("listen", "lisn"))
    assert "lisn" in fails(fresh, "serve")
    fresh.config.write_text(config.replace('"k1.jwk.json"', ""))
    assert "cosign_keys" in fails(fresh, "serve")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fresh.config.write_text(config.replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}"))
        assert "cannot listen" in fails(fresh, "serve")
    fresh.config.write_text(config)
    assert vault.read_bytes() == good
    fresh.start()
    assert "another signer" in fails(fresh, "serve")


def test_a_vault_of_another_deployment_serves_nothing(fresh: Any, tmp_path_factory: Any) -> None:
    other = SignerProcess(tmp_path_factory.mktemp("other"))
    other.prepare()
    (fresh.folder / "vault.bin").write_bytes((other.folder / "vault.bin").read_bytes())
    assert "k3_mismatch" in fails(fresh, "serve")


def test_a_passphrase_comes_on_a_descriptor_but_never_from_the_environment(fresh: Any) -> None:
    fresh.config.write_text(fresh.config.read_text().replace('passphrase_file = "passphrase"', ""))
    assert "bad_secret" in fails(fresh, "oidc", "export", str(fresh.folder / "x"), stdin="")
    reading, writing = os.pipe()
    os.write(writing, b"correct horse battery staple\n")
    os.close(writing)
    try:
        words = ("oidc", "export", str(fresh.folder / "x"), "--passphrase-fd", str(reading))
        fresh.command(*words, check=True, pass_fds=(reading,))
    finally:
        os.close(reading)
    words = ("oidc", "export", str(fresh.folder / "y"), "--passphrase-file", str(fresh.folder / "passphrase"))
    fresh.command(*words, "--issuer", "https://issuer.example.org", check=True)
    assert (fresh.folder / "y" / ".well-known" / "openid-configuration").is_file()


def test_an_imported_master_secret_keeps_its_addresses(fresh: Any) -> None:
    for path in (fresh.folder / "vault.bin", fresh.folder / "state" / "state.db"):
        path.unlink()
    secret = fresh.folder / "k3"
    secret.write_text("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n")
    assert "loose_mode" in fails(fresh, "import-k3", str(secret))
    secret.chmod(0o600)
    fresh.command("import-k3", str(secret), check=True)
    fresh.start()
    with fresh.channel("broker") as channel:
        request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
        address = stub(channel).DeriveAddress(request, timeout=10).address
    assert address.hex() == "4b4ad1781d82e7173c44142dabdb4823885da21b"


def test_writes_a_profile_and_its_hash(fresh: Any) -> None:
    words = ["profile", "--out", str(fresh.folder / "profile.json"), "--ca", str(fresh.folder / "signer" / "ca.pem")]
    words += ["--broker", "https://127.0.0.1:1", "--issuer", "https://127.0.0.1:2", "--json"]
    workers = [f"{kind}=https://127.0.0.1:3" for kind in ("credentials", "memory", "audit")]
    assert "lacks" in fails(fresh, *words)
    for worker in workers:
        words += ["--worker", worker]
    found = json.loads(fresh.command(*words, check=True).stdout)
    from agentkeys_core.profile import Profile

    profile = Profile.parse((fresh.folder / "profile.json").read_bytes())
    assert found["profile_hash"] == profile.hash().hex()
    assert "class=origin" in fails(fresh, *words, "--worker", workers[0])


def test_prints_its_permissions() -> None:
    done = subprocess.run([sys.executable, "-m", "signer", "permissions"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(PERMISSIONS)
    assert any(line.split() == [f"/{SIGNER}/DeriveAddress", "broker"] for line in done.stdout.splitlines())


def test_a_key_file_unseals(tmp_path: Any) -> None:
    signer = SignerProcess(tmp_path)
    signer.tables = ""
    prepare = signer.command

    def with_key_file(*words: Any, **options: Any) -> Any:
        text = signer.config.read_text()
        signer.config.write_text(
            text.replace('passphrase_file = "passphrase"', 'method = "key-file"\nkey_file = "key"')
        )
        return prepare(*words, **options)

    signer.command = with_key_file  # type: ignore[method-assign]  # the configuration is written in between
    signer.prepare()
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    signer.start()
    assert signer.stop() == 0
    (tmp_path / "key").write_bytes(bytes(32))
    assert "cannot_open" in fails(signer, "serve")


def test_every_process_sees_the_rewrap_window_and_no_restart_keeps_it(tmp_path: Any) -> None:
    signer = SignerProcess(tmp_path, extra="processes = 2\n")
    signer.prepare()
    signer.start()
    asked = {"class": signer_pb2.OBJECT_CLASS_CREDENTIALS}
    request = signer_pb2.RewrapRequest(owner=bytes(32), service="cred:x", envelope=b"\x06" * 200, **asked)

    def reasons() -> set[Reason]:
        found = set()
        for _ in range(12):
            with signer.channel("worker") as channel:
                found.add(refusal(partial(stub(channel).Rewrap, request)).reason)
        return found

    try:
        assert reasons() == {Reason.WINDOW_CLOSED}
        signer.command("rewrap-window", "--minutes", "10", check=True)
        assert reasons() == {Reason.UNSUPPORTED_VERSION}
        told = json.loads(signer.command("rewrap-window", "--json", check=True).stdout)
        assert 0 < told["rewrap_window_s"] <= 600
        signer.command("rewrap-window", "--close", check=True)
        assert reasons() == {Reason.WINDOW_CLOSED}
        signer.command("rewrap-window", "--minutes", "10", check=True)
        signer.stop()
        signer.start()
        assert reasons() == {Reason.WINDOW_CLOSED}
        for wrong in (("--minutes", "0"), ("--minutes", "241"), ("--minutes", "1", "--close")):
            assert signer.command("rewrap-window", *wrong).returncode
    finally:
        assert signer.stop() == 0
    methods = [line["method"] for line in signer.journal() if line["method"].startswith("rewrap")]
    assert methods == ["rewrap-window-open", "rewrap-window-close", "rewrap-window-open"]
