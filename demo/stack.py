"""One deployment on loopback: its certificates, vault, configurations and processes. Demo and tests stand on it."""

import json
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo.process import Service, StackError, free_port, program, run

__all__ = ["TRUST_DOMAIN", "Service", "Stack", "StackError", "fresh", "running_stack"]

TRUST_DOMAIN = "demo.agentkeys.test"
#: What starts together, in the order in which one needs the other.
WAVES = (("issuer", "signer"), ("broker", "credentials", "audit"))
_SIGNING = Path(__file__).with_name("signing.toml")
#: Ready to be started by name; the story needs no memories, and a process is a second.
MEMORY = "memory"
_WORKERS = ("credentials", "audit", MEMORY)
PARTS = (*(name for wave in WAVES for name in wave), MEMORY)
_LEAVES = {
    "signer": ("signer", "main"),
    "broker": ("broker", "main", "--ip", "127.0.0.1"),
    "credentials": ("worker", "main", "--class", "credentials", "--ip", "127.0.0.1"),
    "audit": ("worker", "main", "--class", "audit", "--ip", "127.0.0.1"),
    MEMORY: ("worker", "main", "--class", MEMORY, "--ip", "127.0.0.1"),
    "issuer": ("issuer", "main", "--ip", "127.0.0.1"),
    "daemon": ("daemon", "laptop"),
}


