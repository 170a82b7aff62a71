"""What K10 signs, and the proof that goes with a session request (wire.md)."""

from dataclasses import dataclass
from typing import Final, Literal, Self

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, hex_decode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import address_of, device_key_hash
from agentkeys_core.keys import DeviceKey, verify_secp256k1
from agentkeys_core.shapes import integer, text

Purpose = Literal["cap", "session"]

#: Carries a proof with the HTTP request that it is about.
PROOF_HEADER: Final = "AgentKeys-Proof"

SESSION_WINDOW_S: Final = 60
MAX_PROOF_BYTES: Final = 4096
SESSION_PURPOSES: Final = ("sign-in", "refresh", "request")

_VERSION: Final = 2
_BAD: Final = Reason.INVALID_ENCODING
_PREFIX: Final = {purpose: f"agentkeys.k10.{purpose}.v2".encode("ascii") + b"\x00" for purpose in ("cap", "session")}
_TEXTS: Final = ("aud", "body_hash", "device", "method", "nonce", "path", "public_key", "purpose")
_NAMES: Final = (*_TEXTS, "expires_at", "issued_at", "ver")


def k10_digest(purpose: Purpose, canonical: bytes) -> bytes:
    """Return the 32 bytes that K10 signs as they are for this canonical JSON."""
    return sha256(_PREFIX[purpose] + canonical)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionProof:
    """A device's claim to one HTTP request at the broker. `verify` says whether the device made it.

    Sizes in bytes: `body_hash` (SHA-256 of the HTTP body as sent) and `device` 32, `public_key` 33, `signature` 64.
    `nonce` is the broker's for a sign-in, else 16 random bytes; always text here. Times in Unix seconds.
    """

    aud: str
    body_hash: bytes
    device: bytes
    expires_at: int
    issued_at: int
    method: str
    nonce: str
    path: str
    public_key: bytes
    purpose: str
    signature: bytes = b""

    def canonical(self) -> bytes:
        """The canonical JSON that is signed."""
        return canonical_json(
            {
                "aud": self.aud,
                "body_hash": b64u_encode(self.body_hash),
                "device": self.device.hex(),
                "expires_at": self.expires_at,
                "issued_at": self.issued_at,
                "method": self.method,
                "nonce": self.nonce,
                "path": self.path,
                "public_key": b64u_encode(self.public_key),
                "purpose": self.purpose,
                "ver": _VERSION,
            }
        )

    def encode(self) -> str:
        """Return the text of the header `AgentKeys-Proof`."""
        return f"{b64u_encode(self.canonical())}.{b64u_encode(self.signature)}"

    def sign(self, key: DeviceKey) -> str:
        """Return the header's text with this device's signature over it."""
        raw = self.canonical()
        return f"{b64u_encode(raw)}.{b64u_encode(key.sign(k10_digest('session', raw)))}"

    @classmethod
    def parse(cls, header: str) -> Self:
        """Read the header's text; nothing is verified.

        Raises:
            KeyServiceError: `too_large`, `unknown_fields`, `unsupported_version`, `window_too_long` for more than 60 s,
                else `invalid_encoding`.
        """
        if len(header) > 2 * MAX_PROOF_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, "proof")
        document, _, signature = header.partition(".")
        value = parse_canonical(b64u_decode(document), limit=MAX_PROOF_BYTES, not_canonical=_BAD)
        members = fields(value, required=_NAMES, reason=_BAD)
        texts = {name: text(members[name], name, reason=_BAD) for name in _TEXTS}
        if not all(value.isascii() for value in texts.values()):
            raise KeyServiceError(_BAD, "a text that is not ASCII")
        if integer(members["ver"], "ver", reason=_BAD) != _VERSION:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "proof")
        if texts["purpose"] not in SESSION_PURPOSES:
            raise KeyServiceError(_BAD, "purpose")
        proof = cls(
            aud=texts["aud"],
            body_hash=b64u_decode(texts["body_hash"], length=32),
            device=hex_decode(texts["device"], length=32),
            expires_at=integer(members["expires_at"], "expires_at", reason=_BAD),
            issued_at=integer(members["issued_at"], "issued_at", reason=_BAD),
            method=texts["method"],
            nonce=texts["nonce"],
            path=texts["path"],
            public_key=b64u_decode(texts["public_key"], length=33),
            purpose=texts["purpose"],
            signature=b64u_decode(signature, length=64),
        )
        if proof.expires_at <= proof.issued_at:
            raise KeyServiceError(_BAD, "it expires before it is issued")
        if proof.expires_at - proof.issued_at > SESSION_WINDOW_S:
            raise KeyServiceError(Reason.WINDOW_TOO_LONG, f"at most {SESSION_WINDOW_S} s")
        return proof

    def verify(self) -> None:
        """Prove that the named device signed exactly this; `device_signature_invalid` otherwise."""
        digest = k10_digest("session", self.canonical())
        if not verify_secp256k1(self.public_key, digest, self.signature):
            raise KeyServiceError(Reason.DEVICE_SIGNATURE_INVALID, "proof")
        if device_key_hash(address_of(self.public_key)) != self.device:
            raise KeyServiceError(Reason.DEVICE_SIGNATURE_INVALID, "the key is another device's")
