"""The capability request: what a device asks for and signs (wire.md, Capability request)."""

from dataclasses import dataclass
from typing import Final, NoReturn, Self

import orjson

from agentkeys_core.encoding import (
    MAX_SAFE_INTEGER,
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_decode,
    read_json,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ops import OPS, Op, OpRule, Service
from agentkeys_core.sealing import check_reply_key
from agentkeys_core.shapes import MAX_EPOCH

MAX_REQUEST_BYTES: Final = 4096
VERSION: Final = 2

_TEXTS: Final = (
    "actor_omni",
    "aud",
    "device",
    "nonce",
    "op",
    "operator_omni",
    "reply_key",
    "request_hash",
    "service",
)
_RANGES: Final = (
    ("expires_at", 0, MAX_SAFE_INTEGER),
    ("issued_at", 0, MAX_SAFE_INTEGER),
    ("k3_epoch", 1, MAX_EPOCH),
    ("ver", 0, MAX_SAFE_INTEGER),
)
_NAMES: Final = frozenset(_TEXTS) | {name for name, _, _ in _RANGES}
_OMNI_BYTES: Final = 32
_HASH_BYTES: Final = 32
_NONCE_BYTES: Final = 16
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CapRequest:
    """A well-formed request; nothing about it is authentic yet.

    Sizes in bytes: `actor_omni`, `operator_omni`, `device` (the key hash), `reply_key` (X25519), `request_hash`
    (SHA-256 of the canonical body) 32, `nonce` 16. Times in Unix seconds. `raw` are the bytes as signed.
    """

    actor_omni: bytes
    aud: str
    device: bytes
    expires_at: int
    issued_at: int
    k3_epoch: int
    nonce: bytes
    op: Op
    operator_omni: bytes
    reply_key: bytes
    request_hash: bytes
    service: Service
    raw: bytes
    digest: bytes
    """SHA-256 of `raw`: the cap digest, 32 bytes, which names this request everywhere."""

    @property
    def rule(self) -> OpRule:
        """The row of the operations' table."""
        return OPS[self.op]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Judge the bytes by size and shape alone, in the order of wire.md.

        Raises:
            KeyServiceError: `too_large`, `invalid_encoding`, `non_canonical_cap`, `invalid_cap`, `unknown_fields`,
                `unsupported_version`, `invalid_omni` or `window_too_long`, whichever is decided first.
        """
        if len(raw) > MAX_REQUEST_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, f"a request has at most {MAX_REQUEST_BYTES} bytes")
        texts, numbers = _members(raw)
        if numbers["ver"] != VERSION:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "request")
        # Keyword arguments are evaluated as written, so the order of names here is the order of decision.
        request = cls(
            actor_omni=hex_decode(texts["actor_omni"], length=_OMNI_BYTES, reason=Reason.INVALID_OMNI),
            aud=texts["aud"],
            device=hex_decode(texts["device"], length=_HASH_BYTES),
            expires_at=numbers["expires_at"],
            issued_at=numbers["issued_at"],
            k3_epoch=numbers["k3_epoch"],
            nonce=b64u_decode(texts["nonce"], length=_NONCE_BYTES),
            operator_omni=hex_decode(texts["operator_omni"], length=_OMNI_BYTES, reason=Reason.INVALID_OMNI),
            reply_key=check_reply_key(b64u_decode(texts["reply_key"], length=_KEY_BYTES)),
            request_hash=b64u_decode(texts["request_hash"], length=_HASH_BYTES),
            op=(op := _op(texts["op"])),
            service=Service.parse(texts["service"], op),
            raw=raw,
            digest=sha256(raw),
        )
        if request.expires_at <= request.issued_at:
            raise KeyServiceError(Reason.INVALID_CAP, "it expires before it is issued")
        if request.expires_at - request.issued_at > request.rule.window_s:
            raise KeyServiceError(Reason.WINDOW_TOO_LONG, f"at most {request.rule.window_s} s for this op")
        return request

    @classmethod
    def compose(
        cls,
        *,
        actor_omni: bytes,
        aud: str,
        device: bytes,
        expires_at: int,
        issued_at: int,
        k3_epoch: int,
        nonce: bytes,
        op: Op,
        operator_omni: bytes,
        reply_key: bytes,
        request_hash: bytes,
        service: Service,
    ) -> Self:
        """Make the request that a device signs; raises as `parse` does where a value cannot stand in one."""
        return cls.parse(
            canonical_json(
                {
                    "actor_omni": actor_omni.hex(),
                    "aud": aud,
                    "device": device.hex(),
                    "expires_at": expires_at,
                    "issued_at": issued_at,
                    "k3_epoch": k3_epoch,
                    "nonce": b64u_encode(nonce),
                    "op": str(op),
                    "operator_omni": operator_omni.hex(),
                    "reply_key": b64u_encode(reply_key),
                    "request_hash": b64u_encode(request_hash),
                    "service": service.text,
                    "ver": VERSION,
                }
            )
        )


def _op(text: str) -> Op:
    try:
        return Op(text)
    except ValueError as exc:
        raise KeyServiceError(Reason.INVALID_CAP, "unknown op") from exc


def _members(raw: bytes) -> tuple[dict[str, str], dict[str, int]]:
    """Return the members of a request whose form, names, types and ranges are right."""
    found = _sound(raw)
    if found is None:
        _refuse(raw)
    return found


def _sound(raw: bytes) -> tuple[dict[str, str], dict[str, int]] | None:
    """Return the members, or None where anything at all is wrong: the quick judge of the usual case.

    For ASCII names, texts and integers below 2^53, orjson's sorted output is the RFC 8785 form; canonical bytes that
    are ASCII hold no escape of anything beyond it.
    """
    try:
        value = orjson.loads(raw)
    except ValueError:
        return None
    if type(value) is not dict or value.keys() != _NAMES or not raw.isascii():
        return None
    if orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != raw:
        return None
    texts: dict[str, str] = {}
    for name in _TEXTS:
        text = texts[name] = value[name]
        if type(text) is not str:
            return None
    numbers: dict[str, int] = {}
    for name, low, high in _RANGES:
        number = numbers[name] = value[name]
        if type(number) is not int or not low <= number <= high:
            return None
    return texts, numbers


def _refuse(raw: bytes) -> NoReturn:
    """Name the first thing that is wrong, in the order of wire.md."""
    reading = read_json(raw, limit=MAX_REQUEST_BYTES, unparsable=Reason.NON_CANONICAL_CAP)
    if not isinstance(reading.value, dict):
        raise KeyServiceError(Reason.INVALID_CAP, "not an object")
    if not reading.canonical:
        raise KeyServiceError(Reason.NON_CANONICAL_CAP, "not the canonical form of what it says")
    members = fields(reading.value, required=_NAMES, reason=Reason.INVALID_CAP)
    if not all(isinstance(members[name], str) for name in _TEXTS):
        raise KeyServiceError(Reason.INVALID_CAP, "a text is missing")
    for name, low, high in _RANGES:
        number = members[name]
        if type(number) is not int or not low <= number <= high:
            raise KeyServiceError(Reason.INVALID_CAP, f"{name} is no integer from {low} to {high}")
    raise KeyServiceError(Reason.INVALID_ENCODING, "a text that is not ASCII")
