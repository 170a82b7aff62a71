"""Envelopes as workers of today and of long ago made them, and `Rewrap` asked about them."""

import secrets
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys_core.audit import AuditRow
from agentkeys_core.envelope import Envelope, ObjectPlaintext, seal_envelope
from agentkeys_core.ops import ObjectClass, Op, Service
from agentkeys_core.secret import Secret
from signer.derivation import legacy_key
from tests.unit.signer.world import CREDENTIALS, K3, MEMORY, World

NAME = "cred:openrouter"
TRAVEL = "memory:travel"
VALUE = b"sk-or-legacy"
CLASSES = {"cred": (ObjectClass.CREDENTIALS, CREDENTIALS), "memory": (ObjectClass.MEMORY, MEMORY)}


def owner_of(world: World, name: str) -> bytes:
    return world.user.operator if name.startswith("cred:") else world.user.agent_actor


def rewrap(world: World, envelope: bytes, name: str = NAME, **changed) -> bytes:
    object_class, caller = CLASSES[name.partition(":")[0]]
    asked: dict[str, Any] = {
        "object_class": object_class,
        "owner": owner_of(world, name),
        "service": name,
        "envelope": envelope,
    }
    caller = changed.pop("caller", caller)
    return world.service.rewrap(caller, **(asked | changed))


def sealed(world: World, released, row: bytes, body: bytes = b"{}", name: str = NAME) -> bytes:
    """The envelope that a worker makes of a release."""
    with Secret.copy_of(released.key) as key:
        return seal_envelope(
            key,
            epoch=released.epoch,
            object_class=CLASSES[name.partition(":")[0]][0],
            salt=released.salt,
            commitment=released.commitment,
            owner=owner_of(world, name),
            service=Service.parse(name),
            plaintext=ObjectPlaintext(body=body, row=AuditRow.parse(row)).encode(),
        )


def stored(world: World, name: str = NAME, *, expect: bytes = b""):
    """A store from request to envelope: what was released, its envelope and its cap."""
    key = world.user.agent if name.startswith("memory:") else None
    released, cap = world.store(name, expect=expect, key=key)
    return released, sealed(world, released, released.row, name=name), cap


def opened(world: World, envelope: bytes, name: str = NAME) -> bytes:
    """What a reader gets: the key by a fetch, then the plaintext."""
    found = Envelope.parse(envelope)
    op = Op.CRED_FETCH if name.startswith("cred:") else Op.MEMORY_GET
    cap = world.cap(op, name, key=world.user.agent)
    released = world.derive(cap, epoch=found.epoch, salt=found.salt)
    with Secret.copy_of(released.key) as key:
        service = Service.parse(name)
        return found.decrypt(key, released.commitment, owner=owner_of(world, name), service=service)


def legacy(
    owner: bytes, *, spelling: str = "openrouter", epoch: int = 1, told: int | None = None, value=VALUE
) -> bytes:
    """What a writer of the old format left behind."""
    nonce = secrets.token_bytes(12)
    aad = f"agentkeys.cred.aad.v2|{owner.hex()}|{spelling}".encode()
    header = bytes([4, epoch if told is None else told])
    return header + nonce + AESGCM(bytes(legacy_key(K3[epoch], owner))).encrypt(nonce, value, aad)


def rows(world: World) -> list[AuditRow]:
    return [AuditRow.parse(row) for (row,) in world.database.reader().execute("SELECT row FROM rows ORDER BY id")]


def opened_at_first(world: World, released, envelope: bytes, name: str) -> bytes:
    key = world.keyring.object_key(
        1, CLASSES[name.partition(":")[0]][0], owner_of(world, name), Service.parse(name), released.salt
    )
    with Secret.copy_of(key.key) as secret:
        return Envelope.parse(envelope).decrypt(
            secret, key.commitment, owner=owner_of(world, name), service=Service.parse(name)
        )
