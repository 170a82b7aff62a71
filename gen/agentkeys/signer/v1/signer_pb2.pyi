from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ObjectClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBJECT_CLASS_UNSPECIFIED: _ClassVar[ObjectClass]
    OBJECT_CLASS_CREDENTIALS: _ClassVar[ObjectClass]
    OBJECT_CLASS_MEMORY: _ClassVar[ObjectClass]

class SignatureScheme(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNATURE_SCHEME_UNSPECIFIED: _ClassVar[SignatureScheme]
    SIGNATURE_SCHEME_K10_V2: _ClassVar[SignatureScheme]
    SIGNATURE_SCHEME_EIP712: _ClassVar[SignatureScheme]
    SIGNATURE_SCHEME_EIP191: _ClassVar[SignatureScheme]
OBJECT_CLASS_UNSPECIFIED: ObjectClass
OBJECT_CLASS_CREDENTIALS: ObjectClass
OBJECT_CLASS_MEMORY: ObjectClass
SIGNATURE_SCHEME_UNSPECIFIED: SignatureScheme
SIGNATURE_SCHEME_K10_V2: SignatureScheme
SIGNATURE_SCHEME_EIP712: SignatureScheme
SIGNATURE_SCHEME_EIP191: SignatureScheme

class DeriveAddressRequest(_message.Message):
    __slots__ = ("omni", "epoch", "wallet")
    OMNI_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    omni: bytes
    epoch: int
    wallet: bool
    def __init__(self, omni: _Optional[bytes] = ..., epoch: _Optional[int] = ..., wallet: _Optional[bool] = ...) -> None: ...

class DeriveAddressResponse(_message.Message):
    __slots__ = ("address", "epoch")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    address: bytes
    epoch: int
    def __init__(self, address: _Optional[bytes] = ..., epoch: _Optional[int] = ...) -> None: ...

class DeriveCredKekRequest(_message.Message):
    __slots__ = ("cap", "epoch", "salt", "expect")
    CAP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    epoch: int
    salt: bytes
    expect: bytes
    def __init__(self, cap: _Optional[bytes] = ..., epoch: _Optional[int] = ..., salt: _Optional[bytes] = ..., expect: _Optional[bytes] = ...) -> None: ...

class DeriveCredKekResponse(_message.Message):
    __slots__ = ("key", "commitment", "salt", "epoch", "row")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    commitment: bytes
    salt: bytes
    epoch: int
    row: bytes
    def __init__(self, key: _Optional[bytes] = ..., commitment: _Optional[bytes] = ..., salt: _Optional[bytes] = ..., epoch: _Optional[int] = ..., row: _Optional[bytes] = ...) -> None: ...

class StsCredentialsRequest(_message.Message):
    __slots__ = ("cap", "role_arn")
    CAP_FIELD_NUMBER: _ClassVar[int]
    ROLE_ARN_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    role_arn: str
    def __init__(self, cap: _Optional[bytes] = ..., role_arn: _Optional[str] = ...) -> None: ...

class StsCredentialsResponse(_message.Message):
    __slots__ = ("access_key_id", "secret_access_key", "session_token", "expires_at", "row")
    ACCESS_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_ACCESS_KEY_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: int
    row: bytes
    def __init__(self, access_key_id: _Optional[str] = ..., secret_access_key: _Optional[str] = ..., session_token: _Optional[str] = ..., expires_at: _Optional[int] = ..., row: _Optional[bytes] = ...) -> None: ...

class SignAuditRowRequest(_message.Message):
    __slots__ = ("cap", "result")
    CAP_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    result: int
    def __init__(self, cap: _Optional[bytes] = ..., result: _Optional[int] = ...) -> None: ...

class SignAuditRowResponse(_message.Message):
    __slots__ = ("row",)
    ROW_FIELD_NUMBER: _ClassVar[int]
    row: bytes
    def __init__(self, row: _Optional[bytes] = ...) -> None: ...

class ListObjectsRequest(_message.Message):
    __slots__ = ("cap", "after", "limit")
    CAP_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    after: str
    limit: int
    def __init__(self, cap: _Optional[bytes] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListObjectsResponse(_message.Message):
    __slots__ = ("names", "next", "row")
    class Entry(_message.Message):
        __slots__ = ("name", "store")
        NAME_FIELD_NUMBER: _ClassVar[int]
        STORE_FIELD_NUMBER: _ClassVar[int]
        name: str
        store: bytes
        def __init__(self, name: _Optional[str] = ..., store: _Optional[bytes] = ...) -> None: ...
    NAMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedCompositeFieldContainer[ListObjectsResponse.Entry]
    next: str
    row: bytes
    def __init__(self, names: _Optional[_Iterable[_Union[ListObjectsResponse.Entry, _Mapping]]] = ..., next: _Optional[str] = ..., row: _Optional[bytes] = ...) -> None: ...

class GetAuditRowsRequest(_message.Message):
    __slots__ = ("cap", "after", "limit")
    CAP_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    after: int
    limit: int
    def __init__(self, cap: _Optional[bytes] = ..., after: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class GetAuditRowsResponse(_message.Message):
    __slots__ = ("rows", "next")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[bytes]
    next: int
    def __init__(self, rows: _Optional[_Iterable[bytes]] = ..., next: _Optional[int] = ...) -> None: ...

class GetRowHashesRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: int
    limit: int
    def __init__(self, after: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class GetRowHashesResponse(_message.Message):
    __slots__ = ("hashes", "total", "checkpoint_size")
    HASHES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SIZE_FIELD_NUMBER: _ClassVar[int]
    hashes: bytes
    total: int
    checkpoint_size: int
    def __init__(self, hashes: _Optional[bytes] = ..., total: _Optional[int] = ..., checkpoint_size: _Optional[int] = ...) -> None: ...

class SignCheckpointRequest(_message.Message):
    __slots__ = ("tree_size", "root", "consistency_proof")
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_PROOF_FIELD_NUMBER: _ClassVar[int]
    tree_size: int
    root: bytes
    consistency_proof: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, tree_size: _Optional[int] = ..., root: _Optional[bytes] = ..., consistency_proof: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SignCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    def __init__(self, checkpoint: _Optional[bytes] = ...) -> None: ...

class SignSiweRequest(_message.Message):
    __slots__ = ("cap", "message")
    CAP_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    message: str
    def __init__(self, cap: _Optional[bytes] = ..., message: _Optional[str] = ...) -> None: ...

class SignSiweResponse(_message.Message):
    __slots__ = ("sealed", "row")
    SEALED_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    sealed: bytes
    row: bytes
    def __init__(self, sealed: _Optional[bytes] = ..., row: _Optional[bytes] = ...) -> None: ...

class SignTypedDataRequest(_message.Message):
    __slots__ = ("cap", "typed_data")
    CAP_FIELD_NUMBER: _ClassVar[int]
    TYPED_DATA_FIELD_NUMBER: _ClassVar[int]
    cap: bytes
    typed_data: bytes
    def __init__(self, cap: _Optional[bytes] = ..., typed_data: _Optional[bytes] = ...) -> None: ...

class SignTypedDataResponse(_message.Message):
    __slots__ = ("sealed", "digest", "type_hash", "domain_separator", "intent", "row")
    SEALED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TYPE_HASH_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SEPARATOR_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    sealed: bytes
    digest: bytes
    type_hash: bytes
    domain_separator: bytes
    intent: str
    row: bytes
    def __init__(self, sealed: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., type_hash: _Optional[bytes] = ..., domain_separator: _Optional[bytes] = ..., intent: _Optional[str] = ..., row: _Optional[bytes] = ...) -> None: ...

class VerifyK10SigRequest(_message.Message):
    __slots__ = ("public_key", "payload", "signature", "scheme", "purpose")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    payload: bytes
    signature: bytes
    scheme: SignatureScheme
    purpose: str
    def __init__(self, public_key: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., scheme: _Optional[_Union[SignatureScheme, str]] = ..., purpose: _Optional[str] = ...) -> None: ...

class VerifyK10SigResponse(_message.Message):
    __slots__ = ("valid", "reason", "binding")
    VALID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    reason: str
    binding: bytes
    def __init__(self, valid: _Optional[bool] = ..., reason: _Optional[str] = ..., binding: _Optional[bytes] = ...) -> None: ...

class VerifyK11AssertionRequest(_message.Message):
    __slots__ = ("credential_id", "expected_challenge", "authenticator_data", "client_data_json", "signature")
    CREDENTIAL_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATOR_DATA_FIELD_NUMBER: _ClassVar[int]
    CLIENT_DATA_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    credential_id: bytes
    expected_challenge: bytes
    authenticator_data: bytes
    client_data_json: bytes
    signature: bytes
    def __init__(self, credential_id: _Optional[bytes] = ..., expected_challenge: _Optional[bytes] = ..., authenticator_data: _Optional[bytes] = ..., client_data_json: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class VerifyK11AssertionResponse(_message.Message):
    __slots__ = ("valid", "reason", "sign_count")
    VALID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGN_COUNT_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    reason: str
    sign_count: int
    def __init__(self, valid: _Optional[bool] = ..., reason: _Optional[str] = ..., sign_count: _Optional[int] = ...) -> None: ...

class AttestEnrolRequest(_message.Message):
    __slots__ = ("change", "evidence")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    change: bytes
    evidence: bytes
    def __init__(self, change: _Optional[bytes] = ..., evidence: _Optional[bytes] = ...) -> None: ...

class AttestEnrolResponse(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class RewrapRequest(_message.Message):
    __slots__ = ("owner", "service", "envelope")
    CLASS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    service: str
    envelope: bytes
    def __init__(self, owner: _Optional[bytes] = ..., service: _Optional[str] = ..., envelope: _Optional[bytes] = ..., **kwargs) -> None: ...

class RewrapResponse(_message.Message):
    __slots__ = ("envelope",)
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    def __init__(self, envelope: _Optional[bytes] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("code", "reason", "metadata", "row")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    metadata: _containers.ScalarMap[str, str]
    row: bytes
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., row: _Optional[bytes] = ...) -> None: ...

class ReplayedRow(_message.Message):
    __slots__ = ("row",)
    ROW_FIELD_NUMBER: _ClassVar[int]
    row: bytes
    def __init__(self, row: _Optional[bytes] = ...) -> None: ...

class DeriveCredKekBatchRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DeriveCredKekRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[DeriveCredKekRequest, _Mapping]]] = ...) -> None: ...

class DeriveCredKekBatchResponse(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("response", "error")
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        response: DeriveCredKekResponse
        error: ItemError
        def __init__(self, response: _Optional[_Union[DeriveCredKekResponse, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DeriveCredKekBatchResponse.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[DeriveCredKekBatchResponse.Item, _Mapping]]] = ...) -> None: ...

class SignAuditRowBatchRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SignAuditRowRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[SignAuditRowRequest, _Mapping]]] = ...) -> None: ...

class SignAuditRowBatchResponse(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("response", "error")
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        response: SignAuditRowResponse
        error: ItemError
        def __init__(self, response: _Optional[_Union[SignAuditRowResponse, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SignAuditRowBatchResponse.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[SignAuditRowBatchResponse.Item, _Mapping]]] = ...) -> None: ...

class VerifyK10SigBatchRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[VerifyK10SigRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[VerifyK10SigRequest, _Mapping]]] = ...) -> None: ...

class VerifyK10SigBatchResponse(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("response", "error")
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        response: VerifyK10SigResponse
        error: ItemError
        def __init__(self, response: _Optional[_Union[VerifyK10SigResponse, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[VerifyK10SigBatchResponse.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[VerifyK10SigBatchResponse.Item, _Mapping]]] = ...) -> None: ...
