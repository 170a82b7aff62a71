"""What a known K3 gives, written from docs/spec/formats.md: the suite compares it with what the target derives."""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys_core.hashes import hkdf_sha256
from agentkeys_core.keys import DeviceKey, ES256PublicKey

CREDENTIALS: Final = 1
MEMORY: Final = 2


def wallet(k3: bytes, omni: bytes) -> DeviceKey:
    """K4 of an omni. (The counter byte after a scalar that is none is beyond any test: one in 2^128.)"""
    info = b"\x01agentkeys-evm-wallet" + omni
    return DeviceKey.from_bytes(hkdf_sha256(k3, salt=b"agentkeys-signer-v0", info=info, length=32))


def object_key(k3: bytes, object_class: int, owner: bytes, service: str, salt: bytes) -> tuple[bytes, bytes]:
    """Key and commitment of one version of one object."""
    info = b"agentkeys.object.v1" + bytes((object_class,)) + owner + sha256(service.encode()).digest() + salt
    both = hkdf_sha256(k3, salt=b"agentkeys.object-salt.v1", info=info, length=64)
    return both[:32], both[32:]


def es256_key(k3: bytes, purpose: str) -> ES256PublicKey:
    """The public `audit` or `oidc` key of that epoch."""
    info = f"agentkeys.{purpose}.v1".encode() + b"\x00"
    scalar = hkdf_sha256(k3, salt=b"agentkeys.es256-salt.v1", info=info, length=32)
    return ES256PublicKey.of(ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()).public_key())


def journal_mac(k3: bytes, registry_id: str, *, incarnation: int, sequence: int, head: bytes) -> bytes:
    """The MAC of a journal head as streams carry it."""
    return _mac(k3, b"agentkeys.journal.stream.v1\x00", registry_id, incarnation, sequence, head)


def head_mac(k3: bytes, registry_id: str, *, incarnation: int, sequence: int, head: bytes) -> bytes:
    """The MAC of a registry head."""
    return _mac(k3, b"agentkeys.registry-head.v1\x00", registry_id, incarnation, sequence, head)


def _mac(k3: bytes, tag: bytes, registry_id: str, incarnation: int, sequence: int, head: bytes) -> bytes:
    key = hkdf_sha256(k3, salt=b"agentkeys.journal-salt.v1", info=b"agentkeys.journal.v1", length=32)
    place = incarnation.to_bytes(8, "big") + sequence.to_bytes(8, "big")
    return hmac.digest(key, tag + sha256(registry_id.encode()).digest() + place + head, "sha256")


def chained(previous: bytes, *, sequence: int, operator: bytes, digest: bytes) -> bytes:
    """The registry's hash chain after one more change."""
    message = b"agentkeys.registry-chain.v1\x00" + previous + sequence.to_bytes(8, "big") + operator + digest
    return sha256(message).digest()


def legacy_envelope(k3: bytes, *, epoch: int, omni: bytes, service: str, plaintext: bytes) -> bytes:
    """An envelope as deployed writers made it: one key for a whole owner."""
    info = b"agentkeys.user.v1" + omni
    key = hkdf_sha256(k3, salt=b"agentkeys.kek-salt.v2", info=info, length=32)
    nonce = bytes(range(12))
    aad = f"agentkeys.cred.aad.v2|{omni.hex()}|{service}".encode()
    return bytes((4, epoch)) + nonce + AESGCM(key).encrypt(nonce, plaintext, aad)


def merkle_root(rows: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1, over row hashes."""
    if not rows:
        return sha256(b"").digest()
    level = [sha256(b"\x00" + row).digest() for row in rows]
    return _root(level)


def _root(level: Sequence[bytes]) -> bytes:
    if len(level) == 1:
        return level[0]
    split = 1 << (len(level) - 1).bit_length() - 1
    return sha256(b"\x01" + _root(level[:split]) + _root(level[split:])).digest()


def consistency_proof(rows: Sequence[bytes], first: int) -> list[bytes]:
    """RFC 9162, 2.1.4.1: that the tree over all rows goes on from the one over the first."""
    level = [sha256(b"\x00" + row).digest() for row in rows]
    return _subproof(first, level, whole=True) if 0 < first < len(level) else []


def _subproof(first: int, level: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if first == len(level):
        return [] if whole else [_root(level)]
    split = 1 << (len(level) - 1).bit_length() - 1
    if first <= split:
        return [*_subproof(first, level[:split], whole=whole), _root(level[split:])]
    return [*_subproof(first - split, level[split:], whole=False), _root(level[:split])]
