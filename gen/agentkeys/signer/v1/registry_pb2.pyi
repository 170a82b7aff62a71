from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegistryHead(_message.Message):
    __slots__ = ("sequence", "hash", "mac", "epoch")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    hash: bytes
    mac: bytes
    epoch: int
    def __init__(self, sequence: _Optional[int] = ..., hash: _Optional[bytes] = ..., mac: _Optional[bytes] = ..., epoch: _Optional[int] = ...) -> None: ...

class JournalHead(_message.Message):
    __slots__ = ("sequence", "hash", "mac", "epoch", "incarnation")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    hash: bytes
    mac: bytes
    epoch: int
    incarnation: int
    def __init__(self, sequence: _Optional[int] = ..., hash: _Optional[bytes] = ..., mac: _Optional[bytes] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("registry_id", "k3_epoch", "incarnation", "server_time", "head")
    REGISTRY_ID_FIELD_NUMBER: _ClassVar[int]
    K3_EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    registry_id: str
    k3_epoch: int
    incarnation: int
    server_time: int
    head: RegistryHead
    def __init__(self, registry_id: _Optional[str] = ..., k3_epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., server_time: _Optional[int] = ..., head: _Optional[_Union[RegistryHead, _Mapping]] = ...) -> None: ...

class K11PublicKey(_message.Message):
    __slots__ = ("credential_id_hash", "x", "y", "rp_id_hash", "origin_hash")
    CREDENTIAL_ID_HASH_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    RP_ID_HASH_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_HASH_FIELD_NUMBER: _ClassVar[int]
    credential_id_hash: bytes
    x: bytes
    y: bytes
    rp_id_hash: bytes
    origin_hash: bytes
    def __init__(self, credential_id_hash: _Optional[bytes] = ..., x: _Optional[bytes] = ..., y: _Optional[bytes] = ..., rp_id_hash: _Optional[bytes] = ..., origin_hash: _Optional[bytes] = ...) -> None: ...

class DeviceRecord(_message.Message):
    __slots__ = ("device_key_hash", "operator_omni", "actor_omni", "address", "tier", "roles", "revoked", "registered_at", "k11", "label", "generation", "sign_count", "evidence", "assurance", "counter_fell")
    DEVICE_KEY_HASH_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_OMNI_FIELD_NUMBER: _ClassVar[int]
    ACTOR_OMNI_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    K11_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SIGN_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ASSURANCE_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FELL_FIELD_NUMBER: _ClassVar[int]
    device_key_hash: bytes
    operator_omni: bytes
    actor_omni: bytes
    address: bytes
    tier: int
    roles: int
    revoked: bool
    registered_at: int
    k11: K11PublicKey
    label: str
    generation: int
    sign_count: int
    evidence: str
    assurance: str
    counter_fell: bool
    def __init__(self, device_key_hash: _Optional[bytes] = ..., operator_omni: _Optional[bytes] = ..., actor_omni: _Optional[bytes] = ..., address: _Optional[bytes] = ..., tier: _Optional[int] = ..., roles: _Optional[int] = ..., revoked: _Optional[bool] = ..., registered_at: _Optional[int] = ..., k11: _Optional[_Union[K11PublicKey, _Mapping]] = ..., label: _Optional[str] = ..., generation: _Optional[int] = ..., sign_count: _Optional[int] = ..., evidence: _Optional[str] = ..., assurance: _Optional[str] = ..., counter_fell: _Optional[bool] = ...) -> None: ...

class Scope(_message.Message):
    __slots__ = ("actor_omni", "services")
    ACTOR_OMNI_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    actor_omni: bytes
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, actor_omni: _Optional[bytes] = ..., services: _Optional[_Iterable[str]] = ...) -> None: ...

class PendingRotation(_message.Message):
    __slots__ = ("device_key_hash", "new_address", "due_at")
    DEVICE_KEY_HASH_FIELD_NUMBER: _ClassVar[int]
    NEW_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DUE_AT_FIELD_NUMBER: _ClassVar[int]
    device_key_hash: bytes
    new_address: bytes
    due_at: int
    def __init__(self, device_key_hash: _Optional[bytes] = ..., new_address: _Optional[bytes] = ..., due_at: _Optional[int] = ...) -> None: ...

class TornDown(_message.Message):
    __slots__ = ("owner", "classes")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    classes: int
    def __init__(self, owner: _Optional[bytes] = ..., classes: _Optional[int] = ...) -> None: ...

