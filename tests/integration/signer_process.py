"""The real signer as a process on loopback, with certificates of any shape, and what a client needs to call it."""

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import ES256PublicKey
from agentkeys_runtime.grpc_errors import from_rpc_error
from agentkeys_runtime.mtls import client_channel
from tests.unit.runtime.certificates import SERVER, TRUST_DOMAIN, Files, Issuer, pem, uri

SERVER_NAME = f"signer.{TRUST_DOMAIN}"
START_LIMIT_S = 30.0
BROKER = (uri("broker/main"),)
WORKER = (uri("worker/credentials/main"),)
DAEMON = (uri("daemon/laptop"),)


@dataclass
class SignerProcess:
    """One deployment in a folder: `prepare` once, then `start` and `stop` as often as a test likes."""

    folder: Path
    issuer: Issuer = field(default_factory=Issuer)
    k1: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    extra: str = ""  # more top-level keys
    tables: str = ""  # more tables
    k3: bytes | None = None  # a master secret to import; by default the signer makes one
    process: "subprocess.Popen[str] | None" = None
    target: str = ""
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "signer.toml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def prepare(self) -> None:
        """Certificates of signer, broker, worker and daemon; vault and state; nothing runs yet."""
        names = (x509.DNSName(SERVER_NAME), uri("signer/main"))
        self.leaf("signer", names=names, usages=(SERVER,))
        for name, identity in (("broker", BROKER), ("worker", WORKER), ("daemon", DAEMON)):
            self.leaf(name, names=identity)
        self.revoke()
        jwk = ES256PublicKey.of(self.k1.public_key()).jwk()
        (self.folder / "k1.jwk.json").write_text(json.dumps(jwk))
        passphrase = self.folder / "passphrase"
        passphrase.write_text("correct horse battery staple\n")
        passphrase.chmod(0o600)
        self.config.write_text(
            f'trust_domain = "{TRUST_DOMAIN}"\nlisten = "127.0.0.1:0"\nstate_dir = "state"\nvault = "vault.bin"\n'
            f'cosign_keys = ["k1.jwk.json"]\n{self.extra}[tls]\ncertificate = "signer/cert.pem"\nkey = "signer/key.pem"\n'
            'client_ca = "signer/ca.pem"\nrevocation_list = "revoked.json"\n'
            f'[unseal]\npassphrase_file = "passphrase"\n{self.tables}'
        )
        if self.k3 is None:
            self.command("init", check=True)
            return
        secret = self.folder / "k3"
        secret.write_bytes(self.k3)
        secret.chmod(0o600)
        self.command("import-k3", str(secret), check=True)

    def leaf(self, name: str, **leaf: Any) -> Files:
        """Make (again) the certificate of one client in its own folder."""
        files = Files(self.folder / name)
        self.certificates[name] = files.write(self.issuer, **leaf)
        return files

    def revoke(self, *names: str) -> None:
        """Write the revocation list: exactly these clients."""
        found = [self.certificates[name] for name in names]
        rows = [{"issuer": made.issuer.rfc4514_string(), "serial": f"{made.serial_number:x}"} for made in found]
        new = self.folder / "revoked.new"
        new.write_text(json.dumps({"revoked": rows, "ver": 1}))
        new.rename(self.folder / "revoked.json")

    def command(self, *words: str, check: bool = False, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run one command of agentkeys-signer to its end."""
        words = (*words, "--config", str(self.config))
        done = subprocess.run(
            [sys.executable, "-m", "signer", *words], capture_output=True, text=True, timeout=60, check=False, **options
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def start(self, *options: str) -> None:
        """Start serving and wait for the ready line."""
        command = [sys.executable, "-m", "signer", "serve", "--config", str(self.config), *options]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_LIMIT_S)
        line = self.process.stdout.readline() if ready else ""
        assert line.startswith("ready 127.0.0.1:"), self.log
        self.target = line.split()[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process and return its exit status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        assert process.stdout is not None
        process.send_signal(number)
        try:
            return process.wait(30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    @contextmanager
    def channel(self, name: str, **leaf: Any) -> Iterator[grpc.Channel]:
        """A channel with that client's certificate; with `leaf`, one of that shape made now."""
        files = self.leaf(name, **leaf) if leaf else Files(self.folder / name)
        ca = self.folder / "signer" / "ca.pem"
        channel = client_channel(self.target, files.certificate, files.key, ca, SERVER_NAME)
        try:
            yield channel
        finally:
            channel.close()

    def journal(self) -> list[dict[str, Any]]:
        """Every journal line, in order; complete once the process has stopped."""
        with closing(sqlite3.connect(f"file:{self.folder / 'state' / 'state.db'}?mode=ro", uri=True)) as conn:
            return [json.loads(line) for (line,) in conn.execute("SELECT line FROM journal ORDER BY seq")]


def refusal(call: Any) -> KeyServiceError:
    """The refusal that a call ended with."""
    try:
        call()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call was served")


def eventually(check: Any, *, limit_s: float = 10.0) -> None:
    """Return once `check` holds."""
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ca_bytes(issuer: Issuer) -> bytes:
    return pem(issuer.root())


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


__all__: Sequence[str] = ("BROKER", "DAEMON", "WORKER", "SignerProcess", "eventually", "refusal")
