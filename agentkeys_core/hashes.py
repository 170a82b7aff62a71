"""The hashes of wire.md, each from a library in C."""

import hashlib

import sha3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (not SHA3-256): 32 bytes."""
    return bytes(sha3.keccak_256(data).digest())


def sha256(data: bytes) -> bytes:
    """SHA-256: 32 bytes."""
    return hashlib.sha256(data).digest()


def hkdf_sha256(ikm: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869), extract and expand; `length` in bytes. An empty salt counts as 32 zero bytes."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(ikm)
