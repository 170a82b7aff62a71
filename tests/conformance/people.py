"""Users with devices of their own: they enrol at the target, and make caps that are right in all but what a case bends."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys.signer.v1 import registry_pb2
from agentkeys_core import ids
from agentkeys_core.captoken import cosign_message
from agentkeys_core.changes import (
    AddAgent,
    Change,
    ChangeSignatures,
    Enrol,
    Freeze,
    K11OfDevice,
    Pair,
    RevokeDevice,
    SetScope,
    SignedChange,
    SignedPair,
    Unfreeze,
)
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.hashes import sha256
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH, K11Assertion, cap_challenge
from agentkeys_core.keys import DeviceKey, es256_sign
from agentkeys_core.ops import OPS, Effect, K11Rule, Op
from agentkeys_core.proof import k10_digest
from tests.conformance.site import BROKER, Site
from tests.unit.core.material import SoftwareK11

WINDOW_S: Final = 300
EMPTY: Final = b"{}"
_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCap:
    """A cap, the request inside it, its digest, and what opens the answer that is sealed to it."""

    data: bytes
    raw: bytes
    digest: bytes
    body: bytes
    reply: X25519PrivateKey


@dataclass(slots=True, kw_only=True)
class Device:
    """A K10 that acts for one actor of one operator; the K11 is that of the operator's master."""

    site: Site
    k10: DeviceKey
    k11: SoftwareK11
    operator: bytes
    actor: bytes
    is_master: bool

    def members(self, op: Op, service: str, body: bytes, reply: X25519PrivateKey) -> dict[str, Any]:
        """The members of a request that is right."""
        now = self.site.now
        return {
            "actor_omni": self.actor.hex(),
            "aud": self.site.registry_id,
            "device": self.k10.key_hash.hex(),
            "expires_at": now + WINDOW_S,
            "issued_at": now,
            "k3_epoch": self.site.epoch,
            "nonce": b64u_encode(secrets.token_bytes(16)),
            "op": str(op),
            "operator_omni": self.operator.hex(),
            "reply_key": b64u_encode(reply.public_key().public_bytes_raw()),
            "request_hash": b64u_encode(sha256(body)),
            "service": service,
            "ver": 2,
        }

    def cap(
        self,
        op: Op,
        service: str,
        *,
        body: bytes | None = None,
        touch: bool | None = None,
        k11: K11Assertion | None = None,
        request: Mapping[str, Any] | None = None,
        rewrite: Callable[[bytes], bytes] = lambda raw: raw,
        signed_by: DeviceKey | None = None,
        public_key: bytes | None = None,
        signature: Callable[[bytes], bytes] = lambda signature: signature,
        k1: ec.EllipticCurvePrivateKey | None = None,
        kid: str | None = None,
        cap: Mapping[str, Any] | None = None,
    ) -> MadeCap:
        """A cap for `op` on `service`.

        Args:
            op: The operation.
            service: What it is for.
            body: What the request commits to; by default `{}`, for stores random bytes.
            touch: Whether K11 approves; by default where policy always asks for it.
            k11: An assertion to carry instead.
            request: Members of the request to replace; a value of None takes the name out.
            rewrite: Changes the request's bytes before they are signed.
            signed_by: Whose K10 signs, instead of the device's own.
            public_key: What the cap says of the signer.
            signature: Changes the device signature.
            k1: Who co-signs, instead of the broker.
            kid: The co-signer's name, instead of the broker's.
            cap: Members of the cap to replace, after the co-signature.
        """
        rule = OPS[op]
        if body is None:
            body = secrets.token_bytes(24) if rule.effect is Effect.WRITE else EMPTY
        reply = X25519PrivateKey.generate()
        members = {**self.members(op, service, body, reply), **(request or {})}
        raw = rewrite(canonical_json({name: value for name, value in members.items() if value is not None}))
        digest = sha256(raw)
        if touch is None:
            touch = rule.k11 is K11Rule.ALWAYS or (rule.k11 is K11Rule.MASTERS and self.is_master)
        if k11 is None and touch:
            k11 = self.k11.answer(cap_challenge(digest))
        signer = signed_by or self.k10
        public = signer.public_key if public_key is None else public_key
        signed = signature(signer.sign(k10_digest("cap", raw)))
        cosigned = es256_sign(k1 or self.site.k1, cosign_message(digest, public, signed, k11))
        whole = {
            "cosign": b64u_encode(cosigned),
            "device_public_key": b64u_encode(public),
            "device_signature": b64u_encode(signed),
            "k11": None if k11 is None else k11.encode(),
            "kid": kid or self.site.kid,
            "request": b64u_encode(raw),
            **(cap or {}),
        }
        return MadeCap(data=canonical_json(whole), raw=raw, digest=digest, body=body, reply=reply)


