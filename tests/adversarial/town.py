"""A whole deployment of real processes with users whose keys a test may use, steal and forge with."""

import json
import secrets
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import click.testing
import httpx
import typer.testing

import broker.cli
import certs.cli
import demo.stack
from agentkeys_core.audit import AuditRow
from agentkeys_core.bodies import StoreBody
from agentkeys_core.caprequest import CapRequest
from agentkeys_core.captoken import Cap
from agentkeys_core.changes import Change, ChangeSignatures, K11OfDevice, SignedChange
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op, Service
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.mtls import client_channel
from agentkeys_runtime.registry_client import RegistryFollower
from agentkeys_runtime.signer_client import ReleasedKey, SignerClient
from demo.attacker import Asked, Who, compose, cosign, https
from demo.stack import PARTS, Stack
from device.agents import add_agent
from device.change_desk import views_of
from device.enrol import enrol
from device.home import Home
from device.intent import Intent
from device.k11.port import K11Kind
from device.keys import SignedDigest
from device.pairing import make_offer
from device.session import Device
from device.setting_up import confirmed_profile, set_up
from device.show import Show
from tests.minio import MinioServer

OPENROUTER = "cred:openrouter"
#: A hundred tests are one address, and much of what they send is meant to be refused.
ALL_FROM_ONE_ADDRESS = "[addresses]\nper_second = 1e6\nburst = 1e6\n"
#: What a test waits for something that the system promises to happen by itself.
PATIENCE_S = 20.0


@dataclass(slots=True, kw_only=True)
class QuickStack(Stack):
    """A stack that is soon ready: certificates and K1 are made by the same commands, but in this process.

    Its vault is opened by a key file: a signer that is killed often shall start fast. With `bucket` its objects lie in
    a real object store, which starts as soon as the issuer serves.
    """

    bucket: bool = False
    minio: MinioServer | None = None

    def prepare(self) -> None:
        """Make certificates, keys, vault and configurations; nothing runs yet."""
        with patch.object(demo.stack, "run", _run):
            Stack.prepare(self)

    def make_certificates(self) -> None:
        """Make the authority and a leaf for each part; then it is known where the object store will be."""
        Stack.make_certificates(self)
        if self.bucket:
            certificate = self.issue("minio", "issuer", "minio", "--ip", "127.0.0.1")
            folder = self.root / "minio"
            folder.mkdir()
            self.minio = MinioServer(folder=folder, certificate=certificate, issuer=self.origin("issuer"))
            self.settings["signer"] = self.settings.get("signer", "") + self.minio.signer_table()
            self.objects = self.minio.worker_table()

    def start(self, *names: str) -> None:
        """Start the named services, or all of them; the object store reads the issuer's files when it starts."""
        if self.minio is not None and self.minio.process is None:
            Stack.start(self, "issuer")
            self.minio.start()
            self.minio.prepare()
            names = names or tuple(part for part in PARTS if part != "issuer")
            for part in names:
                Stack.start(self, part)
            return
        Stack.start(self, *names)

    def stop(self, *names: str) -> None:
        """Stop the named services, or all of them and the object store."""
        Stack.stop(self, *names)
        if self.minio is not None and not names:
            self.minio.stop()

    def _configurations(self) -> None:
        Stack._configurations(self)
        config = self.root / "signer.toml"
        unseal = f'method = "passphrase"\npassphrase_file = "{self.root}/passphrase"\n'
        text = config.read_text()
        assert unseal in text
        config.write_text(text.replace(unseal, f'method = "key-file"\nkey_file = "{self.root}/vault.key"\n'))
        for name in ("broker", "credentials", "memory", "audit"):
            with self.config(name).open("r+") as file:
                if "[addresses]" not in file.read():
                    file.write(ALL_FROM_ONE_ADDRESS)


def _run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
    """Run a command, in this process where it is one that keeps no K3."""
    _, _, module, *words = (str(part) for part in command)
    done: Any
    if module == "certs":
        done = typer.testing.CliRunner().invoke(certs.cli.app, words, catch_exceptions=False)
    elif module == "broker":
        done = click.testing.CliRunner().invoke(broker.cli.app, words, catch_exceptions=False)
    else:
        return subprocess.run([str(part) for part in command], capture_output=True, check=True)
    assert done.exit_code == 0, done.output
    return subprocess.CompletedProcess(words, 0, done.stdout_bytes, b"")


