"""Everything that is computed from K3, byte for byte as docs/spec/formats.md says. Pure.

`k3` is any 32-byte buffer, read in place. Keys are `bytearray`s, so that the caller can wipe them.
"""

from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentkeys_core.ops import ObjectClass, Service
from agentkeys_core.secp256k1 import address_of, public_key_of, sign_recoverable

K3_LENGTH: Final = 32
KEY_LENGTH: Final = 32

#: Order of secp256k1 (SEC 2, 2.4.1) and of P-256 (SP 800-186, 3.2.1.3): a valid scalar is in [1, n-1].
SECP256K1_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
P256_ORDER: Final = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551

Es256Purpose = Literal["oidc", "audit"]
KeyBuffer = bytes | bytearray | memoryview

_WALLET_SALT: Final = b"agentkeys-signer-v0"
_WALLET_INFO: Final = b"\x01agentkeys-evm-wallet"
_OBJECT_SALT: Final = b"agentkeys.object-salt.v1"
_OBJECT_INFO: Final = b"agentkeys.object.v1"
_ES256_SALT: Final = b"agentkeys.es256-salt.v1"
_ES256_INFO: Final[dict[Es256Purpose, bytes]] = {"oidc": b"agentkeys.oidc.v1", "audit": b"agentkeys.audit.v1"}
_LEGACY_SALT: Final = b"agentkeys.kek-salt.v2"
_LEGACY_INFO: Final = b"agentkeys.user.v1"
_CHECK_INFO: Final = b"agentkeys.k3-check.v1"
_JOURNAL_SALT: Final = b"agentkeys.journal-salt.v1"
_JOURNAL_INFO: Final = b"agentkeys.journal.v1"
_COUNTERS: Final = 256  # one byte; one candidate in 2^32 (P-256) or 2^128 (secp256k1) is refused


def _hkdf(k3: KeyBuffer, *, salt: bytes, info: bytes, length: int = KEY_LENGTH) -> bytearray:
    out = bytearray(length)
    HKDF(SHA256(), length, salt, info).derive_into(k3, out)
    return out


def _valid(candidate: bytearray, order: int) -> bool:
    return 0 < int.from_bytes(candidate, "big") < order


def wallet_key(k3: KeyBuffer, omni: bytes) -> bytearray:
    """K4: the 32-byte secp256k1 scalar of `omni` (32 bytes).

    The first candidate has no counter byte, as deployed signers compute it.
    """
    for suffix in (b"", *(bytes((counter,)) for counter in range(1, _COUNTERS))):
        candidate = _hkdf(k3, salt=_WALLET_SALT, info=_WALLET_INFO + omni + suffix)
        if _valid(candidate, SECP256K1_ORDER):
            return candidate
    raise ArithmeticError("no valid secp256k1 scalar in 256 candidates")


def wallet_address(k3: KeyBuffer, omni: bytes) -> bytes:
    """The 20-byte address of K4(omni); the scalar is wiped before this returns."""
    key = wallet_key(k3, omni)
    try:
        return address_of(public_key_of(key))
    finally:
        key[:] = bytes(len(key))


def wallet_signature(k3: KeyBuffer, omni: bytes, digest: bytes) -> bytes:
    """K4(omni) over the 32-byte digest as it is: r||s||v, RFC 6979, low s, v 27 or 28; the scalar is wiped."""
    key = wallet_key(k3, omni)
    try:
        return sign_recoverable(key, digest)
    finally:
        key[:] = bytes(len(key))


def object_key(
    k3: KeyBuffer, *, object_class: ObjectClass, owner: bytes, service: Service, salt: bytes
) -> tuple[bytearray, bytes]:
    """AES-256 key and key commitment of one version of one object, 32 bytes each, as `owner` and `salt` are."""
    info = _OBJECT_INFO + bytes((object_class,)) + owner + service.sha256 + salt
    both = _hkdf(k3, salt=_OBJECT_SALT, info=info, length=2 * KEY_LENGTH)
    key, commitment = both[:KEY_LENGTH], bytes(both[KEY_LENGTH:])
    both[:] = bytes(len(both))
    return key, commitment


def legacy_key(k3: KeyBuffer, omni: bytes) -> bytearray:
    """The 32-byte key that all 0x04 envelopes of one owner share; it never leaves the signer."""
    return _hkdf(k3, salt=_LEGACY_SALT, info=_LEGACY_INFO + omni)


def es256_scalar(k3: KeyBuffer, purpose: Es256Purpose) -> bytearray:
    """The 32-byte P-256 scalar of the OIDC or the audit key; its counter byte is always present."""
    for counter in range(_COUNTERS):
        candidate = _hkdf(k3, salt=_ES256_SALT, info=_ES256_INFO[purpose] + bytes((counter,)))
        if _valid(candidate, P256_ORDER):
            return candidate
    raise ArithmeticError("no valid P-256 scalar in 256 candidates")


def es256_key(k3: KeyBuffer, purpose: Es256Purpose) -> ec.EllipticCurvePrivateKey:
    """The OIDC or audit key as a key object of the library, whose memory cannot be wiped."""
    scalar = es256_scalar(k3, purpose)
    try:
        return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
    finally:
        scalar[:] = bytes(len(scalar))


def k3_check(k3: KeyBuffer) -> bytes:
    """32 bytes that name this K3 without revealing it; the registry records them for each epoch."""
    return bytes(_hkdf(k3, salt=b"", info=_CHECK_INFO))


def journal_mac_key(k3: KeyBuffer) -> bytearray:
    """The 32-byte key of the MACs over journal and registry heads."""
    return _hkdf(k3, salt=_JOURNAL_SALT, info=_JOURNAL_INFO)
