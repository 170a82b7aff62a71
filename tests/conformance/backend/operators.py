"""The registry of the backend: operators in memory, and who may change them (docs/spec, Registry changes)."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.audit import OpBody, OpKind
from agentkeys_core.changes import (
    AddAgent,
    Change,
    Domain,
    Enrol,
    Freeze,
    OrderedChange,
    RevokeDevice,
    SetScope,
    SignedChange,
    Unfreeze,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.k11 import K11_ORIGIN, origin_hash
from agentkeys_core.keys import recover_address
from agentkeys_core.registry import K11Public
from agentkeys_core.webauthn_check import verify_assertion
from tests.conformance.backend.refused import refusal, refuse

NOT_AUTHORISED: Final = Reason.CHANGE_NOT_AUTHORISED
HOUR_S: Final = 3600
WEEK_S: Final = 7 * 24 * HOUR_S
MAX_SERVICES: Final = 256
NEVER_GRANTED: Final = frozenset({"cred:list", "memory:list", "audit:own", "audit:tree"})
CAP_MINT, SCOPE_MGMT, ALL = 1, 4, 7


@dataclass(slots=True, kw_only=True)
class Device:
    """One registered device; K11 makes it a master's."""

    key_hash: bytes
    actor: bytes
    address: bytes
    roles: int
    registered_at: int
    k11: K11Public | None = None
    label: str = ""
    generation: int = 0
    revoked: bool = False
    sign_count: int = 0

    @property
    def is_master(self) -> bool:
        return self.k11 is not None