@dataclass(slots=True, kw_only=True)
class Stack:
    """A whole deployment in one folder. `prepare` makes it, `start` runs it, `stop` ends every process of it.

    `detours` names ports that stand between parts: `broker` (devices to the broker), `credentials` and `audit` (that
    worker to the signer). Whoever names one listens there and passes the bytes on.
    """

    root: Path
    signer_options: tuple[str, ...] = ("--allow-software-k11",)
    ports: dict[str, int] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    registry_id: str = ""
    profile_hash: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # extra lines of a service's configuration, by service
    objects: str = ""  # the tables that say where objects lie; a local folder where this is empty
    detours: dict[str, int] = field(default_factory=dict)
    broker_name: str = ""  # a DNS name at which devices know the broker; the loopback address where this is empty
    jobs: int = 1  # commands that run side by side while certificates are made

    @property
    def profile(self) -> Path:
        """The profile that devices are given."""
        return self.root / "profile.json"

    @property
    def ca(self) -> Path:
        """The root that everybody trusts."""
        return self.root / "ca" / "ca.pem"

    def certificate(self, name: str) -> Path:
        """Folder with cert.pem, key.pem and ca.pem of one part."""
        return self.root / "certs" / name

    def config(self, name: str) -> Path:
        """Configuration file of one service."""
        return self.root / f"{name}.toml"

    def origin(self, name: str) -> str:
        """Origin at which one HTTPS service listens."""
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
        self.make_certificates()
        self.make_vault()

    def make_certificates(self) -> None:
        """Make the folder, the authority and a leaf for each part."""
        self.root.mkdir(parents=True, mode=0o700)
        self.ports = {name: free_port() for name in PARTS}
        run([*program("certs"), "--dir", self.root / "ca", "init", "--trust-domain", TRUST_DOMAIN])
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(lambda leaf: self.issue(leaf[0], *leaf[1], *self._names(leaf[0])), _LEAVES.items()))

    def _names(self, part: str) -> tuple[str, ...]:
        return ("--dns", self.broker_name) if part == "broker" and self.broker_name else ()

    def issue(self, name: str, *words: str) -> Path:
        """Issue one more certificate by `agentkeys-certs issue` and return its folder."""
        folder = self.certificate(name)
        run([*program("certs"), "--dir", self.root / "ca", "issue", *words, "--out", folder])
        return folder

    def make_vault(self) -> None:
        """Make K1, the vault with its master secret, the issuer's files and the profile."""
        run([*program("broker"), "init", "--state-dir", self.root / "broker"])
        passphrase = self.root / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text(secrets.token_urlsafe(24))
        self._configurations()
        config = self.config("signer")
        run([*program("signer"), "init", "--config", config])
        status = run([*program("signer"), "status", "--config", config, "--json"])
        self.registry_id = json.loads(status.stdout)["registry_id"]
        for name in ("broker", *_WORKERS):
            path = self.config(name)
            path.write_text(path.read_text().replace("REGISTRY_ID", self.registry_id))
        issuer = ["--issuer", self.origin("issuer")]
        run([*program("signer"), "oidc", "export", self.root / "issuer", "--config", config, *issuer])
        self._profile(config)

    def _tls(self, name: str, authority: str) -> str:
        folder = self.certificate(name)
        return f'[tls]\ncertificate = "{folder}/cert.pem"\nkey = "{folder}/key.pem"\n{authority} = "{folder}/ca.pem"\n'

    def _to_signer(self, name: str) -> str:
        port = self.detours.get(name, self.ports["signer"]) if name != "broker" else self.ports["signer"]
        return f'[signer]\naddress = "127.0.0.1:{port}"\nserver_name = "{self.signer_name}"\n'

    def _configurations(self) -> None:
        shutil.copyfile(_SIGNING, self.root / "signing.toml")
        cosign = f'cosign_keys = ["{self.root}/broker/k1.jwk.json"]\n'
        common = f'trust_domain = "{TRUST_DOMAIN}"\n'
        quota = "[quota]\ndevice_per_minute = 600\nuser_per_minute = 1200\n"
        texts = {
            "signer": common
            + f'listen = "{self.signer_address}"\nstate_dir = "{self.root}/signer"\nvault = "{self.root}/vault.bin"\n'
            + cosign
            + f'signing_policy = "{self.root}/signing.toml"\n'
            + self.settings.get("signer", "")
            + self._tls("signer", "client_ca")
            + f'revocation_list = "{self.root}/ca/revoked.json"\n'
            + f'[issuer]\norigin = "{self.origin("issuer")}"\nca = "{self.ca}"\n'
            + f'[unseal]\nmethod = "passphrase"\npassphrase_file = "{self.root}/passphrase"\n',
            "broker": self._edge("broker")
            + f'origin = "{self._broker_origin()}"\nstate_dir = "{self.root}/broker"\n'
            + f'profile = "{self.profile}"\n'
            + self._tls("broker", "ca")
            + self._to_signer("broker")
            + self.settings.get("broker", quota),
        }
        for name in _WORKERS:
            folder = f'[objects]\ndirectory = "{self.root}/objects"\n'
            tree = f'[checkpoints]\nevery_s = 1.0\ndirectory = "{self.root}/tree"\n'
            objects = tree if name == "audit" else (name == "credentials" and self.objects) or folder
            links = self._tls(name, "ca") + self._to_signer(name) + objects
            texts[name] = f'class = "{name}"\n' + self._edge(name) + cosign + links + self.settings.get(name, "")
        for name, text in texts.items():
            self.config(name).write_text(text)

    def _edge(self, name: str) -> str:
        listen = f'listen = "127.0.0.1:{self.ports[name]}"\n'
        return f'trust_domain = "{TRUST_DOMAIN}"\n{listen}registry_id = "REGISTRY_ID"\n'

    def _broker_origin(self) -> str:
        return f"https://{self.broker_name or '127.0.0.1'}:{self.detours.get('broker', self.ports['broker'])}"

    def _profile(self, config: Path) -> None:
        broker = self._broker_origin()
        words: list[str | Path] = ["profile", "--config", config, "--out", self.profile, "--ca", self.ca]
        words += ["--broker", broker, "--issuer", self.origin("issuer"), "--json"]
        for name in _WORKERS:
            words += ["--worker", f"{name}={self.origin(name)}"]
        self.profile_hash = json.loads(run([*program("signer"), *words]).stdout)["profile_hash"]

    def start(self, *names: str) -> None:
        """Start the named services, or all of them; every one answers when this returns."""
        for wave in [names] if names else WAVES:
            for name in wave:
                self._service(name).launch()
            for name in wave:
                self.services[name].await_ready()

    def _service(self, name: str) -> Service:
        logs = self.root / "logs"
        logs.mkdir(exist_ok=True)
        config = ["--config", str(self.config(name))]
        files = [str(self.root / "issuer"), str(self.certificate("issuer")), str(self.ports["issuer"])]
        commands = {
            "issuer": [*program("demo.issuer"), *files],
            "signer": [*program("signer"), "serve", *config, *self.signer_options],
            "broker": [*program("broker"), "serve", *config],
        }
        command = commands.get(name, [*program("worker"), "serve", *config])
        self.services[name] = Service(name=name, command=command, log=logs / f"{name}.log")
        return self.services[name]

    def stop(self, *names: str) -> None:
        """Stop the named services, or all of them, last started first."""
        for name in names or tuple(reversed(list(self.services))):
            if name in self.services:
                self.services[name].stop()


@contextmanager
def running_stack(root: Path, **options: object) -> Iterator[Stack]:
    """Yield a prepared and started stack; stop it whatever happens."""
    stack = Stack(root=root, **options)  # type: ignore[arg-type]  # as the dataclass takes them
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