@dataclass(kw_only=True)
class Member:
    """One device of the town: opened as its owner has it, and its bare key as a thief has it."""

    town: "Town"
    device: Device
    key: DeviceKey
    who: Who

    def approve(self, request: CapRequest) -> K11Assertion:
        """This master's K11 over a request."""
        return self.assertion(self.device.k10.sign_request(request))

    def asked(self, op: Op, service: str, body: bytes = b"{}", *, k11: bool = False, **rest: Any) -> Asked:
        """A request of this device, without co-signature; with `k11` approved by this master."""
        if k11:
            rest["approve"] = self.approve
        return compose(self.town.stack, self.key, self.who, op, service, body, **rest)

    def cap(self, op: Op, service: str, body: bytes = b"{}", **rest: Any) -> Cap:
        """The same, co-signed."""
        return cosign(self.town.stack, self.asked(op, service, body, **rest).cap)

    def signed_change(self, change: Change, *, k11: bool | tuple[K11OfDevice, ...], **signatures: Any) -> bytes:
        """A registry change with this device's K10, and its K11 (or what is given instead of it), as an HTTP body."""
        signed = self.device.k10.sign_change(change, self.device.profile.domain)
        if isinstance(k11, bool):
            k11 = (K11OfDevice(device=self.key.key_hash, assertion=self.assertion(signed)),) if k11 else ()
        signatures = {"k10": signed.signature, "k11": k11} | signatures
        return SignedChange(change=change, signatures=ChangeSignatures(**signatures)).encode()

    def assertion(self, signed: SignedDigest) -> K11Assertion:
        """This master's K11 over something that its K10 signed, whatever that is."""
        authenticator, record = self.device.k11()
        return authenticator.approve(record, signed, Intent(title="", lines=(), digest=signed.name))

    def state(self) -> OperatorState:
        """What the registry says of this operator."""
        return views_of(self.device, self.who.operator)[0].state

    def header(self) -> dict[str, int]:
        """What the next change of this operator must carry."""
        state = self.state()
        return {"incarnation": state.incarnation, "nonce": state.nonce, "deadline": int(time.time()) + 300}


@dataclass(frozen=True, kw_only=True)
class Version:
    """One store as the signer knows it: request, cap, body and what was released for it."""

    asked: Asked
    cap: Cap
    body: bytes
    released: ReleasedKey

    @property
    def salt(self) -> dict[str, Any]:
        """What a read of this version names."""
        return {"epoch": self.released.epoch, "salt": self.released.salt}


