"""A small deployment on loopback: real TLS, real signatures, and a knob for each lie that a part could tell."""

import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkeys_core.audit import AuditRow, OpKind, OpResult
from agentkeys_core.bodies import (
    AuditListBody,
    DeleteAnswer,
    FetchAnswer,
    ListAnswer,
    ListedName,
    StoreAnswer,
    StoreBody,
)
from agentkeys_core.captoken import Cap, CapRequest, UncosignedCap
from agentkeys_core.changes import (
    AddAgent,
    Enrol,
    Freeze,
    OrderedChange,
    RevokeDevice,
    SetScope,
    SignedChange,
    Unfreeze,
)
from agentkeys_core.clear_signing import intent_of, sign_in_words
from agentkeys_core.encoding import address_encode, b64u_decode, b64u_encode, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256
from agentkeys_core.ids import address_of
from agentkeys_core.jwks import jwks_document
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey, ES256PublicKey, eip191_digest, verify_secp256k1
from agentkeys_core.ops import Op, WorkerClass
from agentkeys_core.profile import Profile
from agentkeys_core.proof import k10_digest
from agentkeys_core.registry import AGENT, ALL_ROLES, MASTER, DeviceRecord, OperatorState, Role
from agentkeys_core.sealing import seal
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataAnswer, TypedDataBody
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.webauthn_check import verify_assertion
from certs.ca import Authority
from certs.profiles import LeafNames
from certs.profiles import Role as LeafRole
from tests.unit.device.broker_identity import SERVED, BrokerIdentity, broker_identity
from tests.unit.device.https import Reply, https_server
from tests.unit.device.ledger import Ledger

TRUST_DOMAIN = "keys.example.org"
REGISTRY_ID = "ab" * 32


def problem(reason: Reason, status: int = 403, **members: object) -> Reply:
    """A refusal as the services send it."""
    return status, {"reason": str(reason), "server_time": int(time.time()), "status": status, **members}


