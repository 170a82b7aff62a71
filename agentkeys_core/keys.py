"""K10 (secp256k1) and ES256 keys: making, verifying, publishing."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Never, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentkeys_core import secp256k1
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256
from agentkeys_core.secp256k1 import recover_address, verify_recoverable
from agentkeys_core.secp256k1 import verify as verify_secp256k1

__all__ = [
    "DeviceKey",
    "ES256PublicKey",
    "eip191_digest",
    "es256_sign",
    "parse_jwks",
    "recover_address",
    "verify_recoverable",
    "verify_secp256k1",
]

MAX_JWKS_BYTES: Final = 1024 * 1024
_ES256: Final = ec.ECDSA(SHA256())
_COORDINATE_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64


def eip191_digest(message: bytes) -> bytes:
    """Return the 32 bytes that `personal_sign` signs for this message."""
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(message)).encode("ascii") + message)


class DeviceKey:
    """K10, a device's own key. Never printed, pickled or copied; only `secret_bytes` shows the secret.

    Attributes:
        public_key: 33 bytes, compressed.
        address: 20 bytes.
        key_hash: 32 bytes, the name of the device.
    """

    __slots__ = ("_secret", "address", "key_hash", "public_key")

    def __init__(self, secret: bytes | bytearray) -> None:
        try:
            self.public_key = secp256k1.public_key_of(secret)
        except ValueError as exc:
            raise KeyServiceError(Reason.INVALID_ENCODING, "not a secp256k1 secret") from exc
        self._secret = bytearray(secret)
        self.address = secp256k1.address_of(self.public_key)
        self.key_hash = keccak256(self.address)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the system's random source."""
        while True:
            try:
                return cls(secrets.token_bytes(32))
            except KeyServiceError:  # 0 or beyond the order: about once in 2^128
                continue

    @classmethod
    def from_bytes(cls, secret: bytes | bytearray) -> Self:
        """Take 32 bytes, big endian; `invalid_encoding` where they are no scalar in 1…n-1."""
        return cls(secret)

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes, to be written into the key file."""
        return bytes(self._secret)

    def sign(self, digest: bytes) -> bytes:
        """Sign the 32 bytes as they are: r||s, 64 bytes, RFC 6979, low s."""
        return secp256k1.sign(self._secret, digest)

    def sign_recoverable(self, digest: bytes) -> bytes:
        """Sign the 32 bytes as they are: r||s||v, 65 bytes, v 27 or 28 (EIP-712, EIP-191)."""
        return secp256k1.sign_recoverable(self._secret, digest)

    def __repr__(self) -> str:
        return f"<DeviceKey {self.key_hash.hex()}>"

    def __reduce__(self) -> Never:
        raise TypeError("a device key is never serialised")

    def __copy__(self) -> Never:
        raise TypeError("a device key is never copied")

    def __deepcopy__(self, memo: object) -> Never:
        raise TypeError("a device key is never copied")


@dataclass(frozen=True, slots=True)
class ES256PublicKey:
    """A P-256 public key: coordinates of 32 bytes each, known to lie on the curve."""

    x: bytes
    y: bytes
    kid: str = field(compare=False)
    """RFC 7638 thumbprint over crv, kty, x and y, b64u."""
    _key: ec.EllipticCurvePublicKey = field(compare=False, repr=False)

    @classmethod
    def from_xy(cls, x: bytes, y: bytes) -> Self:
        """Take the two 32-byte coordinates; `invalid_encoding` where they are no point of P-256."""
        if len(x) != _COORDINATE_BYTES or len(y) != _COORDINATE_BYTES:
            raise KeyServiceError(Reason.INVALID_ENCODING, "a coordinate is not 32 bytes")
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1())
        try:
            key = numbers.public_key()
        except ValueError as exc:
            raise KeyServiceError(Reason.INVALID_ENCODING, "not a point of P-256") from exc
        thumbprint = canonical_json({"crv": "P-256", "kty": "EC", "x": b64u_encode(x), "y": b64u_encode(y)})
        return cls(x, y, b64u_encode(sha256(thumbprint)), key)

    @classmethod
    def of(cls, key: ec.EllipticCurvePublicKey) -> Self:
        """Take a key of the library; `invalid_encoding` for another curve."""
        if not isinstance(key.curve, ec.SECP256R1):
            raise KeyServiceError(Reason.INVALID_ENCODING, "not P-256")
        numbers = key.public_numbers()
        return cls.from_xy(numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))

    @classmethod
    def from_jwk(cls, jwk: object) -> Self:
        """Read a public JWK. Members beyond those checked here are ignored, as RFC 7517 asks.

        Raises:
            KeyServiceError: `invalid_encoding` for another key type, curve, algorithm or use, a kid that is not the
                thumbprint, a point off the curve, or a private key.
        """
        if not isinstance(jwk, Mapping) or jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
            raise KeyServiceError(Reason.INVALID_ENCODING, "not a P-256 JWK")
        if "d" in jwk:
            raise KeyServiceError(Reason.INVALID_ENCODING, "a private key where a public one belongs")
        if jwk.get("alg", "ES256") != "ES256" or jwk.get("use", "sig") != "sig":
            raise KeyServiceError(Reason.INVALID_ENCODING, "a JWK for something else")
        x, y = (b64u_decode(jwk.get(name), length=_COORDINATE_BYTES) for name in ("x", "y"))
        key = cls.from_xy(x, y)
        if jwk.get("kid", key.kid) != key.kid:
            raise KeyServiceError(Reason.INVALID_ENCODING, "kid is not the thumbprint")
        return key

    def jwk(self) -> dict[str, str]:
        """Return the public JWK as published: with `alg` ES256, `use` sig and `kid`."""
        return {
            "alg": "ES256",
            "crv": "P-256",
            "kid": self.kid,
            "kty": "EC",
            "use": "sig",
            "x": b64u_encode(self.x),
            "y": b64u_encode(self.y),
        }

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether r||s (64 bytes, either half of s) signs SHA-256 of the message; False for anything malformed."""
        if len(signature) != _SIGNATURE_BYTES:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), message, _ES256)
        except InvalidSignature:
            return False
        return True


def es256_sign(private: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Sign SHA-256 of the message with a P-256 key: r||s, 64 bytes."""
    r, s = decode_dss_signature(private.sign(message, _ES256))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def parse_jwks(data: bytes) -> dict[str, ES256PublicKey]:
    """Read a JSON Web Key Set, at most 1 MiB, into keys by kid.

    Raises:
        KeyServiceError: `too_large`, else `invalid_encoding`.
    """
    document = strict_json(data, limit=MAX_JWKS_BYTES, reason=Reason.INVALID_ENCODING)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeyServiceError(Reason.INVALID_ENCODING, "not a JWK set")
    keys = [ES256PublicKey.from_jwk(jwk) for jwk in listed]
    return {key.kid: key for key in keys}
