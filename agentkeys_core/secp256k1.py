"""secp256k1 through libsecp256k1's own C interface: building key objects a call costs more than the mathematics."""

from functools import lru_cache
from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256

PUBLIC_KEY_BYTES: Final = 33
SECRET_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
RECOVERABLE_BYTES: Final = 65

_STATIC: Final = lib.secp256k1_context_static  # verifying needs no state, so threads share nothing
_COMPRESSED: Final = 258  # SECP256K1_EC_COMPRESSED
_UNCOMPRESSED: Final = 2  # SECP256K1_EC_UNCOMPRESSED
_CACHED_KEYS: Final = 8192


@lru_cache(maxsize=_CACHED_KEYS)
def _parsed(public_key: bytes) -> Any:
    """Return the library's form of a 33-byte key; ValueError for other lengths and points not on the curve."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError("not 33 bytes")
    key = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_parse(_STATIC, key, public_key, PUBLIC_KEY_BYTES):
        raise ValueError("not a point")
    return key


def _serialised(key: Any, size: int, flags: int) -> bytes:
    output = ffi.new("unsigned char []", size)
    length = ffi.new("size_t *", size)
    lib.secp256k1_ec_pubkey_serialize(_STATIC, output, length, key, flags)
    return bytes(ffi.buffer(output, size))


def _address(key: Any) -> bytes:
    return keccak256(_serialised(key, 65, _UNCOMPRESSED)[1:])[-20:]


@lru_cache(maxsize=_CACHED_KEYS)
def address_of(public_key: bytes) -> bytes:
    """Return the 20 address bytes of a 33-byte public key.

    Raises:
        KeyServiceError: `invalid_encoding` for a key that is none.
    """
    try:
        return _address(_parsed(public_key))
    except ValueError as exc:
        raise KeyServiceError(Reason.INVALID_ENCODING, "not a public key") from exc


def verify(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Tell whether r||s (64 bytes, low s) signs the 32-byte digest; False for anything malformed."""
    if len(signature) != SIGNATURE_BYTES or len(digest) != 32:  # noqa: PLR2004  # the C side reads that many bytes
        return False
    try:
        key = _parsed(public_key)
    except ValueError:
        return False
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_compact(_STATIC, parsed, signature):
        return False
    # The library itself refuses a high s here.
    return bool(lib.secp256k1_ecdsa_verify(_STATIC, parsed, digest, key))


def _recovered(digest: bytes, signature: bytes) -> Any:
    """Return the key that made r||s||v (65 bytes, v 0/1/27/28, low s), or None."""
    if len(signature) != RECOVERABLE_BYTES or len(digest) != 32:  # noqa: PLR2004  # the C side reads that many bytes
        return None
    parity = {0: 0, 1: 1, 27: 0, 28: 1}.get(signature[64])
    if parity is None:
        return None
    parsed = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    if not lib.secp256k1_ecdsa_recoverable_signature_parse_compact(_STATIC, parsed, signature[:64], parity):
        return None
    plain = ffi.new("secp256k1_ecdsa_signature *")
    lib.secp256k1_ecdsa_recoverable_signature_convert(_STATIC, plain, parsed)
    if lib.secp256k1_ecdsa_signature_normalize(_STATIC, ffi.NULL, plain):
        return None  # it had a high s
    key = ffi.new("secp256k1_pubkey *")
    return key if lib.secp256k1_ecdsa_recover(_STATIC, key, parsed, digest) else None


def verify_recoverable(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Tell whether r||s||v (65 bytes, v 0/1/27/28, low s) is this very key's, parity included."""
    key = _recovered(digest, signature)
    return key is not None and _serialised(key, PUBLIC_KEY_BYTES, _COMPRESSED) == public_key


def recover_address(digest: bytes, signature: bytes) -> bytes | None:
    """Return the 20 address bytes that r||s||v signs for, or None where it is no signature (high s included)."""
    key = _recovered(digest, signature)
    return None if key is None else _address(key)


def public_key_of(secret: bytes | bytearray) -> bytes:
    """Return the 33-byte public key; ValueError where the 32 bytes are no scalar in 1…n-1."""
    if len(secret) != SECRET_BYTES:
        raise ValueError("not 32 bytes")
    key = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_create(GLOBAL_CONTEXT.ctx, key, ffi.from_buffer(secret)):
        raise ValueError("not a scalar")
    return _serialised(key, PUBLIC_KEY_BYTES, _COMPRESSED)


def sign_recoverable(secret: bytes | bytearray, digest: bytes) -> bytes:
    """Sign the 32-byte digest as it is: r||s||v, RFC 6979, low s, v 27 or 28. ValueError for a bad scalar or length."""
    if len(secret) != SECRET_BYTES or len(digest) != 32:  # noqa: PLR2004  # the C side reads that many bytes
        raise ValueError("not 32 bytes")
    made = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    signed = lib.secp256k1_ecdsa_sign_recoverable(
        GLOBAL_CONTEXT.ctx, made, digest, ffi.from_buffer(secret), ffi.NULL, ffi.NULL
    )
    if not signed:
        raise ValueError("not a scalar")
    output = ffi.new("unsigned char [64]")
    parity = ffi.new("int *")
    lib.secp256k1_ecdsa_recoverable_signature_serialize_compact(_STATIC, output, parity, made)
    return bytes(ffi.buffer(output, 64)) + bytes([27 + parity[0]])


def sign(secret: bytes | bytearray, digest: bytes) -> bytes:
    """Sign the 32-byte digest as it is: r||s, 64 bytes, RFC 6979, low s. ValueError as `sign_recoverable`."""
    return sign_recoverable(secret, digest)[:64]