@dataclass
class Deployment:
    """State and lies. `hooks` by (part, path) may answer instead; `seen` lists what arrived.

    `released` is the epoch and salt that the rows of fetches name, where they are not those of the store.
    """

    root: Path
    authority: Authority
    ledger: Ledger = field(default_factory=Ledger)
    epoch: int = 1
    objects: dict[tuple[bytes, str], tuple[CapRequest, bytes, AuditRow]] = field(default_factory=dict)
    states: dict[bytes, OperatorState] = field(default_factory=dict)
    applied: dict[bytes, AuditRow] = field(default_factory=dict)
    hooks: dict[tuple[str, str], Callable[[bytes], Reply | None]] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    keys: list[ES256PublicKey] = field(default_factory=list)
    tamper: Callable[[dict[str, object]], None] | None = None
    wallets: dict[bytes, DeviceKey] = field(default_factory=dict)
    signed_by: DeviceKey | None = None
    words: str | None = "the usual ones"
    stored_row: Callable[[AuditRow], AuditRow] | None = None
    released: tuple[int, bytes | None] | None = None
    identity: BrokerIdentity = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def profile(self) -> Profile:
        origin = {name: f"https://127.0.0.1:{port}" for name, port in self.ports.items()}
        return Profile(
            aud=REGISTRY_ID,
            broker=origin["broker"],
            ca=(self.authority.folder / "ca.pem").read_text(),
            issuer=origin["issuer"],
            trust_domain=TRUST_DOMAIN,
            workers={
                WorkerClass.AUDIT: origin["audit"],
                WorkerClass.CREDENTIALS: origin["credentials"],
                WorkerClass.MEMORY: origin["credentials"],
            },
        )

    def context(self, role: LeafRole, worker: WorkerClass | None = None) -> ssl.SSLContext:
        """A server context with a fresh leaf of that role."""
        out = self.root / f"{role}-{worker}"
        if not out.exists():
            names = LeafNames.parse(
                trust_domain=TRUST_DOMAIN, role=role, name="main", worker_class=worker, ips=["127.0.0.1"]
            )
            self.authority.issue(names, out)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(out / "cert.pem", out / "key.pem")
        return context

    # --- registry -------------------------------------------------------------------------------------------------

    def read(self, operator: bytes) -> Reply:
        state = self.states.get(operator)
        if state is None:
            empty = {"devices": [], "epoch": self.epoch, "freeze_nonce": 0, "frozen": False}
            return 200, {**empty, "incarnation": 1, "nonce": 0, "scopes": {}}
        return 200, state.to_json()

    def change(self, body: bytes) -> Reply:
        signed = SignedChange.parse(body)
        change, digest = signed.change, signed.digest(self.profile.domain)
        if digest in self.applied:
            return 200, {"row": self.applied[digest].to_json()}
        state = self.states.get(change.operator_omni)
        if isinstance(change, Enrol):
            for entry in signed.signatures.k11:
                verify_assertion(entry.assertion, challenge=digest, public=change.k11)
            state = OperatorState(
                operator_omni=change.operator_omni,
                wallet=change.wallet,
                wallet_epoch=0,
                frozen=False,
                nonce=0,
                freeze_nonce=0,
                threshold=1,
                devices={},
                scopes={},
                incarnation=1,
                k3_epoch=self.epoch,
            )
            self._add(state, change.device, change.operator_omni, k11=change.k11)
            return self._done(state, digest, OpKind.DEVICE_ADD)
        if state is None:
            return problem(Reason.DEVICE_UNKNOWN)
        master = state.masters()[0]
        if isinstance(change, OrderedChange):
            assert master.k11 is not None
            verify_assertion(signed.signatures.k11[0].assertion, challenge=digest, public=master.k11)
            if change.nonce != state.nonce or change.incarnation != 1:
                return problem(Reason.CHANGE_NOT_AUTHORISED)
        return self._apply(state, change, digest, signed)

    def _apply(self, state: OperatorState, change: object, digest: bytes, signed: SignedChange) -> Reply:
        match change:
            case AddAgent():
                pair = signed.signatures.pair
                assert pair is not None
                assert pair.message.operator_omni == change.operator_omni
                self._add(state, change.device, change.actor_omni, label=change.label, generation=change.generation)
                scope = state.scopes.get(change.actor_omni, frozenset()) | set(change.services)
                state = _with(state, scopes={**state.scopes, change.actor_omni: scope})
                return self._done(state, digest, OpKind.DEVICE_ADD)
            case SetScope():
                scope = (state.scopes.get(change.actor_omni, frozenset()) | set(change.grant)) - set(change.revoke)
                state = _with(state, scopes={**state.scopes, change.actor_omni: scope})
                kind = OpKind.SCOPE_GRANT if change.grant else OpKind.SCOPE_REVOKE
                return self._done(state, digest, kind)
            case RevokeDevice():
                record = _with(state.devices[change.device_key_hash], revoked=True)
                state = _with(state, devices={**state.devices, change.device_key_hash: record})
                return self._done(state, digest, OpKind.DEVICE_REVOKE)
            case Freeze():
                return self._done(_with(state, frozen=True, nonce=state.nonce - 1), digest, OpKind.FREEZE)
            case Unfreeze():
                state = _with(state, frozen=False, freeze_nonce=state.freeze_nonce + 1)
                return self._done(state, digest, OpKind.UNFREEZE)
        return problem(Reason.NOT_IMPLEMENTED, 501)

    def _add(self, state: OperatorState, address: bytes, actor: bytes, **members: Any) -> None:
        agent = actor != state.operator_omni
        record = DeviceRecord(
            device_key_hash=keccak256(address),
            operator_omni=state.operator_omni,
            actor_omni=actor,
            address=address,
            tier=AGENT if agent else MASTER,
            roles=Role.CAP_MINT if agent else ALL_ROLES,
            revoked=False,
            registered_at=int(time.time()),
            **members,
        )
        self.states[state.operator_omni] = state
        assert isinstance(state.devices, dict)
        state.devices[record.device_key_hash] = record

    def _done(self, state: OperatorState, digest: bytes, kind: OpKind) -> Reply:
        self.states[state.operator_omni] = _with(state, nonce=state.nonce + 1)
        row = self.applied[digest] = self.ledger.of_change(state.operator_omni, digest, kind)
        self.identity.changed(state.operator_omni, kind.name)
        return 200, {"row": row.to_json()}

    # --- broker and workers ---------------------------------------------------------------------------------------

    def cosign(self, body: bytes) -> Reply:
        cap = UncosignedCap.parse(body)
        self._authorise(cap)
        self.identity.last_use.note(cap.request.device, cap.request.operator_omni)
        return 200, {"cosign": b64u_encode(bytes(64)), "kid": "k1"}

    def _authorise(self, cap: UncosignedCap) -> DeviceRecord:
        request = cap.request
        assert verify_secp256k1(cap.device_public_key, k10_digest("cap", request.raw), cap.device_signature)
        assert keccak256(address_of(cap.device_public_key)) == request.device
        if request.k3_epoch != self.epoch:
            reason = Reason.STALE_EPOCH if request.k3_epoch < self.epoch else Reason.FUTURE_EPOCH
            raise KeyServiceError(reason, metadata={"current_epoch": str(self.epoch)})
        state = self.states[request.operator_omni]
        record = state.devices[request.device]
        if record.revoked:
            raise KeyServiceError(Reason.DEVICE_REVOKED)
        if cap.k11 is not None:
            public = state.masters()[0].k11
            assert public is not None
            verify_assertion(cap.k11, challenge=cap_challenge(request.digest), public=public)
        if (
            not record.is_master
            and request.op is Op.CRED_FETCH
            and not state.grants(record.actor_omni, request.service.text)
        ):
            raise KeyServiceError(Reason.SERVICE_NOT_IN_SCOPE)
        if cap.k11 is None and (request.op is Op.CRED_DELETE or (record.is_master and request.op is Op.CRED_FETCH)):
            raise KeyServiceError(Reason.K11_REQUIRED)
        return record

    def work(self, body: bytes) -> Reply:
        outer = json.loads(body)
        cap, inner = Cap.from_json(outer["cap"]), b64u_decode(outer["body"])
        self._authorise(cap)
        request = cap.request
        assert sha256(inner) == request.request_hash
        key = (request.operator_omni, request.service.name)
        row: AuditRow | None = None
        match request.op:
            case Op.CRED_STORE:
                asked, current = StoreBody.parse(inner), self.objects.get(key)
                if current is not None and current[0].digest == request.digest:
                    raise KeyServiceError(Reason.CAP_REPLAYED, row=current[2].encode())
                if asked.expect != (current[0].digest if current else None):
                    raise KeyServiceError(Reason.VERSION_NOT_CURRENT)
                assert current is None or cap.k11 is not None
                row = self.ledger.of_request(request, OpKind.CRED_STORE, salt=secrets.token_bytes(32))
                self.objects[key] = (request, inner, row)
                plain = StoreAnswer(row_hash=row.row_hash).encode()
            case Op.CRED_DELETE:
                row = self.ledger.of_request(request, OpKind.CRED_DELETE)
                self.objects.pop(key)
                plain = DeleteAnswer(row_hash=row.row_hash).encode()
            case Op.CRED_FETCH:
                if key not in self.objects:
                    row = self.ledger.of_request(request, OpKind.CRED_FETCH, result=OpResult.FAILURE)
                    raise KeyServiceError(Reason.OBJECT_NOT_FOUND, row=row.encode())
                _, stored, stored_row = self.objects[key]
                version = stored_row.content().op_body
                epoch, salt = self.released or (version.epoch or 0, version.salt)
                row = self.ledger.of_request(request, OpKind.CRED_FETCH, epoch=epoch, salt=salt)
                shown = self.stored_row(stored_row) if self.stored_row else stored_row
                plain = FetchAnswer(body=stored, row=shown).encode()
            case Op.CRED_LIST:
                row = self.ledger.of_request(request, OpKind.CRED_LIST)
                names = tuple(
                    ListedName(name=name, store=found[0].digest)
                    for (operator, name), found in sorted(self.objects.items())
                    if operator == request.operator_omni
                )
                plain = ListAnswer(names=names, next=None).encode()
            case _:
                plain = self.ledger.page(request, AuditListBody.parse(inner)).encode()
        answer: dict[str, object] = {
            "cap_digest": hex_encode(request.digest),
            "row": None if row is None else row.to_json(),
            "sealed": b64u_encode(seal(request.reply_key, request.digest, plain)),
        }
        if self.tamper is not None:
            self.tamper(answer)
        return 200, answer

    def address(self, body: bytes) -> Reply:
        asked = json.loads(body)
        assert asked["wallet"] is True
        return 200, {"address": address_encode(self.wallets[bytes.fromhex(asked["omni"])].address), "epoch": 1}

    def sign(self, body: bytes) -> Reply:
        """As broker and signer together: `signed_by` another wallet, `words` other than the usual ones."""
        outer = json.loads(body)
        cap, inner = UncosignedCap.from_json(outer["cap"]), b64u_decode(outer["body"])
        self._authorise(cap)
        request = cap.request
        assert sha256(inner) == request.request_hash
        wallet = self.signed_by or self.wallets[request.actor_omni]
        if request.op is Op.SIWE_SIGN:
            message = SiweMessage.parse(SiweBody.parse(inner).message)
            words: str | None = sign_in_words(message)
            digest, kind = eip191_digest(message.encode().encode()), OpKind.SIGN_EIP191
            plain = SiweAnswer(address=wallet.address, signature=wallet.sign_recoverable(digest)).encode()
        else:
            typed = TypedDataBody.parse(inner).content()
            digest, kind, words = typed.digest, OpKind.SIGN_EIP712, intent_of(typed)
            plain = TypedDataAnswer(
                address=wallet.address,
                digest=digest,
                domain_separator=typed.domain_separator,
                intent=words,
                signature=wallet.sign_recoverable(digest),
                type_hash=typed.type_hash,
            ).encode()
        said = words if self.words == "the usual ones" else self.words
        row = self.ledger.of_request(request, kind, intent=said, digest=digest)
        answer: dict[str, object] = {
            "cap_digest": hex_encode(request.digest),
            "row": row.to_json(),
            "sealed": b64u_encode(seal(request.reply_key, request.digest, plain)),
        }
        if self.tamper is not None:
            self.tamper(answer)
        return 200, answer

    def answer(self, part: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        with self.lock:
            self.seen.append((part, path))
            hook = self.hooks.get((part, path))
            try:
                if hook is not None and (told := hook(body)) is not None:
                    return told
                if path == "/.well-known/agentkeys-audit-jwks.json":
                    return 200, json.loads(jwks_document(self.keys or [self.ledger.public]))
                if part == "broker" and path.startswith(SERVED):
                    return self.identity.answer(method, path, body, headers)
                if method == "GET":
                    return self.read(bytes.fromhex(path.rpartition("/")[2]))
                posts = {
                    "/v1/caps": self.cosign,
                    "/v1/derive-address": self.address,
                    "/v1/registry/changes": self.change,
                    "/v1/sign/siwe": self.sign,
                    "/v1/sign/typed-data": self.sign,
                }
                return posts.get(path, self.work)(body)
            except KeyServiceError as exc:
                members: dict[str, object] = {name: int(value) for name, value in exc.metadata.items()}
                if exc.row is not None:
                    members["row"] = json.loads(exc.row)
                return problem(exc.reason, 404 if exc.reason is Reason.OBJECT_NOT_FOUND else 403, **members)


def _with(value: Any, **members: object) -> Any:
    names = value.__dataclass_fields__
    return type(value)(**{name: getattr(value, name) for name in names} | members)


PARTS = {
    "broker": (LeafRole.BROKER, None),
    "credentials": (LeafRole.WORKER, WorkerClass.CREDENTIALS),
    "audit": (LeafRole.WORKER, WorkerClass.AUDIT),
    "issuer": (LeafRole.ISSUER, None),
}


@contextmanager
def running(root: Path, authority: Authority) -> Iterator[Deployment]:
    """A deployment whose four parts listen."""
    made = Deployment(root=root, authority=authority)
    with ExitStack() as stack:
        for name, (role, worker) in PARTS.items():

            def answer(method: str, path: str, body: bytes, headers: Mapping[str, str], name: str = name) -> Reply:
                return made.answer(name, method, path, body, headers)

            made.ports[name] = stack.enter_context(https_server(made.context(role, worker), answer))
        made.identity = stack.enter_context(broker_identity(root / "broker-state", made.profile, made.states))
        yield made
