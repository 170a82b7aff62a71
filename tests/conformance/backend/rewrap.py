"""`Rewrap` of the backend."""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.audit import AuditRow, OpBody, OpKind
from agentkeys_core.bodies import StoreBody
from agentkeys_core.envelope import ObjectPlaintext
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ops import ObjectClass, Service
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory, Ref, Version
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.refused import refusal, refuse

HEADER, NONCE, TAG = 70, 12, 16
LEGACY_HEADER: Final = 2
MOST: Final = 2 * 1024 * 1024
_AAD: Final = b"agentkeys.object.aad.v1"
_BAD: Final = Reason.INVALID_ENVELOPE
_KINDS: Final = {ObjectClass.CREDENTIALS: OpKind.CRED_REWRAP, ObjectClass.MEMORY: OpKind.MEMORY_REWRAP}
_PREFIX: Final = {ObjectClass.CREDENTIALS: "cred", ObjectClass.MEMORY: "memory"}


class Rewrapper:
    """Opens and seals inside; `window` is the host's."""

    def __init__(self, keys: Keys, memory: Memory, operators: Operators, broken: Broken) -> None:
        self._keys = keys
        self._memory = memory
        self._operators = operators
        self._broken = broken
        self.window = False

    def rewrap(self, asked: pb.RewrapRequest, peer: Peer) -> pb.RewrapResponse:
        """The envelope under the current epoch."""
        number = getattr(asked, "class")
        if number not in tuple(ObjectClass):
            refuse(Reason.INVALID_BODY)
        kind = ObjectClass(number)
        if peer.kind != kind.name.lower():
            refuse(Reason.CLASS_MISMATCH)
        if not self.window and "window-ignored" not in self._broken:
            refuse(Reason.WINDOW_CLOSED)
        self._name(asked.service, kind)
        if len(asked.owner) != 32:
            refuse(Reason.INVALID_OMNI)
        ref, data = (asked.owner, kind, asked.service), asked.envelope
        operator = self._operators.of_actor(asked.owner)
        if operator is not None and operator.torn.get(asked.owner, 0) & kind:
            refuse(Reason.POLICY_REFUSED)
        if kind is ObjectClass.CREDENTIALS and data[:1] == b"\x04":
            return pb.RewrapResponse(envelope=self._legacy(ref, data))
        return pb.RewrapResponse(envelope=self._present(ref, data))

    def _name(self, text: str, kind: ObjectClass) -> None:
        try:
            service = Service.parse(text)
        except KeyServiceError:
            refuse(Reason.INVALID_BODY)
        if service.prefix != _PREFIX[kind] or service.name == "list":
            refuse(Reason.INVALID_BODY)

    def _present(self, ref: Ref, data: bytes) -> bytes:
        owner, kind, service = ref
        if not HEADER + NONCE + TAG <= len(data) <= MOST:
            refuse(_BAD)
        if data[0] != 5:
            refuse(Reason.UNSUPPORTED_VERSION)
        if data[5] != kind:
            refuse(Reason.CLASS_MISMATCH)
        epoch, salt = int.from_bytes(data[1:5], "big"), data[6:38]
        if not self._keys.holds(epoch):
            refuse(Reason.EPOCH_NOT_HELD)
        key, commitment = self._keys.object_key(epoch, kind, owner, service, salt)
        if commitment != data[38:HEADER]:
            refuse(_BAD)
        plain = _open(key, data[HEADER:], _AAD + data[:HEADER] + owner + sha256(service.encode()))
        stored = self._memory.objects.get(ref)
        version = None if stored is None else stored.find(salt)
        if stored is None or version is None or version.epoch != epoch or stored.current is None:
            refuse(Reason.VERSION_NOT_CURRENT)
        copy = version.rewrapped and version.expect == stored.store
        if version is not stored.current and not copy:
            refuse(Reason.VERSION_NOT_CURRENT)
        if epoch == self._keys.current:
            stored.make_current(version)
            return data
        fresh = self._memory.issue(ref, store=version.store, expect=version.store, rewrapped=True)
        self._record(ref, fresh, None)
        return self._seal(ref, fresh, plain)

    def _legacy(self, ref: Ref, data: bytes) -> bytes:
        owner, _, service = ref
        value = self._open_legacy(owner, service, data)
        operator = self._operators.get(owner)
        if operator is None:
            refuse(Reason.INVALID_OMNI)
        if operator.frozen:
            refuse(Reason.OPERATOR_FROZEN)
        stored = self._memory.objects.get(ref)
        if ref in self._memory.dropped or (stored is not None and stored.store is not None):
            refuse(Reason.VERSION_NOT_CURRENT)
        body = StoreBody(blind=secrets.token_bytes(32), expect=None, value=value).encode()
        store = sha256(b"agentkeys.migrated.v1\x00" + owner + sha256(service.encode()) + sha256(data))
        fresh = self._memory.issue(ref, store=store, expect=None, rewrapped=True)
        row = AuditRow.parse(self._record(ref, fresh, sha256(body)))
        return self._seal(ref, fresh, ObjectPlaintext(body=body, row=row).encode())

    def _open_legacy(self, owner: bytes, service: str, data: bytes) -> bytes:
        """Neither the epoch nor the writer's spelling is authenticated: each is tried."""
        if not LEGACY_HEADER + NONCE + TAG <= len(data) <= MOST:
            refuse(_BAD)
        for epoch in range(1, self._keys.current + 1):
            if not self._keys.holds(epoch):
                continue
            key = self._keys.legacy_key(epoch, owner)
            for spelling in (service.partition(":")[2], service):
                aad = f"agentkeys.cred.aad.v2|{owner.hex()}|{spelling}".encode()
                try:
                    return AESGCM(key).decrypt(data[2:14], data[14:], aad)
                except InvalidTag:
                    continue
        raise refusal(_BAD if self._keys.holds(data[1]) else Reason.EPOCH_NOT_HELD)

    def _record(self, ref: Ref, version: Version, req: bytes | None) -> bytes:
        owner, kind, service = ref
        chain = self._memory.chains.get(owner)
        operator = owner
        if kind is ObjectClass.MEMORY and chain:
            operator = chain[-1].content().operator_omni
        body = OpBody(cap=version.store, req=req, svc=service, epoch=version.epoch, salt=version.salt)
        return self._memory.append(owner, operator, _KINDS[kind], body)

    def _seal(self, ref: Ref, version: Version, plain: bytes) -> bytes:
        owner, kind, service = ref
        key, commitment = self._keys.object_key(version.epoch, kind, owner, service, version.salt)
        header = bytes((5,)) + version.epoch.to_bytes(4, "big") + bytes((kind,)) + version.salt + commitment
        nonce = secrets.token_bytes(NONCE)
        return header + nonce + AESGCM(key).encrypt(nonce, plain, _AAD + header + owner + sha256(service.encode()))


def _open(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], aad)
    except InvalidTag:
        refuse(_BAD)
