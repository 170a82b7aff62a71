"""The backend's Registry service."""

import hashlib
import hmac
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys_core.errors import Reason
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.records import Device, Operator
from tests.conformance.backend.refused import refuse

# Method names are those of the protocol.

BEAT_S: Final = 1.0


class Registry:
    """Implements the Registry service. `sealed` is what a client with a newer head brings about."""

    def __init__(self, operators: Operators, memory: Memory, keys: Keys, streams: int) -> None:
        self._memory = memory
        self._operators = operators
        self._keys = keys
        self._most = streams
        self._open: Counter[str] = Counter()
        self._changed = threading.Condition()
        self.sealed = False

    def GetStatus(self, _asked: pb.GetStatusRequest, _peer: Peer) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(
            registry_id=self._operators.registry_id,
            k3_epoch=self._keys.current,
            incarnation=self._operators.incarnation,
            server_time=int(time.time()),
            head=self._head(*self._operators.head),
        )

    def _mac(self, sequence: int, head: bytes, epoch: int, *, tag: bytes = b"agentkeys.registry-head.v1\x00") -> bytes:
        registry = hashlib.sha256(self._operators.registry_id.encode()).digest()
        numbers = self._operators.incarnation.to_bytes(8, "big") + sequence.to_bytes(8, "big")
        return self._keys.mac(epoch, tag + registry + numbers + head)

    def _journal(self) -> pb.JournalHead:
        """As many lines as there are rows: this journal keeps nothing else. Under the oldest epoch that is held."""
        rows, epoch = self._memory.log, 1
        sequence, line = len(rows), rows[-1][1].row_hash if rows else bytes(32)
        mac = self._mac(sequence, line, epoch, tag=b"agentkeys.journal.stream.v1\x00")
        return pb.JournalHead(sequence=sequence, hash=line, mac=mac, epoch=epoch)

    def _head(self, sequence: int, head: bytes) -> pb.RegistryHead:
        epoch = self._keys.current
        return pb.RegistryHead(sequence=sequence, hash=head, mac=self._mac(sequence, head, epoch), epoch=epoch)

    def GetOperator(self, asked: pb.GetOperatorRequest, _peer: Peer) -> pb.OperatorResponse:
        if len(asked.operator_omni) != 32:
            refuse(Reason.INVALID_OMNI)
        return self._found(self._operators.get(asked.operator_omni))

    def GetDevice(self, asked: pb.GetDeviceRequest, _peer: Peer) -> pb.OperatorResponse:
        if len(asked.device_key_hash) != 32:
            refuse(Reason.INVALID_ENCODING)
        return self._found(self._operators.of_device(asked.device_key_hash))

    def _found(self, operator: Operator | None) -> pb.OperatorResponse:
        answer = pb.OperatorResponse(found=operator is not None, sequence=self._operators.head[0])
        if operator is not None:
            answer.operator.CopyFrom(self._record(operator))
        return answer

    def _record(self, operator: Operator) -> pb.OperatorRecord:
        return pb.OperatorRecord(
            operator_omni=operator.omni,
            wallet=operator.wallet,
            wallet_epoch=operator.wallet_epoch,
            frozen=operator.frozen,
            nonce=operator.nonce,
            freeze_nonce=operator.freeze_nonce,
            threshold=operator.threshold,
            devices=[_device(operator, operator.devices[key]) for key in sorted(operator.devices)],
            scopes=[
                pb.Scope(actor_omni=actor, services=sorted(operator.scopes[actor])) for actor in sorted(operator.scopes)
            ],
            incarnation=self._operators.incarnation,
            k3_epoch=self._keys.current,
            rotations=[
                pb.PendingRotation(device_key_hash=key, new_address=address, due_at=due)
                for key, (address, due) in sorted(operator.waiting.items())
            ],
            torn_down=[pb.TornDown(owner=owner, classes=bits) for owner, bits in sorted(operator.torn.items())],
        )

    def ApplyChange(self, asked: pb.ApplyChangeRequest, _peer: Peer) -> pb.ApplyChangeResponse:
        row = self._operators.apply(asked.change)
        with self._changed:
            self._changed.notify_all()
        return pb.ApplyChangeResponse(row=row)

    def WatchChanges(self, asked: pb.WatchChangesRequest, peer: Peer, context: Any) -> Iterator[pb.ChangeEvent]:
        with self._changed:
            if self._open[peer.name] >= self._most:
                refuse(Reason.OVERLOADED)
            self._open[peer.name] += 1
        try:
            self._compare(asked.known)
            self._compare_journal(asked.known_journal)
            after = asked.after
            while context.is_active() and not self.sealed:
                news = self._operators.changes[after:] if after < len(self._operators.changes) else []
                for change in news:
                    yield self._event(change)
                    after = change.sequence
                if not news:
                    yield self._event(None)
                    with self._changed:
                        self._changed.wait(BEAT_S)
        finally:
            with self._changed:
                self._open[peer.name] -= 1

    def _compare(self, known: pb.RegistryHead) -> None:
        """A head of ours that we do not have means that this state is an old one."""
        if not known.sequence or not self._keys.holds(known.epoch):
            return
        if not hmac.compare_digest(self._mac(known.sequence, known.hash, known.epoch), known.mac):
            return
        changes = self._operators.changes
        if known.sequence > len(changes) or changes[known.sequence - 1].head != known.hash:
            self.sealed = True
            refuse(Reason.REGISTRY_ROLLED_BACK)

    def _compare_journal(self, known: pb.JournalHead) -> None:
        """The same of the journal."""
        if not known.sequence or not self._keys.holds(known.epoch):
            return
        mac = self._mac(known.sequence, known.hash, known.epoch, tag=b"agentkeys.journal.stream.v1\x00")
        rows = self._memory.log
        if hmac.compare_digest(mac, known.mac) and (
            known.sequence > len(rows) or rows[known.sequence - 1][1].row_hash != known.hash
        ):
            self.sealed = True
            refuse(Reason.REGISTRY_ROLLED_BACK)

    def _event(self, change: Any) -> pb.ChangeEvent:
        event = pb.ChangeEvent(
            head=self._head(*self._operators.head),
            journal=self._journal(),
            server_time=int(time.time()),
            k3_epoch=self._keys.current,
            incarnation=self._operators.incarnation,
        )
        if change is not None:
            event.change.CopyFrom(
                pb.Change(
                    sequence=change.sequence, operator_omni=change.operator, digest=change.digest, type=change.type
                )
            )
        return event


def _device(operator: Operator, device: Device) -> pb.DeviceRecord:
    record = pb.DeviceRecord(
        device_key_hash=device.key_hash,
        operator_omni=operator.omni,
        actor_omni=device.actor,
        address=device.address,
        tier=1 if device.is_master else 2,
        roles=device.roles,
        revoked=device.revoked,
        registered_at=device.registered_at,
        label=device.label,
        generation=device.generation,
        sign_count=device.sign_count,
        evidence=device.evidence,
        assurance=device.assurance,
        counter_fell=device.counter_fell,
    )
    if device.k11 is not None:
        record.k11.CopyFrom(
            pb.K11PublicKey(
                credential_id_hash=device.k11.credential_id_hash,
                x=device.k11.x,
                y=device.k11.y,
                rp_id_hash=device.k11.rp_id_hash,
                origin_hash=device.k11.origin_hash,
            )
        )
    return record
