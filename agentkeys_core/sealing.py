"""Sealed answers: HPKE to the reply key of a request, so that nothing on the way can read them (wire.md)."""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agentkeys_core.errors import KeyServiceError, Reason

REPLY_KEY_BYTES: Final = 32
#: The encapsulated key before the ciphertext, and the tag at its end.
OVERHEAD_BYTES: Final = 32 + 16

_INFO_TAG: Final = b"agentkeys.reply.v1"
_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

_P: Final = 2**255 - 19
# The u coordinates of all points whose order divides 8, on the curve and its twist: 0, 1, -1 and the two of order 8.
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        int.from_bytes(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), "little"),
        int.from_bytes(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), "little"),
    }
)


def check_reply_key(key: bytes) -> bytes:
    """Return the X25519 public key, once it is known to lead to no zero secret (what is sealed to one, anyone opens).

    Raises:
        KeyServiceError: `invalid_encoding` for a length other than 32 bytes or a point of small order in any spelling.
    """
    if len(key) != REPLY_KEY_BYTES:
        raise KeyServiceError(Reason.INVALID_ENCODING, "reply_key")
    # X25519 drops the top bit and reduces, so small points have several spellings.
    if (int.from_bytes(key, "little") & (2**255 - 1)) % _P in _SMALL_ORDER:
        raise KeyServiceError(Reason.INVALID_ENCODING, "reply_key of small order")
    return key


def seal(reply_key: bytes, cap_digest: bytes, plaintext: bytes) -> bytes:
    """Encrypt to the reply key (32 bytes), bound to the cap digest (32 bytes): enc (32) || ciphertext || tag (16).

    Raises:
        KeyServiceError: `invalid_encoding` for a reply key that is none.
    """
    public = X25519PublicKey.from_public_bytes(check_reply_key(reply_key))
    return _SUITE.encrypt(plaintext, public, info=_INFO_TAG + cap_digest)


def open_sealed(private: X25519PrivateKey, cap_digest: bytes, sealed: bytes) -> bytes:
    """Return the plaintext of an answer that was sealed to this key for this very request.

    Raises:
        KeyServiceError: `invalid_encoding` for anything else.
    """
    try:
        check_reply_key(sealed[:REPLY_KEY_BYTES])  # an `enc` of small order makes the secret a constant
        return _SUITE.decrypt(sealed, private, info=_INFO_TAG + cap_digest)
    except (InvalidTag, ValueError) as exc:
        raise KeyServiceError(Reason.INVALID_ENCODING, "sealed answer") from exc
