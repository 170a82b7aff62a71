"""Values that tie a new device's keys to what people or an identity provider confirm (wire.md)."""

from typing import Final

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.hashes import sha256

#: In place of k11CredId, x and y for devices without K11.
NO_K11: Final = bytes(32)
PAIRING_HASH_BYTES: Final = 16
_PAIRING_TAG: Final = b"agentkeys.pairhash.v1\x00"
_NONCE_TAG: Final = b"agentkeys.oidc-nonce.v1\x00"


def pairing_hash(
    *,
    device_public_key: bytes,
    profile_hash: bytes,
    k11_cred_id: bytes = NO_K11,
    k11_x: bytes = NO_K11,
    k11_y: bytes = NO_K11,
) -> bytes:
    """The 16 bytes that a person compares on two machines before pairing.

    `device_public_key` is the 33-byte compressed K10, `profile_hash` the 32-byte hash of the new device's profile,
    `k11_cred_id` keccak256 of its credential id; for agents that is zero, like the 32-byte coordinates.
    """
    return sha256(_PAIRING_TAG + device_public_key + k11_cred_id + k11_x + k11_y + profile_hash)[:PAIRING_HASH_BYTES]


def oidc_nonce(*, device_address: bytes, k11_cred_id: bytes, k11_x: bytes, k11_y: bytes, aud: str, blind: bytes) -> str:
    """The `nonce` that an ID token must carry to vouch for these K10 and K11 keys.

    `device_address` has 20 bytes; `aud` is our client id at the issuer; `blind` are 32 random bytes that go with the
    evidence, so that the issuer learns nothing of the keys.
    """
    keys = device_address + k11_cred_id + k11_x + k11_y
    return b64u_encode(sha256(_NONCE_TAG + keys + sha256(aud.encode()) + sha256(blind)))
