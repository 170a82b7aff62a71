"""Broker and workers as applications over a real signer in this process, and the devices that ask them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import URL

from agentkeys_core.bodies import EMPTY_BODY, AuditListBody, ListBody, StoreBody, request_hash
from agentkeys_core.captoken import Cap, UncosignedCap
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import OPS, Op, WorkerClass
from agentkeys_core.registry import OperatorState
from agentkeys_core.sealing import open_sealed
from agentkeys_runtime.registry_client import RegistryStatus
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.registry_routes import registry_endpoints
from agentkeys_runtime.web.registry_source import PinnedRegistry
from broker.adapters.store.ceremony_table import SqlCeremonies
from broker.adapters.store.counters import SqlCounters, SqlRedemptions
from broker.adapters.store.engine import database_url, open_engine
from broker.adapters.store.session_table import SqlSessions
from broker.adapters.store.use_table import SqlDeviceUses
from broker.ceremonies.pairing import PairingDesk
from broker.ceremonies.steps import Steps
from broker.cosign import Cosigner
from broker.keys import K1Keys
from broker.last_use import LastUse
from broker.proofs import Proofs
from broker.quota import Quota, QuotaLimits
from broker.sessions import SessionDesk
from broker.signing import SigningRelay
from broker.web.device_routes import device_endpoints
from broker.web.pairing_routes import pairing_endpoints
from broker.web.routes import broker_endpoints
from broker.web.session_routes import session_endpoints
from signer.ports import StsExchange
from signer.signing_policy import SigningPolicy
from tests.fakes.app_client import AppClient
from tests.fakes.in_process_signer import InProcessSigner
from tests.fakes.registry import StaticRegistry
from tests.unit.signer.world import REGISTRY_ID, World, world_in
from worker.adapters.deletions_local import LocalDeletions
from worker.adapters.objects_local import LocalObjects
from worker.adapters.objects_s3 import Bucket, S3Objects
from worker.adapters.signer import AdmittedSigner
from worker.adapters.store_local import LocalStore
from worker.admission import Admission, Admitted
from worker.app import object_operations
from worker.auditlog import AuditLog
from worker.credentials import ObjectService, Outcome
from worker.ports import ObjectStore
from worker.web.routes import operation_endpoints

BLIND = bytes(32)


BROKER_ORIGIN = "https://service.test"


class FollowedRegistry:
    """What a follower says: `states` where they were cached, else the signer's own word. `failing` refuses every read.

    Whoever is registered was seen here, unless a test says that all are `unseen`, or what is `remembered` of them.
    """

    def __init__(self, registry: StaticRegistry) -> None:
        self.registry = registry
        self.cached: dict[bytes, OperatorState] = {}
        self.failing: Reason | None = None
        self.unseen = False
        self.remembered: OperatorState | None = None
        self.rereads = 0
        self.lookups = 0
        self.applied: list[bytes] = []
        self.row = b""

    def lookup_device(self, device_key_hash: bytes, *, reread: bool = False) -> OperatorState | None:
        self._check()
        self.rereads += reread
        self.lookups += 1
        if device_key_hash in self.cached and not reread:
            return self.cached[device_key_hash]
        return self.registry.lookup_device(device_key_hash)

    def operator(self, operator_omni: bytes, *, reread: bool = False) -> OperatorState | None:
        self._check()
        return self.registry.operator(operator_omni)

    def seen_device(self, device_key_hash: bytes) -> OperatorState | None:
        return None if self.unseen else self.remembered or self.registry.lookup_device(device_key_hash)

    def seen_operator(self, operator_omni: bytes) -> OperatorState | None:
        return None if self.unseen else self.remembered or self.registry.operator(operator_omni)

    def status(self) -> RegistryStatus:
        self._check()
        found = self.registry.status()
        return RegistryStatus(found.registry_id, found.k3_epoch, found.incarnation)

    def apply(self, change: bytes) -> bytes:
        self.applied.append(change)
        return self.row

    def _check(self) -> None:
        if self.failing is not None:
            raise KeyServiceError(self.failing)


class Services:
    """One signer, a broker, a credentials worker and an audit worker, and clients of each."""

    def __init__(
        self,
        world: World,
        folder: Path,
        limits: QuotaLimits,
        bucket: Bucket | None,
        *,
        database: URL,
        addresses: AddressLimits | None,
    ) -> None:
        self.world = world
        self.addresses = addresses
        self.bucket = bucket
        self.followed = FollowedRegistry(world.registry)
        registry = PinnedRegistry(self.followed, REGISTRY_ID)
        self.engine = open_engine(database)
        self.counters = SqlCounters(self.engine)
        keys = K1Keys.of(world.k1)
        self.last_use = LastUse(SqlDeviceUses(self.engine), world.clock.now)  # which writes when a test says so
        self.cosigner = Cosigner(
            keys=keys,
            registry=registry,
            quota=Quota(limits, self.counters, world.clock.now),
            last_use=self.last_use,
            clock=world.clock.now,
            aud=REGISTRY_ID,
        )
        self.broker_signer = InProcessSigner(world)
        self.proofs = Proofs(
            origin=BROKER_ORIGIN,
            challenge_keys=keys.challenge_keys,
            redemptions=SqlRedemptions(self.engine),
            clock=world.clock.now,
        )
        self.sessions = SessionDesk(
            keys=keys,
            origin=BROKER_ORIGIN,
            registry=registry,
            sessions=SqlSessions(self.engine),
            proofs=self.proofs,
            counters=self.counters,
            clock=world.clock.now,
        )
        pairing = PairingDesk(
            proofs=self.proofs,
            steps=Steps(proofs=self.proofs, ceremonies=SqlCeremonies(self.engine), clock=world.clock.now),
            counters=self.counters,
            clock=world.clock.now,
        )
        self.broker = self._client(
            (
                *broker_endpoints(
                    cosigner=self.cosigner,
                    registry=registry,
                    addresses=self.broker_signer,
                    signing=SigningRelay(self.cosigner, self.broker_signer),
                ),
                *session_endpoints(self.sessions),
                *device_endpoints(self.sessions, self.last_use),
                *pairing_endpoints(pairing, self.sessions),
            )
        )
        self.folder = folder / "objects"
        self.objects = LocalObjects(self.folder, lock_timeout_s=2.0)
        self.signer = InProcessSigner(world, WorkerClass.CREDENTIALS)
        self.pauses: list[float] = []
        self.service = self.new_service()
        operations = {op: self._late(op) for op in object_operations(self.service)}
        self.worker = self._worker(WorkerClass.CREDENTIALS, operations, registry)
        self.audit_signer = InProcessSigner(world, WorkerClass.AUDIT)
        log = AuditLog(AdmittedSigner(self.audit_signer))
        self.audit = self._worker(WorkerClass.AUDIT, {Op.AUDIT_LIST: log.list}, registry)

    def new_service(self) -> ObjectService:
        signer = AdmittedSigner(self.signer)
        store: ObjectStore = self._local_store()
        if self.bucket is not None:
            store = S3Objects(self.bucket, signer)
        return ObjectService(signer=signer, objects=store, sleep=self.pauses.append)

    def _local_store(self) -> ObjectStore:
        return LocalStore(self.objects, LocalDeletions(self.objects, clock=self.world.clock.now))

    def restart(self) -> None:
        """The worker forgets whatever it had in memory."""
        self.service = self.new_service()

    def _late(self, op: Op) -> Callable[[Admitted], Outcome]:
        def ask(admitted: Admitted) -> Outcome:
            return object_operations(self.service)[op](admitted)  # of the service as it is then: it may have restarted

        return ask

    def admission(self, worker_class: WorkerClass = WorkerClass.CREDENTIALS) -> Admission:
        return Admission(
            worker_class=worker_class,
            aud=REGISTRY_ID,
            cosign_keys={self.world.k1_public.kid: self.world.k1_public},
            registry=PinnedRegistry(self.followed, REGISTRY_ID),
            clock=self.world.clock.now,
        )

    def _worker(self, worker_class: WorkerClass, operations: Any, registry: PinnedRegistry) -> AppClient:
        endpoints = operation_endpoints(self.admission(worker_class), operations)
        return self._client((*endpoints, *registry_endpoints(registry, self.world.clock.now)))

    def _client(self, endpoints: Any) -> AppClient:
        return AppClient(create_app("test", endpoints, clock=self.world.clock.now, addresses=self.addresses))

    def close(self) -> None:
        for client in (self.broker, self.worker, self.audit):
            client.close()
        self.engine.dispose()
        self.objects.close()

    # What devices make and send.

    def ask(self, op: Op, service: str, body: bytes = EMPTY_BODY, **changed: Any) -> "Asked":
        reply = X25519PrivateKey.generate()
        given = {"request_hash": request_hash(body), "reply_key": reply.public_key().public_bytes_raw()}
        return Asked(self.world.cap(op, service, **(given | changed)), body, reply)

    def store(self, value: bytes = b"secret", *, expect: bytes | None = None, **changed: Any) -> "Asked":
        body = StoreBody(blind=BLIND, expect=expect, value=value).encode()
        touch = changed.pop("touch", expect is not None)
        return self.ask(Op.CRED_STORE, changed.pop("service", "cred:openrouter"), body, touch=touch, **changed)

    def fetch(self, **changed: Any) -> "Asked":
        return self.ask(Op.CRED_FETCH, changed.pop("service", "cred:openrouter"), **changed)

    def delete(self, **changed: Any) -> "Asked":
        return self.ask(Op.CRED_DELETE, changed.pop("service", "cred:openrouter"), **changed)

    def names(self, **changed: Any) -> "Asked":
        return self.ask(Op.CRED_LIST, "cred:list", ListBody(after=None, limit=100).encode(), **changed)

    def rows(self, service: str = "audit:own", **changed: Any) -> "Asked":
        return self.ask(Op.AUDIT_LIST, service, AuditListBody(after=None, limit=100).encode(), **changed)

    def send(self, asked: "Asked", *, path: str | None = None) -> "Answered":
        op = asked.parsed.request.op
        client = self.audit if OPS[op].worker_class is WorkerClass.AUDIT else self.worker
        path = path or f"/v1/{OPS[op].worker_class}/{op.value.partition('-')[2]}"
        return Answered(client.post(path, json=asked.json()), asked)

    def object_file(self, name: str = "openrouter") -> Path:
        return self.folder / "bots" / self.world.user.operator.hex() / "credentials" / f"{name}.enc"


class Asked:
    """A cap with its body, and the key that opens the answer."""

    def __init__(self, cap: bytes, body: bytes, reply: X25519PrivateKey) -> None:
        self.cap, self.body, self.reply = cap, body, reply
        self.parsed = Cap.parse(cap)

    @property
    def digest(self) -> bytes:
        return self.parsed.digest

    @property
    def uncosigned(self) -> UncosignedCap:
        cap = self.parsed
        return UncosignedCap(
            request=cap.request,
            device_public_key=cap.device_public_key,
            device_signature=cap.device_signature,
            k11=cap.k11,
        )

    def json(self) -> dict[str, Any]:
        return {"body": b64u_encode(self.body), "cap": json.loads(self.cap)}


class Answered:
    """What came back: a problem, or an answer that the device's key opens."""

    def __init__(self, response: Any, asked: Asked) -> None:
        self.status: int = response.status_code
        self.headers = response.headers
        self.json: dict[str, Any] = response.json()
        self._asked = asked

    @property
    def reason(self) -> str:
        return "ok" if self.status == 200 else str(self.json["reason"])

    @property
    def row(self) -> Any:
        return self.json.get("row")

    @property
    def plaintext(self) -> bytes:
        assert self.json["cap_digest"] == self._asked.digest.hex()
        return open_sealed(self._asked.reply, self._asked.digest, b64u_decode(self.json["sealed"]))


@contextmanager
def services_in(
    folder: Path,
    *,
    limits: QuotaLimits | None = None,
    exchange: StsExchange | None = None,
    bucket: Bucket | None = None,
    signing: SigningPolicy | None = None,
    addresses: AddressLimits | None = None,
    database: URL | None = None,
) -> Iterator[Services]:
    """Everything in one folder, but for the broker's state where a database is named; at the end the signer's journal and rows are verified."""
    with world_in(folder, exchange=exchange, signing=signing) as world:
        world.clock.at = float(int(time.time()))
        plenty = QuotaLimits(device_per_minute=10_000, user_per_minute=10_000)
        where = database or database_url(None, folder)
        made = Services(world, folder, limits or plenty, bucket, database=where, addresses=addresses)
        try:
            yield made
        finally:
            made.close()
