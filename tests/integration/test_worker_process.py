"""The credentials worker as its host sees it: a real process beside a real signer, and one clear line where it fails."""

import ipaddress
import json
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.bodies import EMPTY_BODY, FetchAnswer, StoreAnswer, StoreBody, request_hash
from agentkeys_core.captoken import Cap, CapRequest, UncosignedCap
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.ops import Op, Service
from agentkeys_core.proof import k10_digest
from agentkeys_core.sealing import open_sealed
from tests.integration.signer_process import SERVER_NAME, WORKER, SignerProcess
from tests.integration.signer_user import Deployed
from tests.unit.runtime.certificates import TRUST_DOMAIN

START_LIMIT_S = 30.0
ADDRESS = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class WorkerProcess:
    """One credentials worker in the folder of a signer."""

    signer: SignerProcess
    registry_id: str = "ab" * 32
    certificate: str = "w1"
    port: int = 0

    def __post_init__(self) -> None:
        self.port = self.port or free_port()

    def command(self, **changed: str) -> list[str]:
        folder = self.signer.folder
        members = {
            "class": "credentials",
            "trust_domain": TRUST_DOMAIN,
            "listen": f"127.0.0.1:{self.port}",
            "registry_id": self.registry_id,
            "jwk": "k1.jwk.json",
            "objects": "objects",
        } | changed
        target = self.signer.target or f"127.0.0.1:{free_port()}"
        config = folder / "worker.toml"
        config.write_text(
            "".join(f'{name} = "{members[name]}"\n' for name in ("class", "trust_domain", "listen", "registry_id"))
            + f'cosign_keys = ["{members["jwk"]}"]\n[tls]\ncertificate = "{self.certificate}/cert.pem"\n'
            + f'key = "{self.certificate}/key.pem"\nca = "signer/ca.pem"\n'
            + f'[signer]\naddress = "{target}"\nserver_name = "{SERVER_NAME}"\n'
            + f'[objects]\ndirectory = "{members["objects"]}"\n'
        )
        return [sys.executable, "-m", "worker", "serve", "--config", str(config)]

    def fails(self, **changed: str) -> str:
        """The one line that a start which fails ends with."""
        done = subprocess.run(self.command(**changed), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("agentkeys-worker: ")
        return lines[0]

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[str]"]:
        with (self.signer.folder / "worker.log").open("a") as log:
            process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True
            )
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
            line = process.stdout.readline() if ready else ""
            assert line == f"ready https://127.0.0.1:{self.port}\n", (self.signer.folder / "worker.log").read_text()
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        context = ssl.create_default_context(cafile=str(self.signer.folder / self.certificate / "ca.pem"))
        origin = f"https://127.0.0.1:{self.port}"
        with httpx.Client(verify=context, base_url=origin, trust_env=False, timeout=30) as client:
            yield client


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path)
    made.prepare()
    made.leaf("w1", names=(*WORKER, ADDRESS))
    try:
        yield made
    finally:
        made.stop()


class Asker:
    """A master device that asks a worker, and opens what comes back."""

    def __init__(self, signer: SignerProcess, user: Deployed) -> None:
        self.signer, self.user = signer, user

    def ask(
        self, op: Op, body: bytes = EMPTY_BODY, *, touch: bool = False, service: str = "cred:openrouter"
    ) -> "tuple[dict[str, Any], X25519PrivateKey]":
        now, person, reply = int(time.time()), self.user.person, X25519PrivateKey.generate()
        request = CapRequest.compose(
            actor_omni=person.operator,
            aud=self.user.registry_id,
            device=person.device,
            expires_at=now + 300,
            issued_at=now,
            k3_epoch=1,
            nonce=bytes(16),
            op=op,
            operator_omni=person.operator,
            reply_key=reply.public_key().public_bytes_raw(),
            request_hash=request_hash(body),
            service=Service.parse(service, op),
        )
        cap = UncosignedCap(
            request=request,
            device_public_key=person.k10.public_key,
            device_signature=person.k10.sign(k10_digest("cap", request.raw)),
            k11=person.k11.answer(cap_challenge(request.digest)) if touch else None,
        )
        kid = ES256PublicKey.of(self.signer.k1.public_key()).kid
        made = cap.cosigned(es256_sign(self.signer.k1, cap.cosign_message()), kid)
        return {"body": b64u_encode(body), "cap": made.to_json()}, reply


