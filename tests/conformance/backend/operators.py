"""The registry of the backend: operators in memory, and every change in order (docs/spec, Registry changes)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.audit import OpBody
from agentkeys_core.changes import AddMaster, Change, Domain, Enrol, SignedChange
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.keys import recover_address
from agentkeys_core.registry import K11Public
from agentkeys_core.webauthn_check import verify_assertion
from tests.conformance.backend import shape
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.records import Device, Operator, Tables
from tests.conformance.backend.refused import refuse
from tests.conformance.backend.rules import Rules, Signers

NOT_AUTHORISED: Final = Reason.CHANGE_NOT_AUTHORISED


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One line of the stream."""

    sequence: int
    operator: bytes
    digest: bytes
    type: str
    head: bytes
    row: bytes


#: Appends the row of a change: actor, operator, kind, body.
Recorder = Callable[[bytes, bytes, int, OpBody], bytes]


class Operators:
    """All users, and every change in order."""

    def __init__(self, registry_id: str, epoch: int, record: Recorder, broken: Broken) -> None:
        self.registry_id = registry_id
        self.changes: list[Applied] = []
        self.domain = Domain.embedded(registry_id)
        self.tables = Tables()
        self.rules = Rules(self.tables, epoch, broken)
        self._record = record

    @property
    def incarnation(self) -> int:
        return self.rules.incarnation

    def get(self, omni: bytes) -> Operator | None:
        return self.tables.operators.get(omni)

    def of_device(self, key_hash: bytes) -> Operator | None:
        owner = self.tables.owner_of_device.get(key_hash)
        return None if owner is None else self.tables.operators[owner]

    def of_actor(self, actor: bytes) -> Operator | None:
        owner = self.tables.owner_of_actor.get(actor)
        return None if owner is None else self.tables.operators[owner]

    def of_credential(self, credential: bytes) -> Device | None:
        """The master device with that K11, the one that registered it first."""
        for operator in self.tables.operators.values():
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
        change, digest = signed.change, signed.digest(self.domain)
        for found in self.changes:
            if found.digest == digest:
                return found.row
        shape.check(signed)
        signers = self._signers(signed, digest)
        kind = self.rules.apply(change, signers, digest)
        self._count(change, signers)
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

    def _count(self, change: Change, signers: Signers) -> None:
        """Remember the highest counter of each K11, and whether one fell."""
        devices = self.tables.operators[change.operator_omni].devices
        for key_hash, count in signers.k11.items():
            device = devices[key_hash]
            device.counter_fell |= count < device.sign_count
            device.sign_count = max(count, device.sign_count)

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
            new_device=None if given.new_device is None else _signer(digest, given.new_device),
            pair=None if pair is None else _signer(pair.message.digest(self.domain), pair.signature),
        )

    def _k11_of(self, change: Change, key_hash: bytes) -> K11Public | None:
        """Of a device that the change brings its own, else the registered one."""
        if isinstance(change, Enrol | AddMaster) and key_hash == device_key_hash(change.device):
            return change.k11
        operator = self.tables.operators.get(change.operator_omni)
        device = None if operator is None else operator.devices.get(key_hash)
        return None if device is None else device.k11


def _signer(digest: bytes, signature: bytes) -> bytes:
    address = recover_address(digest, signature)
    if address is None:
        refuse(NOT_AUTHORISED)
    return address