@dataclass(kw_only=True)
class Town:
    """A running stack and what tests do with it. Channels and clients live as long as the town."""

    stack: QuickStack
    _open: ExitStack = field(default_factory=ExitStack)
    _clients: dict[str, SignerClient] = field(default_factory=dict)
    _count: int = 0

    def __enter__(self) -> Self:
        self.web = self._open.enter_context(https(self.stack.root / "ca" / "ca.pem"))
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def channel(self, certificate: str) -> Any:
        """A channel to the signer with one part's certificate; the caller closes it."""
        folder = self.stack.certificate(certificate)
        files = (folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        return client_channel(self.stack.signer_address, *files, self.stack.signer_name)

    def signer(self, certificate: str = "credentials") -> SignerClient:
        """The signer, called with one part's certificate."""
        if certificate not in self._clients:
            channel = self._open.enter_context(self.channel(certificate))
            self._clients[certificate] = SignerClient(channel)
        return self._clients[certificate]

    def post(self, service: str, path: str, body: bytes) -> httpx.Response:
        """POST to a broker or worker over one kept connection."""
        headers = {"content-type": "application/json"}
        return self.web.post(self.stack.origin(service) + path, content=body, headers=headers)

    def restart(self, *names: str) -> None:
        """Stop and start parts, and wait until every part hears the registry again."""
        self.stack.stop(*names)
        self.stack.start(*names)
        self.settle()

    def settle(self) -> None:
        """Wait until broker and workers read the registry from the signer; a name nobody has is in no cache."""
        for part in ("broker", "credentials", "audit"):
            eventually(lambda part=part: self._reads(part))  # type: ignore[misc]

    def _reads(self, part: str) -> bool:
        path = f"/v1/registry/operators/{secrets.token_hex(32)}"
        try:
            return self.web.get(self.stack.origin(part) + path).is_success
        except httpx.TransportError:
            return False  # a connection that its server has closed meanwhile

    def ask_worker(self, asked: Asked, cap: Cap | None = None, *, worker: str = "credentials") -> httpx.Response:
        """Send a request to its worker, co-signed with the stolen K1 unless a cap is given."""
        cap = cap or cosign(self.stack, asked.cap)
        verb = cap.request.op.value.partition("-")[2]
        return self.post(worker, f"/v1/{worker}/{verb}", asked.http(cap))

    def apply(self, change: bytes) -> bytes:
        """Bring a change to the registry itself, with the broker's certificate; returns the row."""
        with self.channel("broker") as channel, RegistryFollower(channel) as follower:
            return follower.apply(change)

    def _home(self) -> Home:
        self._count += 1
        home = Home.open(self.stack.root / "homes" / f"{self._count}", create=True)
        return self._open.enter_context(home)

    def device(self) -> Device:
        """A device of this deployment that nobody knows yet."""
        profile = confirmed_profile(str(self.stack.profile), self.stack.profile_hash)
        return self._open.enter_context(set_up(self._home(), profile, Show(as_json=True, yes=True)))

    def master(self) -> Member:
        """A new user with a wallet of his own and a first master device."""
        device, wallet = self.device(), DeviceKey.generate()
        done = enrol(device, wallet=wallet.address, kind=K11Kind.SOFTWARE, wallet_signature=None, wallet_key=wallet)
        assert done.identity is not None
        operator = done.identity.operator_omni
        return Member(town=self, device=device, key=stolen_key(device), who=Who(operator=operator, actor=operator))

    def agent(self, master: Member, *services: str, label: str = "agent", generation: int | None = None) -> Member:
        """A new agent device of that master with these services."""
        device = self.device()
        number = self._count if generation is None else generation
        offer = make_offer(device, master.who.operator, label=label)
        add_agent(master.device, offer, label=label, generation=number, services=tuple(services))
        actor = child_omni(master.who.operator, label, number)
        who = Who(operator=master.who.operator, actor=actor)
        return Member(town=self, device=device, key=stolen_key(device), who=who)

    def store(self, master: Member, service: str, value: bytes, *, expect: bytes | None = None) -> Version:
        """Store at the signer alone, as a worker does it: what the object store holds is not touched."""
        body = StoreBody(blind=secrets.token_bytes(32), expect=expect, value=value).encode()
        asked = master.asked(Op.CRED_STORE, service, body, k11=expect is not None)
        cap = cosign(self.stack, asked.cap)
        released = self.signer().derive_cred_kek(cap.encode(), expect=expect)
        self.signer().sign_audit_row(cap.encode(), result=0)
        return Version(asked=asked, cap=cap, body=body, released=released)

    def object_file(self, master: Member, service: str) -> Path:
        """Where the worker keeps an object."""
        parsed = Service.parse(service, None)
        return self.stack.root / "objects" / "bots" / master.who.operator.hex() / "credentials" / f"{parsed.name}.enc"

    @property
    def database(self) -> Path:
        """The signer's state file."""
        return self.stack.root / "signer" / "state.db"

    def journal(self) -> list[dict[str, Any]]:
        """Every journal line so far."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as conn:
            return [json.loads(line) for (line,) in conn.execute("SELECT line FROM journal ORDER BY seq")]

    def rows(self) -> list[AuditRow]:
        """Every audit row so far, in the order of writing."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as conn:
            return [AuditRow.parse(row) for (row,) in conn.execute("SELECT row FROM rows ORDER BY id")]


def stolen_key(device: Device) -> DeviceKey:
    """K10, read from the device's folder."""
    found = json.loads((device.home.path / "k10.json").read_bytes())
    return DeviceKey.from_bytes(b64u_decode(found["private_key"], length=32))


def reason(call: Callable[[], object]) -> str:
    """The reason with which a call is refused; fails where it was let through."""
    try:
        call()
    except KeyServiceError as exc:
        return exc.reason.value
    raise AssertionError("it was let through")


def reason_of(response: httpx.Response) -> str:
    """The reason of a refused HTTP request; fails where it was let through."""
    assert not response.is_success, "it was let through"
    return str(response.json()["reason"])


def eventually(check: Callable[[], bool], *, limit_s: float = PATIENCE_S) -> float:
    """Return after how many seconds `check` held."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < limit_s
        time.sleep(0.02)
    return time.monotonic() - started


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def town_in(
    root: Path,
    *services: str,
    settings: dict[str, str] | None = None,
    detours: dict[str, int] | None = None,
    bucket: bool = False,
    broker_name: str = "",
    when_prepared: Callable[[dict[str, int]], None] = lambda _: None,
) -> Iterator[Town]:
    """Prepare and start a town, and end every process of it whatever happens.

    `when_prepared` gets the ports before anything runs.
    """
    stack = QuickStack(
        root=root, settings=settings or {}, detours=detours or {}, bucket=bucket, broker_name=broker_name
    )
    stack.prepare()
    when_prepared(stack.ports)
    try:
        stack.start(*services)
        with Town(stack=stack) as town:
            yield town
    finally:
        stack.stop()