def opened(answer: httpx.Response, asked: dict[str, Any], reply: X25519PrivateKey) -> bytes:
    assert answer.status_code == 200, answer.text
    cap = Cap.from_json(asked["cap"])
    assert answer.json()["cap_digest"] == cap.digest.hex()
    return open_sealed(reply, cap.digest, b64u_decode(answer.json()["sealed"]))


def test_a_credential_survives_a_kill_and_is_served_byte_for_byte(deployed: SignerProcess) -> None:
    value = bytes(range(256)) * 256
    deployed.start()
    user = Deployed(deployed)
    user.enrol()
    asker = Asker(deployed, user)
    worker = WorkerProcess(deployed, registry_id=user.registry_id)
    with worker.running() as process, worker.client() as client:
        assert client.get("/healthz").json() == {"status": "ok", "registry": "fresh"}
        asked, reply = asker.ask(Op.CRED_STORE, StoreBody(blind=bytes(32), expect=None, value=value).encode())
        answer = client.post("/v1/credentials/store", json=asked)
        row_hash = StoreAnswer.parse(opened(answer, asked, reply)).row_hash
        assert answer.json()["row"]["row_hash"] == row_hash.hex()
        assert answer.headers["cache-control"] == "no-store"
        assert client.post("/v1/credentials/store", json=asked).json()["row"] == answer.json()["row"]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with worker.running() as process, worker.client() as client:
        assert client.post("/v1/credentials/store", json=asked).json()["row"] == answer.json()["row"]
        asked, reply = asker.ask(Op.CRED_FETCH, touch=True)
        got = FetchAnswer.parse(opened(client.post("/v1/credentials/fetch", json=asked), asked, reply))
        assert StoreBody.parse(got.body).value == value
        assert got.row.row_hash == row_hash
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    log = (deployed.folder / "worker.log").read_text()
    assert b64u_encode(value)[:40] not in log
    assert all(json.loads(line)["service"] == "worker" for line in log.splitlines())


def test_without_a_signer_it_serves_and_refuses_by_name(deployed: SignerProcess) -> None:
    user_file = json.loads(deployed.command("status", "--json", check=True).stdout)
    worker = WorkerProcess(deployed, registry_id=user_file["registry_id"])
    with worker.running(), worker.client() as client:
        answer = client.get("/v1/registry/operators/" + "ab" * 32)
        assert (answer.status_code, answer.json()["reason"]) == (503, "registry_stale")
        assert client.get("/healthz").json()["registry"] == "registry_stale"


def test_a_foreign_registry_stops_the_start(deployed: SignerProcess) -> None:
    deployed.start()
    assert "registry_id" in WorkerProcess(deployed).fails()


def test_what_the_host_can_mend_is_one_clear_line(deployed: SignerProcess) -> None:
    worker = WorkerProcess(deployed)
    (deployed.folder / "private.json").write_text('{"kty":"EC"}')
    (deployed.folder / "file").write_text("")
    assert "registry_id" in worker.fails(registry_id="")
    assert "w1/cert.pem" in worker.fails(**{"class": "memory"})
    assert "missing.json" in worker.fails(jwk="missing.json")
    assert "private.json" in worker.fails(jwk="private.json")
    assert "file" in worker.fails(objects="file")
    worker.certificate = "broker"
    assert "broker/main" in worker.fails()
    worker.certificate = "w1"
    (deployed.folder / "w1" / "key.pem").chmod(0o644)
    assert "key.pem" in worker.fails()
