"""Starts and stops the real processes of one deployment on loopback. The demo, the tests and the bench stand on it."""

import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TRUST_DOMAIN = "demo.agentkeys.test"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 8.0


class StackError(Exception):
    """A process of the stack did not start; the message holds the end of its log."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> list[str]:
    """Return the command line that runs one of our console commands in this very environment."""
    return [sys.executable, "-m", name]


def run(command: Sequence[str | Path], *, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; StackError with its error output where it fails."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise StackError(f"{Path(str(command[2])).name} {command[3]}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done


@dataclass(slots=True, kw_only=True)
class Service:
    """One process: its command, its log, the process while it runs."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait for its `ready` line."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_LIMIT_S
        seen = b""
        while b"\n" not in seen:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            if not chunk:
                self.stop()
                raise StackError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            seen += chunk
        if not seen.startswith(b"ready "):
            self.stop()
            raise StackError(f"{self.name} said {seen!r} instead of ready")

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        if self.process is None:
            raise StackError(f"{self.name} is not running")
        return self.process.pid

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL; nothing where it does not run."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def kill(self) -> None:
        """End the process by SIGKILL, as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None


@dataclass(slots=True, kw_only=True)
class Stack:
    """A whole deployment in one folder: certificates, vault, configurations, four services and the issuer's static files."""

    root: Path
    signer_options: tuple[str, ...] = ("--allow-software-k11",)
    ports: dict[str, int] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    registry_id: str = ""
    profile_hash: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # extra lines of a service's configuration, by service

    @property
    def profile(self) -> Path:
        """The profile that devices are given."""
        return self.root / "profile.json"

    def certificate(self, name: str) -> Path:
        """Folder with cert.pem, key.pem and ca.pem of one part."""
        return self.root / "certs" / name

    def origin(self, name: str) -> str:
        """Origin of one HTTPS service."""
        return f"https://127.0.0.1:{self.ports[name]}"

    @property
    def signer_address(self) -> str:
        """Target of the signer's gRPC port."""
        return f"127.0.0.1:{self.ports['signer']}"

    @property
    def signer_name(self) -> str:
        """DNS name that only the signer's certificate carries."""
        return f"signer.{TRUST_DOMAIN}"

    def prepare(self) -> None:
        """Make certificates, keys, vault and configurations; nothing runs yet."""
        self.root.mkdir(parents=True, mode=0o700)
        self.ports = {name: free_port() for name in ("signer", "broker", "credentials", "audit", "issuer")}
        self._certificates()
        run([*program("broker"), "init", "--state-dir", self.root / "broker"])
        self._configurations()
        passphrase = self.root / "passphrase"
        passphrase.write_text(secrets.token_urlsafe(24))
        passphrase.chmod(0o600)
        config = self.root / "signer.toml"
        run([*program("signer"), "init", "--config", config])
        self.registry_id = json.loads(run([*program("signer"), "status", "--config", config, "--json"]).stdout)["registry_id"]
        for part in ("broker", "credentials", "audit"):
            path = self.root / f"{part}.toml"
            path.write_text(path.read_text().replace("REGISTRY_ID", self.registry_id))
        run([*program("signer"), "oidc", "export", self.root / "issuer", "--config", config, "--issuer", self.origin("issuer")])
        self._profile(config)

    def _certificates(self) -> None:
        authority = self.root / "ca"
        run([*program("certs"), "--dir", authority, "init", "--trust-domain", TRUST_DOMAIN])
        leaves = {
            "signer": ["signer", "main"],
            "broker": ["broker", "main", "--ip", "127.0.0.1"],
            "credentials": ["worker", "main", "--class", "credentials", "--ip", "127.0.0.1"],
            "audit": ["worker", "main", "--class", "audit", "--ip", "127.0.0.1"],
            "issuer": ["issuer", "main", "--ip", "127.0.0.1"],
            "daemon": ["daemon", "laptop"],
        }
        for name, words in leaves.items():
            run([*program("certs"), "--dir", authority, "issue", *words, "--out", self.certificate(name)])

    def _tls(self, name: str, authority: str) -> str:
        folder = self.certificate(name)
        return f'[tls]\ncertificate = "{folder}/cert.pem"\nkey = "{folder}/key.pem"\n{authority} = "{folder}/ca.pem"\n'

    def _configurations(self) -> None:
        cosign = f'cosign_keys = ["{self.root}/broker/k1.jwk.json"]\n'
        to_signer = f'[signer]\naddress = "{self.signer_address}"\nserver_name = "{self.signer_name}"\n'
        common = f'trust_domain = "{TRUST_DOMAIN}"\n'
        texts = {
            "signer": common
            + f'listen = "{self.signer_address}"\nstate_dir = "{self.root}/signer"\nvault = "{self.root}/vault.bin"\n'
            + cosign
            + self.settings.get("signer", "")
            + self._tls("signer", "client_ca")
            + f'revocation_list = "{self.root}/ca/revoked.json"\n'
            + f'[unseal]\nmethod = "passphrase"\npassphrase_file = "{self.root}/passphrase"\n',
            "broker": common
            + f'listen = "127.0.0.1:{self.ports["broker"]}"\nregistry_id = "REGISTRY_ID"\nstate_dir = "{self.root}/broker"\n'
            + self._tls("broker", "ca")
            + to_signer
            + self.settings.get("broker", "[quota]\ndevice_per_minute = 600\nuser_per_minute = 1200\n"),
        }
        for name in ("credentials", "audit"):
            objects = f'[objects]\ndirectory = "{self.root}/objects"\n' if name == "credentials" else ""
            texts[name] = (
                f'class = "{name}"\n{common}listen = "127.0.0.1:{self.ports[name]}"\nregistry_id = "REGISTRY_ID"\n'
                + cosign + self._tls(name, "ca") + to_signer + objects + self.settings.get(name, "")
            )
        for name, text in texts.items():
            (self.root / f"{name}.toml").write_text(text)

    def _profile(self, config: Path) -> None:
        words = ["profile", "--config", config, "--out", self.profile, "--ca", self.root / "ca" / "ca.pem"]
        words += ["--broker", self.origin("broker"), "--issuer", self.origin("issuer"), "--json"]
        for name in ("credentials", "audit"):
            words += ["--worker", f"{name}={self.origin(name)}"]
        words += ["--worker", f"memory={self.origin('credentials')}"]
        self.profile_hash = json.loads(run([*program("signer"), *words]).stdout)["profile_hash"]

    def start(self, *names: str) -> None:
        """Start the named services, or all of them in order."""
        logs = self.root / "logs"
        logs.mkdir(exist_ok=True)
        for name in names or ("issuer", "signer", "broker", "credentials", "audit"):
            config = ["--config", str(self.root / f"{name}.toml")]
            commands = {
                "issuer": [*program("demo.issuer"), str(self.root / "issuer"), str(self.certificate("issuer")), str(self.ports["issuer"])],
                "signer": [*program("signer"), "serve", *config, *self.signer_options],
                "broker": [*program("broker"), "serve", *config],
            }
            command = commands.get(name, [*program("worker"), "serve", *config])
            self.services[name] = Service(name=name, command=command, log=logs / f"{name}.log")
            self.services[name].start()

    def stop(self, *names: str) -> None:
        """Stop the named services, or all of them, last started first."""
        for name in names or tuple(reversed(list(self.services))):
            if name in self.services:
                self.services[name].stop()


@contextmanager
def running_stack(root: Path, **options: object) -> Iterator[Stack]:
    """Yield a prepared and started stack; stop it whatever happens."""
    stack = Stack(root=root, **options)  # type: ignore[arg-type]
    stack.prepare()
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def fresh(root: Path) -> Path:
    """Remove what an earlier run left in `root` and return it."""
    shutil.rmtree(root, ignore_errors=True)
    return root