class OperatorRecord(_message.Message):
    __slots__ = ("operator_omni", "wallet", "wallet_epoch", "frozen", "nonce", "freeze_nonce", "threshold", "devices", "scopes", "incarnation", "k3_epoch", "rotations", "torn_down")
    OPERATOR_OMNI_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    WALLET_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    FREEZE_NONCE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    K3_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROTATIONS_FIELD_NUMBER: _ClassVar[int]
    TORN_DOWN_FIELD_NUMBER: _ClassVar[int]
    operator_omni: bytes
    wallet: bytes
    wallet_epoch: int
    frozen: bool
    nonce: int
    freeze_nonce: int
    threshold: int
    devices: _containers.RepeatedCompositeFieldContainer[DeviceRecord]
    scopes: _containers.RepeatedCompositeFieldContainer[Scope]
    incarnation: int
    k3_epoch: int
    rotations: _containers.RepeatedCompositeFieldContainer[PendingRotation]
    torn_down: _containers.RepeatedCompositeFieldContainer[TornDown]
    def __init__(self, operator_omni: _Optional[bytes] = ..., wallet: _Optional[bytes] = ..., wallet_epoch: _Optional[int] = ..., frozen: _Optional[bool] = ..., nonce: _Optional[int] = ..., freeze_nonce: _Optional[int] = ..., threshold: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[DeviceRecord, _Mapping]]] = ..., scopes: _Optional[_Iterable[_Union[Scope, _Mapping]]] = ..., incarnation: _Optional[int] = ..., k3_epoch: _Optional[int] = ..., rotations: _Optional[_Iterable[_Union[PendingRotation, _Mapping]]] = ..., torn_down: _Optional[_Iterable[_Union[TornDown, _Mapping]]] = ...) -> None: ...

class GetOperatorRequest(_message.Message):
    __slots__ = ("operator_omni",)
    OPERATOR_OMNI_FIELD_NUMBER: _ClassVar[int]
    operator_omni: bytes
    def __init__(self, operator_omni: _Optional[bytes] = ...) -> None: ...

class GetDeviceRequest(_message.Message):
    __slots__ = ("device_key_hash",)
    DEVICE_KEY_HASH_FIELD_NUMBER: _ClassVar[int]
    device_key_hash: bytes
    def __init__(self, device_key_hash: _Optional[bytes] = ...) -> None: ...

class OperatorResponse(_message.Message):
    __slots__ = ("found", "operator", "sequence")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    found: bool
    operator: OperatorRecord
    sequence: int
    def __init__(self, found: _Optional[bool] = ..., operator: _Optional[_Union[OperatorRecord, _Mapping]] = ..., sequence: _Optional[int] = ...) -> None: ...

class ApplyChangeRequest(_message.Message):
    __slots__ = ("change",)
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    change: bytes
    def __init__(self, change: _Optional[bytes] = ...) -> None: ...

class ApplyChangeResponse(_message.Message):
    __slots__ = ("row",)
    ROW_FIELD_NUMBER: _ClassVar[int]
    row: bytes
    def __init__(self, row: _Optional[bytes] = ...) -> None: ...

class WatchChangesRequest(_message.Message):
    __slots__ = ("after", "known", "known_journal")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    KNOWN_JOURNAL_FIELD_NUMBER: _ClassVar[int]
    after: int
    known: RegistryHead
    known_journal: JournalHead
    def __init__(self, after: _Optional[int] = ..., known: _Optional[_Union[RegistryHead, _Mapping]] = ..., known_journal: _Optional[_Union[JournalHead, _Mapping]] = ...) -> None: ...

class ChangeEvent(_message.Message):
    __slots__ = ("head", "server_time", "k3_epoch", "incarnation", "change", "journal")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    K3_EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    head: RegistryHead
    server_time: int
    k3_epoch: int
    incarnation: int
    change: Change
    journal: JournalHead
    def __init__(self, head: _Optional[_Union[RegistryHead, _Mapping]] = ..., server_time: _Optional[int] = ..., k3_epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., change: _Optional[_Union[Change, _Mapping]] = ..., journal: _Optional[_Union[JournalHead, _Mapping]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("sequence", "operator_omni", "digest", "type")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_OMNI_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    operator_omni: bytes
    digest: bytes
    type: str
    def __init__(self, sequence: _Optional[int] = ..., operator_omni: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., type: _Optional[str] = ...) -> None: ...
