"""One signer with its certificates, keys, state and population, and the messages that its users' devices sign."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.bodies import EMPTY_BODY, ListBody, StoreBody, request_hash
from agentkeys_core.captoken import CapRequest, UncosignedCap
from agentkeys_core.changes import RevokeDevice
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.keys import DeviceKey, ES256PublicKey, es256_sign
from agentkeys_core.ops import Op, Service, WorkerClass
from agentkeys_core.proof import k10_digest
from agentkeys_core.signed_change import ChangeSignatures, K11OfDevice, SignedChange
from certs.ca import Authority
from certs.profiles import LeafNames, Role
from tests.perf.population import EPOCH, NEXT_NONCE, Agent, Tenant, by_turns, fill
from tests.perf.processes import SERVER_CORE, Running, run

TRUST_DOMAIN: Final = "bench.agentkeys.test"
SIGNER_NAME: Final = f"signer.{TRUST_DOMAIN}"
SIGNER: Final = "/agentkeys.signer.v1.Signer"
WINDOW_S: Final = 300


@dataclass(frozen=True, slots=True)
class Certificates:
    """Leaves of one authority, each in a folder of its own."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> "Certificates":
        """Make the authority and a leaf for each part."""
        authority = Authority.create(root / "ca", TRUST_DOMAIN)
        for name, role, worker_class in (
            ("signer", Role.SIGNER, None),
            ("broker", Role.BROKER, None),
            ("credentials", Role.WORKER, WorkerClass.CREDENTIALS),
            ("memory", Role.WORKER, WorkerClass.MEMORY),
        ):
            names = LeafNames.parse(trust_domain=TRUST_DOMAIN, role=role, name="bench", worker_class=worker_class)
            authority.issue(names, root / name)
        return cls(root)

    def folder(self, name: str) -> Path:
        """Folder with cert.pem, key.pem and ca.pem."""
        return self.root / name


