"""The one error type of the system and its closed set of reasons (design §5)."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

ERROR_DOMAIN: Final = "agentkeys.signer"


class Code(StrEnum):
    """The gRPC status names that a refusal can carry."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    NOT_FOUND = "NOT_FOUND"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


class Reason(StrEnum):
    """Why something was refused: the stable text that clients match on (design §5)."""

    INVALID_OMNI = "invalid_omni"
    INVALID_CAP = "invalid_cap"
    NON_CANONICAL_CAP = "non_canonical_cap"
    INVALID_ENCODING = "invalid_encoding"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNKNOWN_FIELDS = "unknown_fields"
    TOO_LARGE = "too_large"
    WRONG_AUDIENCE = "wrong_audience"
    INVALID_BODY = "invalid_body"
    INVALID_SIWE = "invalid_siwe"
    INVALID_TYPED_DATA = "invalid_typed_data"
    INVALID_ENVELOPE = "invalid_envelope"
    INVALID_CHANGE = "invalid_change"
    INVALID_EVIDENCE = "invalid_evidence"
    METHOD_NOT_ALLOWED = "method_not_allowed"

    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_REVOKED = "certificate_revoked"
    PROOF_INVALID = "proof_invalid"
    SESSION_INVALID = "session_invalid"

    ROLE_NOT_ALLOWED = "role_not_allowed"
    CLASS_MISMATCH = "class_mismatch"
    BROKER_SIGNATURE_INVALID = "broker_signature_invalid"
    DEVICE_SIGNATURE_INVALID = "device_signature_invalid"
    DEVICE_UNKNOWN = "device_unknown"
    DEVICE_REVOKED = "device_revoked"
    DEVICE_ROLE_MISSING = "device_role_missing"
    ACTOR_BINDING_MISMATCH = "actor_binding_mismatch"
    OPERATOR_FROZEN = "operator_frozen"
    SERVICE_NOT_IN_SCOPE = "service_not_in_scope"
    K11_REQUIRED = "k11_required"
    K11_INVALID = "k11_invalid"
    ROLE_ARN_NOT_ALLOWED = "role_arn_not_allowed"
    POLICY_REFUSED = "policy_refused"
    CHANGE_NOT_AUTHORISED = "change_not_authorised"
    WINDOW_CLOSED = "window_closed"

    STALE_EPOCH = "stale_epoch"
    FUTURE_EPOCH = "future_epoch"
    EPOCH_NOT_HELD = "epoch_not_held"
    VERSION_NOT_CURRENT = "version_not_current"
    SEALED = "sealed"
    K3_MISMATCH = "k3_mismatch"
    CLOCK_BEHIND = "clock_behind"
    REGISTRY_ROLLED_BACK = "registry_rolled_back"
    ALREADY_BOUND = "already_bound"
    GONE = "gone"
    CEREMONY_ENDED = "ceremony_ended"

    CAP_REPLAYED = "cap_replayed"

    CAP_EXPIRED = "cap_expired"
    CAP_NOT_YET_VALID = "cap_not_yet_valid"
    WINDOW_TOO_LONG = "window_too_long"

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"

    REGISTRY_STALE = "registry_stale"
    REGISTRY_UNREACHABLE = "registry_unreachable"
    JOURNAL_UNAVAILABLE = "journal_unavailable"
    STS_UNREACHABLE = "sts_unreachable"
    OBJECT_STORE_UNAVAILABLE = "object_store_unavailable"
    SIGNER_UNREACHABLE = "signer_unreachable"
    MAIL_UNREACHABLE = "mail_unreachable"
    PROVIDER_UNREACHABLE = "provider_unreachable"

    OBJECT_NOT_FOUND = "object_not_found"
    NOT_FOUND = "not_found"
    NOT_IMPLEMENTED = "not_implemented"
    INTERNAL = "internal"

    @property
    def code(self) -> Code:
        """The status that carries this reason; every reason has exactly one."""
        return _CODE_OF[self]


