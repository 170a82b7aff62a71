"""Object envelopes: how a credential or a memory lies at rest (wire.md, Names and derivations).

The parts are split so that a worker can read the header, ask the signer for the key of that very version, and open.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import ObjectClass, Service
from agentkeys_core.secret import Secret

VERSION: Final = 0x05
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
#: version (1) || epoch (4) || class (1) || salt (32) || commitment (32)
HEADER_BYTES: Final = 70
#: A body of 1 MiB in base64 inside canonical JSON, and its row.
MAX_ENVELOPE_BYTES: Final = 2 * 1024 * 1024

_AAD_TAG: Final = b"agentkeys.object.aad.v1"
_BAD: Final = Reason.INVALID_ENVELOPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One version of one object. `object_class` is the byte as found: `expect_class` compares it with the request's.

    Sizes in bytes: salt 32, commitment 32, nonce 12, ciphertext with its tag at least 16.
    """

    epoch: int
    object_class: int
    salt: bytes
    commitment: bytes
    nonce: bytes
    ciphertext: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Split the bytes; nothing is authentic yet.

        Raises:
            KeyServiceError: `invalid_envelope` for the length, then `unsupported_version`.
        """
        if not HEADER_BYTES + NONCE_BYTES + TAG_BYTES <= len(data) <= MAX_ENVELOPE_BYTES:
            raise KeyServiceError(_BAD, "length")
        if data[0] != VERSION:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "envelope")
        return cls(
            epoch=int.from_bytes(data[1:5], "big"),
            object_class=data[5],
            salt=data[6:38],
            commitment=data[38:HEADER_BYTES],
            nonce=data[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES],
            ciphertext=data[HEADER_BYTES + NONCE_BYTES :],
        )

    @property
    def header(self) -> bytes:
        """The 70 bytes before the nonce."""
        return _header(self.epoch, self.object_class, self.salt, self.commitment)

    def encode(self) -> bytes:
        """The bytes at rest."""
        return self.header + self.nonce + self.ciphertext

    def expect_class(self, object_class: ObjectClass) -> None:
        """Raise `class_mismatch` unless the envelope says it is of the class that was asked for."""
        if self.object_class != object_class:
            raise KeyServiceError(Reason.CLASS_MISMATCH, "envelope")

    def decrypt(self, key: Secret, commitment: bytes, *, owner: bytes, service: Service) -> bytes:
        """Return the plaintext, authentic for the owner (32 bytes) and service of the *request*.

        `key` is the 32-byte key of this very version as the signer derived it, `commitment` the 32 bytes beside it.

        Raises:
            KeyServiceError: `invalid_envelope` if commitment or tag do not fit.
        """
        if not hmac.compare_digest(self.commitment, commitment):
            raise KeyServiceError(_BAD, "commitment")
        try:
            return AESGCM(key.view()).decrypt(self.nonce, self.ciphertext, _aad(self.header, owner, service))
        except InvalidTag as exc:
            raise KeyServiceError(_BAD, "tag") from exc


def seal_envelope(
    key: Secret,
    *,
    epoch: int,
    object_class: ObjectClass,
    salt: bytes,
    commitment: bytes,
    owner: bytes,
    service: Service,
    plaintext: bytes,
    nonce: bytes | None = None,
) -> bytes:
    """Encrypt one version of one object and return the bytes at rest.

    `key`, 32 bytes, was derived for this salt alone. The 12 bytes of `nonce` are random unless a test names them.

    Raises:
        KeyServiceError: `too_large` for a plaintext that no envelope holds.
    """
    if len(plaintext) > MAX_ENVELOPE_BYTES - HEADER_BYTES - NONCE_BYTES - TAG_BYTES:
        raise KeyServiceError(Reason.TOO_LARGE, "plaintext")
    header = _header(epoch, object_class, salt, commitment)
    chosen = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
    return header + chosen + AESGCM(key.view()).encrypt(chosen, plaintext, _aad(header, owner, service))


def open_envelope(
    data: bytes,
    *,
    object_class: ObjectClass,
    owner: bytes,
    service: Service,
    held: Callable[[int], bool] | None,
    key_for: Callable[[Envelope], tuple[Secret, bytes]],
) -> bytes:
    """Open an envelope in the order of wire.md: length, version, class, epoch held, commitment and tag.

    `object_class`, `owner` and `service` are of the request, never of the envelope. `held` says if the signer holds
    an epoch; None where `key_for` asks a signer that itself refuses with `epoch_not_held`. `key_for` gives key and
    commitment for a header; the key is wiped here.

    Raises:
        KeyServiceError: `invalid_envelope`, `unsupported_version`, `class_mismatch`, `epoch_not_held`, or what
            `key_for` raises.
    """
    envelope = Envelope.parse(data)
    envelope.expect_class(object_class)
    if held is not None and not held(envelope.epoch):
        raise KeyServiceError(Reason.EPOCH_NOT_HELD, "envelope")
    key, commitment = key_for(envelope)
    with key:
        return envelope.decrypt(key, commitment, owner=owner, service=service)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPlaintext:
    """What an envelope protects: the store's canonical body, and the signed audit row of that store."""

    body: bytes
    row: AuditRow

    def encode(self) -> bytes:
        """Canonical JSON; the same bytes are the sealed answer of a fetch."""
        return canonical_json({"body": b64u_encode(self.body), "row": self.row.to_json()})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what `encode` wrote; neither row nor body is verified.

        Raises:
            KeyServiceError: `invalid_envelope` for whatever is wrong: an authentic plaintext of another form has a bad
                writer.
        """
        try:
            members = fields(
                parse_canonical(data, limit=MAX_ENVELOPE_BYTES, not_canonical=_BAD),
                required=("body", "row"),
                reason=_BAD,
            )
            body = b64u_decode(members["body"], reason=_BAD)
            return cls(body=body, row=AuditRow.from_json(members["row"]))
        except KeyServiceError as exc:
            raise KeyServiceError(_BAD, "plaintext") from exc


def _header(epoch: int, object_class: int, salt: bytes, commitment: bytes) -> bytes:
    return bytes([VERSION]) + epoch.to_bytes(4, "big") + bytes([object_class]) + salt + commitment


def _aad(header: bytes, owner: bytes, service: Service) -> bytes:
    return _AAD_TAG + header + owner + service.sha256
