"""A signer without its port: real keyring, real SQLite, real committer; a user with two masters and an agent."""

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.audit import AuditEnvelope, AuditRow
from agentkeys_core.bodies import EMPTY_BODY, AuditListBody, ListBody, request_hash
from agentkeys_core.captoken import Cap, CapRequest, UncosignedCap
from agentkeys_core.ids import child_omni, operator_omni
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey, ES256PublicKey, es256_sign
from agentkeys_core.ops import OPS, Effect, Op, Service, WorkerClass
from agentkeys_core.proof import k10_digest
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, OperatorState, Role, Tier
from agentkeys_core.secret import Secret
from agentkeys_runtime.identity import CallerIdentity, CallerRole
from signer.adapters.committer import Committer
from signer.adapters.database import Database, initialise, open_state
from signer.admission import ServicePolicy, StsPolicy
from signer.gate import Gate
from signer.journal import verify_journal
from signer.keyring import Keyring
from signer.ledger import Journalist
from signer.limits import Limits, Rate
from signer.ports import RegistryReader, StsExchange
from signer.refusals import DISK_RESERVE_BYTES, Refusals
from signer.releases import KeyRelease
from signer.service import SignerService
from signer.signing_policy import SigningPolicy
from tests.fakes.clock import StillClock
from tests.fakes.registry import StaticRegistry
from tests.unit.core.material import SoftwareK11

REGISTRY_ID = "ab" * 32
WALLET = bytes(range(20))
OPERATOR = operator_omni(WALLET)
AGENT_ACTOR = child_omni(OPERATOR, "agent-a", 0)
PLENTY = Rate(per_s=1e9, burst=1e9)
ARN = "arn:aws:iam::000000000000:role/credentials"
K3 = {1: bytes([1]) * 32, 2: bytes([2]) * 32}


def keyring(epochs: tuple[int, ...] = (1, 2)) -> Keyring:
    return Keyring({epoch: Secret.copy_of(K3[epoch]) for epoch in epochs})


def worker(worker_class: WorkerClass = WorkerClass.CREDENTIALS, name: str = "w1") -> CallerIdentity:
    return CallerIdentity(
        role=CallerRole.WORKER,
        worker_class=worker_class,
        name=name,
        spiffe_id=f"spiffe://test/worker/{worker_class}/{name}",
        serial=1,
        issuer="CN=test",
        not_after=4e9,
        fingerprint=(worker_class.value + name).encode().hex().ljust(64, "0"),
    )


def broker() -> CallerIdentity:
    return CallerIdentity(
        role=CallerRole.BROKER,
        worker_class=None,
        name="b1",
        spiffe_id="spiffe://test/broker/b1",
        serial=2,
        issuer="CN=test",
        not_after=4e9,
        fingerprint="bb" * 32,
    )


CREDENTIALS = worker()
MEMORY = worker(WorkerClass.MEMORY)
AUDIT = worker(WorkerClass.AUDIT)
OF_CLASS = {WorkerClass.CREDENTIALS: CREDENTIALS, WorkerClass.MEMORY: MEMORY, WorkerClass.AUDIT: AUDIT}


class User:
    """One operator with its devices, as the registry knows them."""

    def __init__(self, wallet: bytes = WALLET) -> None:
        self.operator = operator_omni(wallet)
        self.agent_actor = child_omni(self.operator, "agent-a", 0)
        self.wallet = wallet
        self.master, self.second, self.agent = DeviceKey.generate(), DeviceKey.generate(), DeviceKey.generate()
        self.k11, self.second_k11 = SoftwareK11(b"first" + wallet), SoftwareK11(b"second" + wallet)

    def state(self) -> OperatorState:
        def device(key: DeviceKey, **changed: Any) -> DeviceRecord:
            members: dict[str, Any] = {
                "device_key_hash": key.key_hash,
                "operator_omni": self.operator,
                "actor_omni": self.operator,
                "address": key.address,
                "tier": Tier.MASTER,
                "roles": ALL_ROLES,
                "revoked": False,
                "registered_at": 1,
            }
            return DeviceRecord(**(members | changed))

        agent = {"actor_omni": self.agent_actor, "tier": Tier.AGENT, "roles": Role.CAP_MINT}
        devices = (
            device(self.master, k11=self.k11.public),
            device(self.second, k11=self.second_k11.public),
            device(self.agent, label="agent-a", generation=0, **agent),
        )
        scope = frozenset({"cred:openrouter", "memory:travel", "memory:food"})
        return OperatorState(
            operator_omni=self.operator,
            wallet=self.wallet,
            wallet_epoch=0,
            frozen=False,
            nonce=1,
            freeze_nonce=0,
            threshold=1,
            devices=MappingProxyType({entry.device_key_hash: entry for entry in devices}),
            scopes=MappingProxyType({self.agent_actor: scope}),
            incarnation=1,
            k3_epoch=1,
        )