class Master(Device):
    """A user's first master device, with wallet and K11. Its methods sign changes that are right unless bent."""

    def __init__(self, site: Site) -> None:
        self.wallet = DeviceKey.generate()
        operator = ids.operator_omni(self.wallet.address)
        k11 = SoftwareK11(b"conformance-%d-" % next(_numbers) + secrets.token_bytes(8))
        super().__init__(
            site=site, k10=DeviceKey.generate(), k11=k11, operator=operator, actor=operator, is_master=True
        )
        self.nonce = 0

    def header(self, **bent: Any) -> dict[str, Any]:
        """Incarnation, nonce and deadline of this user's next change."""
        return {
            "incarnation": self.site.status.incarnation,
            "nonce": self.nonce,
            "deadline": self.site.now + 600,
            **bent,
        }

    def signed(self, change: Change, *, k10: DeviceKey | None = None, touch: bool = True, **rest: Any) -> SignedChange:
        """The change with this master's K10 and K11."""
        digest = change.digest(self.site.domain)
        entries = (K11OfDevice(device=self.k10.key_hash, assertion=self.k11.answer(digest)),) if touch else ()
        signatures = {"k10": (k10 or self.k10).sign_recoverable(digest), "k11": entries, **rest}
        return SignedChange(change=change, signatures=ChangeSignatures(**signatures))

    def enrolment(self, *, signer: DeviceKey | None = None, origin: str = K11_ORIGIN, **bent: Any) -> SignedChange:
        """The first bind of this user."""
        self.k11 = self.k11 if origin == self.k11.origin else SoftwareK11(self.k11.credential_id, origin)
        public = self.k11.public
        members: dict[str, Any] = {
            "identity_omni": self.operator,
            "operator_omni": self.operator,
            "wallet": self.wallet.address,
            "wallet_epoch": 0,
            "device": self.k10.address,
            "k11_cred_id": public.credential_id_hash,
            "k11_x": int.from_bytes(public.x, "big"),
            "k11_y": int.from_bytes(public.y, "big"),
            "k11_rp_id_hash": RP_ID_HASH,
            "k11_origin_hash": public.origin_hash,
            "roles": 7,
            **self.header(nonce=0),
            **bent,
        }
        change = Enrol(**members)
        return self.signed(change, wallet=(signer or self.wallet).sign_recoverable(change.digest(self.site.domain)))

    def set_scope(
        self, actor: bytes, *, grant: Sequence[str] = (), revoke: Sequence[str] = (), **bent: Any
    ) -> SetScope:
        """A change of an agent's scope."""
        return SetScope(
            operator_omni=self.operator,
            actor_omni=actor,
            grant=tuple(grant),
            revoke=tuple(revoke),
            **self.header(**bent),
        )

    def revocation(self, key_hash: bytes, **bent: Any) -> RevokeDevice:
        """The end of a device."""
        return RevokeDevice(operator_omni=self.operator, device_key_hash=key_hash, **self.header(**bent))

    def freezing(self, **bent: Any) -> SignedChange:
        """A freeze, which K10 alone signs."""
        members = {"incarnation": self.site.status.incarnation, "freeze_nonce": 0, **bent}
        return self.signed(Freeze(operator_omni=self.operator, **members), touch=False)

    def unfreezing(self, **bent: Any) -> Unfreeze:
        """The end of a freeze."""
        return Unfreeze(operator_omni=self.operator, **self.header(**bent))

    def pair(self, agent: DeviceKey, **bent: Any) -> SignedPair:
        """The agent's own word that it joins."""
        members = {
            "operator_omni": self.operator,
            "device": agent.address,
            "k11_cred_id": bytes(32),
            "profile_hash": bytes(32),
            "expires_at": self.site.now + 600,
            **bent,
        }
        message = Pair(**members)
        return SignedPair(message=message, signature=agent.sign_recoverable(message.digest(self.site.domain)))

    def adding(
        self,
        agent: DeviceKey,
        services: Sequence[str] = (),
        *,
        label: str = "agent",
        pair: SignedPair | None = None,
        **bent: Any,
    ) -> SignedChange:
        """An agent's device and its scope."""
        change = AddAgent(
            operator_omni=self.operator,
            actor_omni=ids.child_omni(self.operator, label, 0),
            label=label,
            generation=0,
            device=agent.address,
            services=tuple(services),
            **self.header(**bent),
        )
        return self.signed(change, pair=pair or self.pair(agent))

    def apply(self, signed: SignedChange, *, client: str = BROKER) -> bytes:
        """Have the target apply a change; returns the signed row."""
        return apply(self.site, signed.encode(), client=client)

    def changed(self, change: Change) -> bytes:
        """Sign, apply and count on; returns the signed row."""
        row = self.apply(self.signed(change))
        self.nonce += 1
        return row

    def agent(self, *services: str, label: str = "agent") -> Device:
        """A registered agent device of this user."""
        key = DeviceKey.generate()
        self.apply(self.adding(key, services, label=label))
        self.nonce += 1
        actor = ids.child_omni(self.operator, label, 0)
        return Device(site=self.site, k10=key, k11=self.k11, operator=self.operator, actor=actor, is_master=False)


def apply(site: Site, change: bytes, *, client: str = BROKER) -> bytes:
    """Have the target apply these bytes; returns the signed row."""
    row: bytes = site.registry(client).ApplyChange(registry_pb2.ApplyChangeRequest(change=change)).row
    return row


def stranger(site: Site) -> Master:
    """A user whom the registry does not know."""
    return Master(site)


def master(site: Site) -> Master:
    """A user who has just enrolled."""
    made = Master(site)
    made.apply(made.enrolment())
    made.nonce = 1
    return made


def with_signatures(signed: SignedChange, **changed: Any) -> SignedChange:
    """The change with some of its signatures replaced."""
    return replace(signed, signatures=replace(signed.signatures, **changed))