@dataclass(slots=True, kw_only=True)
class Deployment:
    """A signer's files, made by `prepare`; `serve` starts it."""

    root: Path
    certificates: Certificates
    processes: int = 1
    registry_id: str = ""
    tenants: tuple[Tenant, ...] = ()
    _k1: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)
    _kid: str = ""
    _reply_key: bytes = field(default_factory=lambda: X25519PrivateKey.generate().public_key().public_bytes_raw())
    _turns: Iterator[tuple[Tenant, Agent, int]] = field(default_factory=lambda: iter(()))
    _stored: int = 0
    _current: dict[tuple[bytes, str], bytes] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """signer.toml."""
        return self.root / "signer.toml"

    @property
    def log(self) -> Path:
        """What the signer wrote to standard error."""
        return self.root / "signer.log"

    def prepare(self, *, operators: int, active: int) -> None:
        """Make vault and state by `agentkeys-signer init`, then register the population."""
        self.root.mkdir(mode=0o700)
        passphrase = self.root / "passphrase"
        with open(passphrase, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_urlsafe(24))
        public = ES256PublicKey.of(self._k1.public_key())
        self._kid = public.kid
        (self.root / "k1.jwk.json").write_text(json.dumps(public.jwk()))
        self.config.write_text(self._toml())
        run("signer", "init", "--config", self.config)
        self.registry_id = str(json.loads(run("signer", "status", "--config", self.config, "--json"))["registry_id"])
        self.tenants = fill(self.root / "state" / "state.db", operators=operators, active=active)
        self._turns = by_turns(self.tenants)

    def serve(self, *, cores: set[int] | None) -> Running:
        """Start the signer; `said` is its address. `cores` None: wherever the kernel likes."""
        return Running("signer", "serve", "--config", self.config, log=self.log, cores=cores)

    def serve_pinned(self) -> Running:
        """Start the signer on the servers' core."""
        return self.serve(cores={SERVER_CORE})

    def _toml(self) -> str:
        leaf = self.certificates.folder("signer")
        return "\n".join(
            [
                f'trust_domain = "{TRUST_DOMAIN}"',
                'listen = "127.0.0.1:0"',
                'state_dir = "state"',
                'vault = "vault.bin"',
                'cosign_keys = ["k1.jwk.json"]',
                f"processes = {self.processes}",
                "[tls]",
                f'certificate = "{leaf}/cert.pem"',
                f'key = "{leaf}/key.pem"',
                f'client_ca = "{leaf}/ca.pem"',
                f'revocation_list = "{self.certificates.root}/ca/revoked.json"',
                "[unseal]",
                'passphrase_file = "passphrase"',
                "[limits]",  # the bench asks in the name of a few devices what many would ask
                "certificate_per_s = 1e9",
                "certificate_burst = 1e9",
                "device_per_s = 1e9",
                "device_burst = 1e9",
                "max_in_flight = 4096",  # 16 batches of 64
                "",
            ]
        )

    # What devices sign. Each message is the bytes of a request, ready to be sent.

    def fetches(self, count: int, *, without: Tenant | None = None) -> list[bytes]:
        """DeriveCredKek for fetches by agents, each a cap of its own, over all active devices and objects in turn."""
        found = []
        for tenant, agent, number in islice((turn for turn in self._turns if turn[0] is not without), count):
            service = agent.credentials[number % len(agent.credentials)]
            cap = self._cap(tenant, agent.actor, agent.key, Op.CRED_FETCH, service)[1]
            message = signer_pb2.DeriveCredKekRequest(cap=cap, epoch=EPOCH, salt=tenant.salts[service])
            found.append(message.SerializeToString())
        return found

    def stores(self, count: int) -> list[bytes]:
        """HTTP bodies of so many first stores by masters, each under a name of its own."""
        found = []
        for tenant, _, _ in islice(self._turns, count):
            self._stored += 1
            body = StoreBody(blind=os.urandom(32), expect=None, value=os.urandom(48)).encode()
            service = f"cred:stored-{self._stored}"
            cap = self._cap(tenant, tenant.operator, tenant.master, Op.CRED_STORE, service, body=body)[1]
            found.append(canonical_json({"body": b64u_encode(body), "cap": json.loads(cap)}))
        return found

    def puts(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """DeriveCredKek and SignAuditRow of so many puts, each on another object; every put follows the last on its object."""
        derives, rows = [], []
        for tenant, agent, number in islice(self._turns, count):
            service = agent.memories[number % len(agent.memories)]
            digest, cap = self._cap(tenant, agent.actor, agent.key, Op.MEMORY_PUT, service, body=os.urandom(16))
            expect = self._current.get((agent.actor, service), b"")
            self._current[agent.actor, service] = digest
            derives.append(signer_pb2.DeriveCredKekRequest(cap=cap, expect=expect).SerializeToString())
            rows.append(signer_pb2.SignAuditRowRequest(cap=cap, result=0).SerializeToString())
        return derives, rows

    def deletes(self, count: int) -> list[bytes]:
        """SignAuditRow of deletes that were never seen before: the whole chain of checks, then burn, row and line."""
        found = []
        for tenant, agent, number in islice(self._turns, count):
            service = agent.memories[number % len(agent.memories)]
            self._current.pop((agent.actor, service), None)
            cap = self._cap(tenant, agent.actor, agent.key, Op.MEMORY_DELETE, service)[1]
            found.append(signer_pb2.SignAuditRowRequest(cap=cap, result=0).SerializeToString())
        return found

    def proofs(self, count: int) -> list[bytes]:
        """VerifyK10Sig of requests by agents."""
        found = []
        for tenant, agent, number in islice(self._turns, count):
            request = self._request(
                tenant, agent.actor, agent.key, Op.CRED_FETCH, agent.credentials[number % len(agent.credentials)]
            )
            message = signer_pb2.VerifyK10SigRequest(
                public_key=agent.key.public_key,
                payload=request.raw,
                signature=agent.key.sign(k10_digest("cap", request.raw)),
                scheme=signer_pb2.SIGNATURE_SCHEME_K10_V2,
                purpose="cap",
            )
            found.append(message.SerializeToString())
        return found

    def listing(self, tenant: Tenant, agent: Agent) -> bytes:
        """ListObjects by an agent: may be asked again and again."""
        body = ListBody(after=None, limit=1).encode()
        cap = self._cap(tenant, agent.actor, agent.key, Op.CRED_LIST, "cred:list", body=body)[1]
        return signer_pb2.ListObjectsRequest(cap=cap, limit=1).SerializeToString()

    def revocation(self, tenant: Tenant, agent: Agent, *, nonce: int = NEXT_NONCE) -> bytes:
        """ApplyChange that revokes the agent's device, by K10 and K11 of the master."""
        change = RevokeDevice(
            operator_omni=tenant.operator,
            device_key_hash=agent.key.key_hash,
            incarnation=1,
            nonce=nonce,
            deadline=int(time.time()) + WINDOW_S,
        )
        digest = change.digest(Domain.embedded(self.registry_id))
        touch = K11OfDevice(device=tenant.master.key_hash, assertion=tenant.k11.answer(digest))
        signatures = ChangeSignatures(k10=tenant.master.sign_recoverable(digest), k11=(touch,))
        signed = SignedChange(change=change, signatures=signatures)
        return registry_pb2.ApplyChangeRequest(change=signed.encode()).SerializeToString()

    def _request(
        self, tenant: Tenant, actor: bytes, key: DeviceKey, op: Op, service: str, *, body: bytes = EMPTY_BODY
    ) -> CapRequest:
        now = int(time.time())
        members: dict[str, Any] = {
            "actor_omni": actor,
            "aud": self.registry_id,
            "device": key.key_hash,
            "expires_at": now + WINDOW_S,
            "issued_at": now,
            "k3_epoch": EPOCH,
            "nonce": os.urandom(16),
            "op": op,
            "operator_omni": tenant.operator,
            "reply_key": self._reply_key,
            "request_hash": request_hash(body),
            "service": Service.parse(service, op),
        }
        return CapRequest.compose(**members)

    def _cap(
        self, tenant: Tenant, actor: bytes, key: DeviceKey, op: Op, service: str, *, body: bytes = EMPTY_BODY
    ) -> tuple[bytes, bytes]:
        """Digest and bytes of a cap, signed by the device and co-signed."""
        request = self._request(tenant, actor, key, op, service, body=body)
        cap = UncosignedCap(
            request=request,
            device_public_key=key.public_key,
            device_signature=key.sign(k10_digest("cap", request.raw)),
            k11=None,
        )
        return request.digest, cap.cosigned(es256_sign(self._k1, cap.cosign_message()), self._kid).encode()