@dataclass(slots=True, kw_only=True)
class Operator:
    """One user's tree."""

    omni: bytes
    wallet: bytes
    wallet_epoch: int
    devices: dict[bytes, Device]
    scopes: dict[bytes, set[str]] = field(default_factory=dict)
    frozen: bool = False
    nonce: int = 1
    freeze_nonce: int = 0
    threshold: int = 1
    wallet_epochs: dict[bytes, int] = field(default_factory=dict)

    def masters(self) -> list[Device]:
        return [device for device in self.devices.values() if device.is_master and not device.revoked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One line of the stream."""

    sequence: int
    operator: bytes
    digest: bytes
    type: str
    head: bytes
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Who signed a change's digest, verified: key hash of the K10, masters by K11, addresses of wallet and Pair."""

    k10: bytes
    k11: Mapping[bytes, int]
    wallet: bytes | None
    pair: bytes | None


#: Appends the row of a change: actor, operator, kind, body.
Recorder = Callable[[bytes, bytes, int, OpBody], bytes]


class Operators:
    """All users, and every change in order."""

    def __init__(self, registry_id: str, record: Recorder, broken: frozenset[str]) -> None:
        self.registry_id = registry_id
        self.incarnation = 1
        self.changes: list[Applied] = []
        self._domain = Domain.embedded(registry_id)
        self._record = record
        self._broken = broken
        self._operators: dict[bytes, Operator] = {}
        self._owner_of_device: dict[bytes, bytes] = {}
        self._owner_of_actor: dict[bytes, bytes] = {}
        self._identities: set[bytes] = set()

    def get(self, omni: bytes) -> Operator | None:
        return self._operators.get(omni)

    def of_device(self, key_hash: bytes) -> Operator | None:
        owner = self._owner_of_device.get(key_hash)
        return None if owner is None else self._operators[owner]

    def of_credential(self, credential: bytes) -> Device | None:
        """The master device with that K11, the one that registered it first."""
        for operator in self._operators.values():
            for device in operator.masters():
                if device.k11 is not None and device.k11.credential_id_hash == credential:
                    return device
        return None

    @property
    def head(self) -> tuple[int, bytes]:
        """Number of the newest change, and the chain's hash there."""
        return (self.changes[-1].sequence, self.changes[-1].head) if self.changes else (0, bytes(32))

    def apply(self, data: bytes) -> bytes:
        """The row of a change, applied now or earlier."""
        signed = SignedChange.parse(data)
        change, digest = signed.change, signed.digest(self._domain)
        for found in self.changes:
            if found.digest == digest:
                return found.row
        self._shape(signed)
        signers = self._signers(signed, digest)
        kind = self._decide(change, signers)
        for key_hash, count in signers.k11.items():
            self._operators[change.operator_omni].devices[key_hash].sign_count = count
        row = self._record(change.operator_omni, change.operator_omni, kind, OpBody(change=digest))
        sequence, last = self.head
        sequence += 1
        chained = b"agentkeys.registry-chain.v1\x00" + last + sequence.to_bytes(8, "big") + change.operator_omni
        head = hashlib.sha256(chained + digest).digest()
        self.changes.append(
            Applied(
                sequence=sequence,
                operator=change.operator_omni,
                digest=digest,
                type=change.type,
                head=head,
                row=row,
            )
        )
        return row

    def _shape(self, signed: SignedChange) -> None:
        """What no signature could make right."""
        change, signatures = signed.change, signed.signatures
        extra = {name for name in ("wallet", "pair", "new_device") if getattr(signatures, name) is not None}
        taken = {Enrol: {"wallet"}, AddAgent: {"pair"}}.get(type(change), set())
        if not extra <= taken:
            refuse(Reason.INVALID_CHANGE)
        if isinstance(change, Enrol) and not change.is_evm:
            refuse(Reason.INVALID_EVIDENCE)
        if isinstance(change, AddAgent | SetScope):
            services = change.services if isinstance(change, AddAgent) else (*change.grant, *change.revoke)
            if len(services) > MAX_SERVICES or NEVER_GRANTED.intersection(services):
                refuse(Reason.INVALID_CHANGE)
            if isinstance(change, SetScope) and not services:
                refuse(Reason.INVALID_CHANGE)
        if isinstance(change, AddAgent):
            self._pair(signed, change)

    def _pair(self, signed: SignedChange, change: AddAgent) -> None:
        if signed.signatures.pair is None:
            refuse(NOT_AUTHORISED)
        pair = signed.signatures.pair.message
        if (pair.operator_omni, pair.device, pair.k11_cred_id) != (change.operator_omni, change.device, bytes(32)):
            refuse(NOT_AUTHORISED)
        if not time.time() < pair.expires_at <= time.time() + WEEK_S:
            refuse(NOT_AUTHORISED)

    def _signers(self, signed: SignedChange, digest: bytes) -> Signers:
        change, given = signed.change, signed.signatures
        pair = given.pair
        counts: dict[bytes, int] = {}
        for entry in given.k11:
            public = self._k11_of(change, entry.device)
            if public is None or entry.device in counts:
                refuse(NOT_AUTHORISED)
            try:
                counts[entry.device] = verify_assertion(entry.assertion, challenge=digest, public=public)
            except KeyServiceError:
                refuse(NOT_AUTHORISED)
        return Signers(
            k10=device_key_hash(_signer(digest, given.k10)),
            k11=counts,
            wallet=None if given.wallet is None else _signer(digest, given.wallet),
            pair=None if pair is None else _signer(pair.message.digest(self._domain), pair.signature),
        )

    def _k11_of(self, change: Change, key_hash: bytes) -> K11Public | None:
        if isinstance(change, Enrol):
            return change.k11 if key_hash == device_key_hash(change.device) else None
        operator = self._operators.get(change.operator_omni)
        device = None if operator is None else operator.devices.get(key_hash)
        return None if device is None else device.k11

    def _decide(self, change: Change, signers: Signers) -> int:
        if isinstance(change, Enrol):
            return self._enrol(change, signers)
        operator = self._operators.get(change.operator_omni)
        if operator is None:
            refuse(NOT_AUTHORISED)
        if isinstance(change, Freeze):
            return self._freeze(operator, change, signers)
        if isinstance(change, OrderedChange):
            self._ordered(operator, change, signers)
            kind = self._ordered_effect(operator, change, signers)
            operator.nonce += 1
            return kind
        raise refusal(Reason.NOT_IMPLEMENTED)

    def _ordered_effect(self, operator: Operator, change: OrderedChange, signers: Signers) -> int:
        match change:
            case AddAgent():
                return self._add_agent(operator, change, signers)
            case SetScope():
                return self._set_scope(operator, change)
            case RevokeDevice():
                return self._revoke(operator, change)
            case Unfreeze():
                return self._unfreeze(operator)
            case _:
                raise refusal(Reason.NOT_IMPLEMENTED)

    def _timely(self, change: OrderedChange, nonce: int) -> None:
        now = int(time.time())
        if change.incarnation != self.incarnation or not now <= change.deadline <= now + HOUR_S:
            refuse(NOT_AUTHORISED)
        if change.nonce != nonce and "forget-nonces" not in self._broken:
            refuse(NOT_AUTHORISED)

    def _ordered(self, operator: Operator, change: OrderedChange, signers: Signers) -> None:
        """K10 and K11 of one master that may do this, and no assertion of anybody else."""
        self._timely(change, operator.nonce)
        role = 0 if isinstance(change, Unfreeze) else SCOPE_MGMT
        masters = {master.key_hash: master for master in operator.masters()}
        signer = masters.get(signers.k10)
        if signer is None or signer.roles & role != role:
            refuse(NOT_AUTHORISED)
        if not signers.k11.keys() <= masters.keys():
            refuse(NOT_AUTHORISED)
        if signer.key_hash not in signers.k11 and "change-without-k11" not in self._broken:
            refuse(NOT_AUTHORISED)

    def _enrol(self, change: Enrol, signers: Signers) -> int:
        key_hash = device_key_hash(change.device)
        self._timely(change, 0)
        agreed = (signers.k10, list(signers.k11), signers.wallet, change.roles)
        if agreed != (key_hash, [key_hash], change.wallet, ALL):
            refuse(NOT_AUTHORISED)
        if change.k11_origin_hash != origin_hash(K11_ORIGIN):
            refuse(NOT_AUTHORISED)
        taken = (
            change.operator_omni in self._operators,
            change.operator_omni in self._owner_of_actor,
            change.identity_omni in self._identities,
            key_hash in self._owner_of_device,
        )
        if any(taken):
            refuse(Reason.ALREADY_BOUND)
        device = Device(
            key_hash=key_hash,
            actor=change.operator_omni,
            address=change.device,
            roles=ALL,
            registered_at=int(time.time()),
            k11=change.k11,
        )
        self._operators[change.operator_omni] = Operator(
            omni=change.operator_omni,
            wallet=change.wallet,
            wallet_epoch=change.wallet_epoch,
            devices={key_hash: device},
        )
        self._identities.add(change.identity_omni)
        self._owner_of_actor[change.operator_omni] = change.operator_omni
        self._owner_of_device[key_hash] = change.operator_omni
        return OpKind.DEVICE_ADD

    def _add_agent(self, operator: Operator, change: AddAgent, signers: Signers) -> int:
        if signers.pair != change.device:
            refuse(NOT_AUTHORISED)
        if operator.frozen:
            refuse(Reason.OPERATOR_FROZEN)
        key_hash = device_key_hash(change.device)
        if (
            key_hash in self._owner_of_device
            or self._owner_of_actor.get(change.actor_omni, operator.omni) != operator.omni
        ):
            refuse(Reason.ALREADY_BOUND)
        operator.devices[key_hash] = Device(
            key_hash=key_hash,
            actor=change.actor_omni,
            address=change.device,
            roles=CAP_MINT,
            registered_at=int(time.time()),
            label=change.label,
            generation=change.generation,
        )
        operator.scopes.setdefault(change.actor_omni, set()).update(change.services)
        self._owner_of_device[key_hash] = operator.omni
        self._owner_of_actor[change.actor_omni] = operator.omni
        return OpKind.DEVICE_ADD

    def _set_scope(self, operator: Operator, change: SetScope) -> int:
        if change.actor_omni == operator.omni or self._owner_of_actor.get(change.actor_omni) != operator.omni:
            refuse(NOT_AUTHORISED)
        if operator.frozen and change.grant:
            refuse(Reason.OPERATOR_FROZEN)
        scope = operator.scopes.setdefault(change.actor_omni, set())
        scope.difference_update(change.revoke)
        scope.update(change.grant)
        return OpKind.SCOPE_GRANT if change.grant else OpKind.SCOPE_REVOKE

    def _revoke(self, operator: Operator, change: RevokeDevice) -> int:
        device = operator.devices.get(change.device_key_hash)
        if device is None:
            refuse(Reason.DEVICE_UNKNOWN)
        if device.is_master:
            refuse(Reason.NOT_IMPLEMENTED)
        if device.revoked:
            refuse(Reason.DEVICE_REVOKED)
        device.revoked = True
        return OpKind.DEVICE_REVOKE

    def _freeze(self, operator: Operator, change: Freeze, signers: Signers) -> int:
        masters = {master.key_hash for master in operator.masters()}
        wanted = (self.incarnation, operator.freeze_nonce)
        if (change.incarnation, change.freeze_nonce) != wanted or signers.k10 not in masters:
            refuse(NOT_AUTHORISED)
        operator.frozen = True
        return OpKind.FREEZE

    def _unfreeze(self, operator: Operator) -> int:
        if not operator.frozen:
            refuse(NOT_AUTHORISED)
        operator.frozen = False
        operator.freeze_nonce += 1
        return OpKind.UNFREEZE


def _signer(digest: bytes, signature: bytes) -> bytes:
    address = recover_address(digest, signature)
    if address is None:
        refuse(NOT_AUTHORISED)
    return address
