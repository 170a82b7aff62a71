"""Audit envelopes: what one operation did, as deterministic CBOR (wire.md, Audit). `audit` chains and signs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self

import cbor2

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256
from agentkeys_core.shapes import MAX_EPOCH, integer, octets, text

ENVELOPE_VERSION: Final = 1
#: An envelope is a few hundred bytes; the intent text is the only part that grows.
MAX_ENVELOPE_BYTES: Final = 32 * 1024
_BAD: Final = Reason.INVALID_ENCODING
_BAR: Final = b"\x7c"
_MAX_NESTING: Final = 4


class OpKind(IntEnum):
    """The kinds of operation. Rows carry plain integers: an unknown kind is shown as it is, never dropped."""

    CRED_STORE = 0
    CRED_FETCH = 1
    CRED_TEARDOWN = 2
    CRED_LIST = 3
    CRED_DELETE = 4
    CRED_REWRAP = 5
    MEMORY_PUT = 10
    MEMORY_GET = 11
    MEMORY_TEARDOWN = 12
    MEMORY_LIST = 14
    MEMORY_REWRAP = 15
    MEMORY_DELETE = 16
    SIGN_EIP191 = 20
    SIGN_EIP712 = 21
    PAYMENT_30 = 30
    PAYMENT_31 = 31
    SCOPE_GRANT = 40
    SCOPE_REVOKE = 41
    DEVICE_ADD = 50
    DEVICE_REVOKE = 51
    K10_ROTATE = 52
    FREEZE = 53
    UNFREEZE = 54
    ROLES_OR_THRESHOLD = 55
    EMAIL_60 = 60
    EMAIL_61 = 61
    K3_EPOCH_ADVANCE = 70


def kind_name(op_kind: int) -> str:
    """A name to show for any kind: `cred-store`, or `kind-<n>` for one that this version does not know."""
    try:
        return OpKind(op_kind).name.lower().replace("_", "-")
    except ValueError:
        return f"kind-{op_kind}"


class OpResult(IntEnum):
    """How the operation ended."""

    SUCCESS = 0
    FAILURE = 1
    NOT_PERMITTED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OpBody:
    """The members of `op_body` that apply; the rest are None and absent on the wire.

    `cap`: cap digest, `req`: SHA-256 of the request body, `salt` and `change` (the EIP-712 digest): 32 bytes each.
    """

    cap: bytes | None = None
    req: bytes | None = None
    svc: str | None = None
    epoch: int | None = None
    salt: bytes | None = None
    change: bytes | None = None

    def to_map(self) -> dict[str, bytes | str | int]:
        """The map to encode, its keys in the order of deterministic CBOR: short ones first."""
        values: dict[str, bytes | str | int | None] = {
            "cap": self.cap,
            "req": self.req,
            "svc": self.svc,
            "salt": self.salt,
            "epoch": self.epoch,
            "change": self.change,
        }
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_map(cls, value: object) -> Self:
        """Read a decoded map; raises `unknown_fields` or `invalid_encoding`."""
        members = _named(value, "op_body")
        if unknown := members.keys() - _BODY_NAMES:
            raise KeyServiceError(Reason.UNKNOWN_FIELDS, f"op_body has {len(unknown)} unknown fields")
        digests = {name: octets(members[name], name, length=32, reason=_BAD) for name in _DIGESTS & members.keys()}
        return cls(
            **digests,
            svc=text(members["svc"], "svc", reason=_BAD) if "svc" in members else None,
            epoch=integer(members["epoch"], "epoch", low=1, high=MAX_EPOCH, reason=_BAD)
            if "epoch" in members
            else None,
        )


_BODY_NAMES: Final = frozenset({"cap", "req", "svc", "epoch", "salt", "change"})
_DIGESTS: Final = frozenset({"cap", "req", "salt", "change"})


def intent_commitment(intent_text: str, payload_digest: bytes) -> bytes:
    """keccak256(intent text || 0x7c || payload digest): ties the words a person saw to the 32 bytes that K4 signed.

    Raises:
        KeyServiceError: `invalid_encoding` if the text is no Unicode text (a lone surrogate).
    """
    try:
        words = intent_text.encode()
    except UnicodeEncodeError as exc:
        raise KeyServiceError(_BAD, "intent_text is not Unicode text") from exc
    return keccak256(words + _BAR + payload_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEnvelope:
    """What was done, for whom, with which outcome. Omnis and commitment have 32 bytes; `ts_unix` is in seconds.

    `intent_commitment` is None exactly when `intent_text` is; `compose` sees to it.
    """

    ts_unix: int
    actor_omni: bytes
    operator_omni: bytes
    op_kind: int
    op_body: OpBody
    result: OpResult
    intent_text: str | None = None
    intent_commitment: bytes | None = None

    @classmethod
    def compose(
        cls,
        *,
        ts_unix: int,
        actor_omni: bytes,
        operator_omni: bytes,
        op_kind: int,
        op_body: OpBody,
        result: OpResult = OpResult.SUCCESS,
        intent_text: str | None = None,
        payload_digest: bytes | None = None,
    ) -> Self:
        """Build an envelope whose commitment fits its intent text.

        `payload_digest` is the 32-byte EIP-191 or EIP-712 digest that K4 signs, else the request hash; it counts only
        with an intent text.

        Raises:
            KeyServiceError: `invalid_encoding` for an intent text without a 32-byte payload digest.
        """
        commitment = None
        if intent_text is not None:
            digest = octets(payload_digest, "payload_digest", length=32, reason=_BAD)
            commitment = intent_commitment(intent_text, digest)
        return cls(
            ts_unix=ts_unix,
            actor_omni=actor_omni,
            operator_omni=operator_omni,
            op_kind=op_kind,
            op_body=op_body,
            result=result,
            intent_text=intent_text,
            intent_commitment=commitment,
        )

    def encode(self) -> bytes:
        """Deterministic CBOR (RFC 8949 §4.2.1) with all nine keys."""
        return cbor2.dumps(  # keys in that order already: sorting them costs as much as the rest
            {
                "result": int(self.result),
                "op_body": self.op_body.to_map(),
                "op_kind": int(self.op_kind),
                "ts_unix": self.ts_unix,
                "version": ENVELOPE_VERSION,
                "actor_omni": self.actor_omni,
                "intent_text": self.intent_text,
                "operator_omni": self.operator_omni,
                "intent_commitment": self.intent_commitment,
            }
        )

    def hash(self) -> bytes:
        """The envelope hash that the row covers."""
        return keccak256(self.encode())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly the bytes that `encode` writes.

        Raises:
            KeyServiceError: `too_large`, `unsupported_version`, `unknown_fields`, else `invalid_encoding`, also for
                CBOR that says the same in other bytes.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, "audit envelope")
        members = _named(_decode(data), "audit envelope")
        if members.get("version") != ENVELOPE_VERSION or type(members["version"]) is not int:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "audit envelope")
        if unknown := members.keys() - _ENVELOPE_NAMES:
            raise KeyServiceError(Reason.UNKNOWN_FIELDS, f"audit envelope has {len(unknown)} unknown fields")
        if len(members) != len(_ENVELOPE_NAMES):
            raise KeyServiceError(_BAD, "audit envelope lacks a field")
        words, commitment = members["intent_text"], members["intent_commitment"]
        if (words is None) != (commitment is None):
            raise KeyServiceError(_BAD, "intent_text and intent_commitment come together")
        envelope = cls(
            ts_unix=integer(members["ts_unix"], "ts_unix", reason=_BAD),
            actor_omni=octets(members["actor_omni"], "actor_omni", length=32, reason=_BAD),
            operator_omni=octets(members["operator_omni"], "operator_omni", length=32, reason=_BAD),
            op_kind=integer(members["op_kind"], "op_kind", reason=_BAD),
            op_body=OpBody.from_map(members["op_body"]),
            result=OpResult(integer(members["result"], "result", high=max(OpResult), reason=_BAD)),
            intent_text=None if words is None else text(words, "intent_text", reason=_BAD),
            intent_commitment=None if commitment is None else octets(commitment, "commitment", length=32, reason=_BAD),
        )
        if envelope.encode() != data:
            raise KeyServiceError(_BAD, "audit envelope is not deterministic CBOR")
        return envelope


_ENVELOPE_NAMES: Final = frozenset(
    {
        "version",
        "ts_unix",
        "actor_omni",
        "operator_omni",
        "op_kind",
        "op_body",
        "result",
        "intent_text",
        "intent_commitment",
    }
)


def _named(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise KeyServiceError(_BAD, f"{name} is not a map with text keys")
    return value


def _decode(data: bytes) -> Any:
    try:
        return cbor2.loads(data, max_depth=_MAX_NESTING, allow_indefinite=False, allow_duplicate_keys=False)
    except Exception as exc:  # decoders of tags raise whatever their type raises; hostile bytes must not choose that
        raise KeyServiceError(_BAD, "audit envelope is not CBOR") from exc