REASONS_OF: Final[Mapping[Code, tuple[Reason, ...]]] = MappingProxyType(
    {
        Code.INVALID_ARGUMENT: (
            Reason.INVALID_OMNI,
            Reason.INVALID_CAP,
            Reason.NON_CANONICAL_CAP,
            Reason.INVALID_ENCODING,
            Reason.UNSUPPORTED_VERSION,
            Reason.UNKNOWN_FIELDS,
            Reason.TOO_LARGE,
            Reason.WRONG_AUDIENCE,
            Reason.INVALID_BODY,
            Reason.INVALID_SIWE,
            Reason.INVALID_TYPED_DATA,
            Reason.INVALID_ENVELOPE,
            Reason.INVALID_CHANGE,
            Reason.INVALID_EVIDENCE,
            Reason.METHOD_NOT_ALLOWED,
        ),
        Code.UNAUTHENTICATED: (
            Reason.CERTIFICATE_INVALID,
            Reason.CERTIFICATE_REVOKED,
            Reason.PROOF_INVALID,
            Reason.SESSION_INVALID,
        ),
        Code.PERMISSION_DENIED: (
            Reason.ROLE_NOT_ALLOWED,
            Reason.CLASS_MISMATCH,
            Reason.BROKER_SIGNATURE_INVALID,
            Reason.DEVICE_SIGNATURE_INVALID,
            Reason.DEVICE_UNKNOWN,
            Reason.DEVICE_REVOKED,
            Reason.DEVICE_ROLE_MISSING,
            Reason.ACTOR_BINDING_MISMATCH,
            Reason.OPERATOR_FROZEN,
            Reason.SERVICE_NOT_IN_SCOPE,
            Reason.K11_REQUIRED,
            Reason.K11_INVALID,
            Reason.ROLE_ARN_NOT_ALLOWED,
            Reason.POLICY_REFUSED,
            Reason.CHANGE_NOT_AUTHORISED,
            Reason.WINDOW_CLOSED,
        ),
        Code.FAILED_PRECONDITION: (
            Reason.STALE_EPOCH,
            Reason.FUTURE_EPOCH,
            Reason.EPOCH_NOT_HELD,
            Reason.VERSION_NOT_CURRENT,
            Reason.SEALED,
            Reason.K3_MISMATCH,
            Reason.CLOCK_BEHIND,
            Reason.REGISTRY_ROLLED_BACK,
            Reason.ALREADY_BOUND,
            Reason.GONE,
            Reason.CEREMONY_ENDED,
        ),
        Code.ALREADY_EXISTS: (Reason.CAP_REPLAYED,),
        Code.OUT_OF_RANGE: (Reason.CAP_EXPIRED, Reason.CAP_NOT_YET_VALID, Reason.WINDOW_TOO_LONG),
        Code.RESOURCE_EXHAUSTED: (Reason.RATE_LIMITED, Reason.OVERLOADED),
        Code.UNAVAILABLE: (
            Reason.REGISTRY_STALE,
            Reason.REGISTRY_UNREACHABLE,
            Reason.JOURNAL_UNAVAILABLE,
            Reason.STS_UNREACHABLE,
            Reason.OBJECT_STORE_UNAVAILABLE,
            Reason.SIGNER_UNREACHABLE,
            Reason.MAIL_UNREACHABLE,
            Reason.PROVIDER_UNREACHABLE,
        ),
        Code.NOT_FOUND: (Reason.OBJECT_NOT_FOUND, Reason.NOT_FOUND),
        Code.UNIMPLEMENTED: (Reason.NOT_IMPLEMENTED,),
        Code.INTERNAL: (Reason.INTERNAL,),
    }
)
"""The table of design §5, and below it the reasons that only the edges give."""

_CODE_OF: Final = {reason: code for code, reasons in REASONS_OF.items() for reason in reasons}

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})


class KeyServiceError(Exception):
    """A named refusal: the one error type that crosses rooms.

    Args:
        reason: What clients match on.
        detail: For logs and people; never key material, a credential or a request body.
        metadata: Texts that help the caller, e.g. `current_epoch`, `server_time`.
        row: The signed audit row (its JSON) that belongs to a `cap_replayed`, if there is one.

    `vouched` is set where a registered device's signature was verified before this was raised.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        metadata: Mapping[str, str] = _NO_METADATA,
        row: bytes | None = None,
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.metadata = metadata
        self.row = row
        self.vouched = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)