class World:
    """Everything that a service needs, and shorthands for what devices and workers send to it."""

    def __init__(
        self,
        directory: Path,
        *,
        exchange: StsExchange | None = None,
        device: Rate = PLENTY,
        signing: SigningPolicy | None = None,
    ) -> None:
        self.signing_policy = signing or SigningPolicy()
        self.path = directory / "state.db"
        self.clock = StillClock()
        self.keyring = keyring()
        self.k1 = ec.generate_private_key(ec.SECP256R1())
        self.k1_public = ES256PublicKey.of(self.k1.public_key())
        self.user = User()
        self.registry = StaticRegistry(REGISTRY_ID)
        self.registry.put(self.user.state())
        self.free_bytes = 10 * DISK_RESERVE_BYTES
        self.exchange = exchange
        self.device_rate = device
        self.gate = Gate()
        self.epoch = 1
        if not self.path.exists():
            initialise(self.path, registry_id=REGISTRY_ID, keyring=self.keyring, now=int(self.clock.now()))
        self.database: Database = open_state(self.path, self.keyring)
        self.committer = Committer(self.database, self.keyring, self.clock)
        self.service = self.make_service(self.registry)

    def make_service(
        self, registry: RegistryReader, *, certificate: Rate = PLENTY, journalist: Journalist | None = None
    ) -> SignerService:
        journalist = journalist or self.committer
        self.refusals = Refusals(journalist, self.clock, free_bytes=lambda: self.free_bytes, monotonic=time.monotonic)
        roles = {WorkerClass.CREDENTIALS: frozenset({ARN})}
        sts = StsPolicy(issuer="https://issuer.test", audience="sts", bucket="bucket", role_arns=roles)
        return SignerService(
            keyring=self.keyring,
            journalist=journalist,
            snapshot=self.database.snapshot,
            glance=self.database.glance,
            registry=registry,
            clock=self.clock,
            policy=ServicePolicy(
                aud=REGISTRY_ID,
                cosign_keys={self.k1_public.kid: self.k1_public},
                sts=sts,
                signing=self.signing_policy,
            ),
            limits=Limits(certificate=certificate, device=self.device_rate, monotonic=time.monotonic),
            refusals=self.refusals,
            sts=self.exchange,
            gate=self.gate,
        )

    def close(self) -> None:
        self.committer.close()
        self.database.close()

    def advance(self, epoch: int = 2) -> None:
        """Make another held epoch the current one, as a rotation does."""
        check = self.keyring.k3_check(epoch)
        with closing(self.database.connect()) as conn:
            conn.execute("INSERT OR IGNORE INTO k3_checks(epoch, check_value) VALUES (?, ?)", (epoch, check))
            conn.execute("UPDATE meta SET value = ? WHERE key = 'k3_epoch'", (epoch,))
        self.registry.set_epoch(epoch)
        self.epoch = epoch

    # What devices send.

    def request(self, op: Op, service: str, *, key: DeviceKey | None = None, **changed: Any) -> CapRequest:
        key = key or self.user.master
        effect = OPS[op].effect
        body = secrets.token_bytes(8) if effect is Effect.WRITE else EMPTY_BODY
        now = int(self.clock.now())
        members: dict[str, Any] = {
            "actor_omni": self.user.agent_actor if key is self.user.agent else self.user.operator,
            "aud": REGISTRY_ID,
            "device": key.key_hash,
            "expires_at": now + 300,
            "issued_at": now,
            "k3_epoch": self.epoch,
            "nonce": secrets.token_bytes(16),
            "op": op,
            "operator_omni": self.user.operator,
            "reply_key": X25519PrivateKey.generate().public_key().public_bytes_raw(),
            "request_hash": request_hash(body),
            "service": Service.parse(service, op),
        }
        return CapRequest.compose(**(members | changed))

    def signed(
        self,
        request: CapRequest,
        *,
        key: DeviceKey | None = None,
        k11: SoftwareK11 | None = None,
        k1: ec.EllipticCurvePrivateKey | None = None,
        **changed: Any,
    ) -> bytes:
        key = key or self.user.master
        members: dict[str, Any] = {
            "request": request,
            "device_public_key": key.public_key,
            "device_signature": key.sign(k10_digest("cap", request.raw)),
            "k11": None if k11 is None else k11.answer(cap_challenge(request.digest)),
        }
        cap = UncosignedCap(**(members | changed))
        return cap.cosigned(es256_sign(k1 or self.k1, cap.cosign_message()), self.k1_public.kid).encode()

    def cap(
        self, op: Op, service: str, *, key: DeviceKey | None = None, touch: bool | None = None, **changed: Any
    ) -> bytes:
        """A cap as a well-behaved device makes it; `touch` adds or leaves out K11 where it would be otherwise."""
        master = key is None or key is self.user.master
        if touch is None:
            touch = master and op in (Op.CRED_FETCH, Op.CRED_DELETE)
        return self.signed(self.request(op, service, key=key, **changed), key=key, k11=self.user.k11 if touch else None)

    # What workers do with it.

    def caller(self, cap: bytes) -> CallerIdentity:
        worker_class = Cap.parse(cap).request.rule.worker_class
        return broker() if worker_class is None else OF_CLASS[worker_class]

    def derive(self, cap: bytes, **given: Any) -> KeyRelease:
        return self.service.derive_cred_kek(self.caller(cap), cap, **given)

    def read(self, cap: bytes, stored: KeyRelease) -> KeyRelease:
        return self.derive(cap, epoch=stored.epoch, salt=stored.salt)

    def ack(self, cap: bytes, result: int = 0) -> bytes:
        return self.service.sign_audit_row(self.caller(cap), cap, result)

    def store(
        self, service: str = "cred:openrouter", *, expect: bytes = b"", key: DeviceKey | None = None
    ) -> tuple[KeyRelease, bytes]:
        """A store from request to acknowledgement: what was released, and the cap."""
        op = Op.CRED_STORE if service.startswith("cred:") else Op.MEMORY_PUT
        cap = self.cap(op, service, key=key, touch=op is Op.CRED_STORE and bool(expect))
        released = self.derive(cap, expect=expect)
        self.ack(cap)
        return released, cap

    def fetch(self, stored: KeyRelease, service: str = "cred:openrouter", key: DeviceKey | None = None) -> KeyRelease:
        op = Op.CRED_FETCH if service.startswith("cred:") else Op.MEMORY_GET
        return self.read(self.cap(op, service, key=key), stored)

    def names(self, *, after: str | None = None, limit: int = 100, key: DeviceKey | None = None, prefix: str = "cred"):
        op = Op.CRED_LIST if prefix == "cred" else Op.MEMORY_LIST
        body = ListBody(after=after, limit=limit).encode()
        cap = self.cap(op, f"{prefix}:list", key=key, request_hash=request_hash(body))
        return self.service.list_objects(self.caller(cap), cap, after=after, limit=limit)

    def audit(
        self, service: str = "audit:own", *, after: int | None = None, limit: int = 100, key: DeviceKey | None = None
    ):
        body = AuditListBody(after=after, limit=limit).encode()
        cap = self.cap(Op.AUDIT_LIST, service, key=key, request_hash=request_hash(body))
        return self.service.get_audit_rows(AUDIT, cap, after=after, limit=limit)

    # What stays.

    def settle(self) -> None:
        """Return once everything that was posted so far is committed."""
        self.committer.run(lambda _: None)

    def lines(self) -> list[dict[str, Any]]:
        import orjson

        self.settle()
        return [orjson.loads(line) for (line,) in self.database.reader().execute("SELECT line FROM journal")]

    def count(self, table: str) -> int:
        found: tuple[int] = self.database.reader().execute(f"SELECT count(*) FROM {table}").fetchone()
        return found[0]

    def dump(self) -> list[Any]:
        """Everything that the state file holds, for comparing before and after."""
        tables = ("caps", "objects", "salts", "holds", "heads", "rows", "journal", "journal_head")
        return [self.database.reader().execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    def audit_keys(self) -> dict[str, ES256PublicKey]:
        keys = [self.keyring.public_key("audit", epoch) for epoch in self.keyring.epochs]
        return {key.kid: key for key in keys}

    def check(self) -> None:
        """The journal replays, and every row verifies."""
        verify_journal(self.database.reader(), self.keyring)
        for (row,) in self.database.reader().execute("SELECT row FROM rows"):
            AuditRow.parse(row).verify(self.audit_keys())


def digest_of(cap: bytes) -> bytes:
    return Cap.parse(cap).digest


@contextmanager
def world_in(directory: Path, **given: Any) -> Iterator[World]:
    made = World(directory, **given)
    try:
        yield made
        made.check()
    finally:
        made.close()


class Between:
    """Does something just before the next unit runs."""

    def __init__(self, world, action):
        self._world, self._action = world, action
        self.check_clock, self.post = world.committer.check_clock, world.committer.post

    def run(self, unit):
        action, self._action = self._action, lambda: None
        action()
        return self._world.committer.run(unit)

    def run_all(self, units):
        action, self._action = self._action, lambda: None
        action()
        return self._world.committer.run_all(units)


def row_of(data: bytes, world: "World") -> tuple[AuditRow, AuditEnvelope]:
    row = AuditRow.parse(data)
    return row, row.verify(world.audit_keys())


def current(world: World, service: str = "cred:openrouter") -> bytes | None:
    listed = {entry.name: entry.store for entry in world.names(prefix=service.partition(":")[0]).names}
    return listed.get(service.partition(":")[2])
