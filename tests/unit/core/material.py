"""What the tests of the formats share: a K11 key in software, rows and changes that are valid until a test bends them."""

import functools
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind, OpResult, row_hash
from agentkeys_core.changes import AddAgent, Enrol, Freeze, Pair, SetScope
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.hashes import hkdf_sha256, keccak256
from agentkeys_core.ids import child_omni, operator_omni
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH, K11Assertion, credential_id_hash, origin_hash
from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.registry import K11Public
from tests.unit.core.vectors import document


def k3(epoch: int) -> bytes:
    return bytes.fromhex(document()["held_epochs"][str(epoch)])


def object_key(epoch: int, object_class: int, owner: bytes, service: str, salt: bytes) -> tuple[bytes, bytes]:
    """Key and commitment as the signer derives them, written once more from wire.md."""
    info = b"agentkeys.object.v1" + bytes([object_class]) + owner + hashlib.sha256(service.encode()).digest() + salt
    both = hkdf_sha256(k3(epoch), salt=b"agentkeys.object-salt.v1", info=info, length=64)
    return both[:32], both[32:]


class SoftwareK11:
    """A P-256 key that answers WebAuthn challenges; every part of the answer can be bent."""

    def __init__(self, credential_id: bytes = b"credential-1", origin: str = K11_ORIGIN) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.credential_id = credential_id
        self.origin = origin
        numbers = self.private.public_key().public_numbers()
        self.public = K11Public(
            credential_id_hash=credential_id_hash(credential_id),
            x=numbers.x.to_bytes(32, "big"),
            y=numbers.y.to_bytes(32, "big"),
            rp_id_hash=RP_ID_HASH,
            origin_hash=origin_hash(origin),
        )

    def client_data(self, challenge: bytes, **changed: object) -> bytes:
        members: dict[str, object] = {
            "type": "webauthn.get",
            "challenge": b64u_encode(challenge),
            "origin": self.origin,
            "crossOrigin": False,
        }
        return json.dumps(members | changed).encode()

    def answer(
        self,
        challenge: bytes,
        *,
        client_data: bytes | None = None,
        rp_id_hash: bytes = RP_ID_HASH,
        flags: int = 0x05,
        count: int = 1,
        credential_id: bytes | None = None,
    ) -> K11Assertion:
        data = self.client_data(challenge) if client_data is None else client_data
        authenticator_data = rp_id_hash + bytes([flags]) + count.to_bytes(4, "big")
        signed = authenticator_data + hashlib.sha256(data).digest()
        return K11Assertion(
            authenticator_data=authenticator_data,
            client_data_json=data,
            credential_id=self.credential_id if credential_id is None else credential_id,
            signature=self.private.sign(signed, ec.ECDSA(hashes.SHA256())),
        )


class AuditKey:
    """An audit key of one epoch, with the public half that verifiers hold."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.private = ec.generate_private_key(ec.SECP256R1())
        numbers = self.private.public_key().public_numbers()
        self.public = ES256PublicKey.from_xy(numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))

    @property
    def keys(self) -> dict[str, ES256PublicKey]:
        return {self.public.kid: self.public}

    def row(
        self, envelope: AuditEnvelope, *, seq: int = 0, prev: bytes = bytes(32), actor: bytes | None = None
    ) -> AuditRow:
        owner = envelope.actor_omni if actor is None else actor
        encoded = envelope.encode()
        digest = row_hash(owner, prev, seq, keccak256(encoded))
        return AuditRow(
            actor=owner,
            envelope=encoded,
            epoch=self.epoch,
            kid=self.public.kid,
            prev=prev,
            row_hash=digest,
            seq=seq,
            sig=es256_sign(self.private, digest),
        )

    def chain(self, length: int) -> list[AuditRow]:
        rows: list[AuditRow] = []
        for seq in range(length):
            rows.append(
                self.row(envelope(ts_unix=1764000000 + seq), seq=seq, prev=rows[-1].row_hash if rows else bytes(32))
            )
        return rows


ACTOR = bytes(range(32))


def envelope(**changed: Any) -> AuditEnvelope:
    members: dict[str, Any] = {
        "ts_unix": 1764000000,
        "actor_omni": ACTOR,
        "operator_omni": bytes(32),
        "op_kind": OpKind.CRED_FETCH,
        "op_body": OpBody(cap=bytes(32), req=bytes(32), svc="cred:openrouter", epoch=1, salt=bytes(32)),
        "result": OpResult.SUCCESS,
    }
    return AuditEnvelope.compose(**(members | changed))


WALLET = bytes(range(20))
OPERATOR = operator_omni(WALLET)
DEVICE = bytes(range(20, 40))


@functools.cache
def k11() -> SoftwareK11:
    return SoftwareK11()


def enrol(**changed: Any) -> Enrol:
    public = k11().public
    members: dict[str, Any] = {
        "identity_omni": OPERATOR,
        "operator_omni": OPERATOR,
        "wallet": WALLET,
        "wallet_epoch": 0,
        "device": DEVICE,
        "k11_cred_id": public.credential_id_hash,
        "k11_x": int.from_bytes(public.x, "big"),
        "k11_y": int.from_bytes(public.y, "big"),
        "k11_rp_id_hash": public.rp_id_hash,
        "k11_origin_hash": public.origin_hash,
        "roles": 7,
        "incarnation": 1,
        "nonce": 0,
        "deadline": 1764000600,
    }
    return Enrol(**(members | changed))


def add_agent(**changed: Any) -> AddAgent:
    members: dict[str, Any] = {
        "operator_omni": OPERATOR,
        "actor_omni": child_omni(OPERATOR, "agent-a", 0),
        "label": "agent-a",
        "generation": 0,
        "device": DEVICE,
        "services": ("cred:openrouter", "memory:travel"),
        "incarnation": 1,
        "nonce": 1,
        "deadline": 1764000600,
    }
    return AddAgent(**(members | changed))


def set_scope(**changed: Any) -> SetScope:
    members: dict[str, Any] = {
        "operator_omni": OPERATOR,
        "actor_omni": child_omni(OPERATOR, "agent-a", 0),
        "grant": ("sign:permit2",),
        "revoke": ("cred:openrouter",),
        "incarnation": 1,
        "nonce": 2,
        "deadline": 1764000600,
    }
    return SetScope(**(members | changed))


def freeze() -> Freeze:
    return Freeze(operator_omni=OPERATOR, incarnation=1, freeze_nonce=0)


def pair() -> Pair:
    return Pair(
        operator_omni=OPERATOR, device=DEVICE, k11_cred_id=bytes(32), profile_hash=bytes(32), expires_at=1764000600
    )


def p256_public(scalar: bytes) -> ES256PublicKey:
    return ES256PublicKey.of(ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()).public_key())
