"""Envelopes from before per-object keys (wire.md): one key for a whole owner.

They are opened only inside the signer, to re-wrap.
"""

from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys_core.encoding import hex_encode
from agentkeys_core.envelope import MAX_ENVELOPE_BYTES, NONCE_BYTES, TAG_BYTES
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret

VERSION: Final = 0x04
#: version (1) || epoch (1)
HEADER_BYTES: Final = 2
_AAD_TAG: Final = "agentkeys.cred.aad.v2"
_BAD: Final = Reason.INVALID_ENVELOPE


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyEnvelope:
    """A 0x04 envelope. Its header is not authenticated: the epoch only picks the key."""

    epoch: int
    nonce: bytes
    ciphertext: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Split the bytes.

        Raises:
            KeyServiceError: `invalid_envelope` for the length, then `unsupported_version`.
        """
        if not HEADER_BYTES + NONCE_BYTES + TAG_BYTES <= len(data) <= MAX_ENVELOPE_BYTES:
            raise KeyServiceError(_BAD, "length")
        if data[0] != VERSION:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "envelope")
        body = data[HEADER_BYTES:]
        return cls(epoch=data[1], nonce=body[:NONCE_BYTES], ciphertext=body[NONCE_BYTES:])

    def decrypt(self, key: Secret, *, omni: bytes, service: str) -> bytes:
        """Return the plaintext that was written for this owner omni (32 bytes).

        `key` is the owner's 32-byte key of `epoch`, `service` the very string that the writer used, with or without a
        prefix.

        Raises:
            KeyServiceError: `invalid_envelope` if the tag does not fit.
        """
        aad = f"{_AAD_TAG}|{hex_encode(omni)}|{service}".encode()
        try:
            return AESGCM(key.view()).decrypt(self.nonce, self.ciphertext, aad)
        except InvalidTag as exc:
            raise KeyServiceError(_BAD, "tag") from exc
