"""The order of checks of docs/spec/signer-protocol.md, from a cap's bytes to K11."""

import json
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from agentkeys_core.captoken import Cap, CapRequest
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import address_of, device_key_hash
from agentkeys_core.k11 import cap_challenge, credential_id_hash
from agentkeys_core.keys import ES256PublicKey, verify_secp256k1
from agentkeys_core.ops import Effect, ObjectClass, Op
from agentkeys_core.proof import k10_digest
from agentkeys_core.webauthn_check import verify_assertion
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.records import Device, Operator
from tests.conformance.backend.refused import refusal, refuse

SKEW_S: Final = 60
_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that passed every check before replay and version."""

    request: CapRequest
    operator: Operator
    device: Device
    k11: bool

    @property
    def owner(self) -> bytes:
        return owner_of(self.request)

    @property
    def ref(self) -> tuple[bytes, ObjectClass, str]:
        return ref_of(self.request)


def owner_of(request: CapRequest) -> bytes:
    """Whose data it is."""
    kind = request.rule.object_class
    return request.operator_omni if kind is ObjectClass.CREDENTIALS else request.actor_omni


def ref_of(request: CapRequest) -> tuple[bytes, ObjectClass, str]:
    """The object that a request names."""
    kind = request.rule.object_class
    assert kind is not None
    return owner_of(request), kind, request.service.text


class Buckets:
    """One token bucket a device."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._counted: set[bytes] = set()
        self._left: defaultdict[bytes, tuple[float, float]] = defaultdict(lambda: (burst, time.monotonic()))

    def charge(self, device: bytes, digest: bytes) -> None:
        """Count one request, once: whoever repeats it does not act for the device."""
        if digest in self._counted:
            return
        left, since = self._left[device]
        now = time.monotonic()
        left = min(self._burst, left + (now - since) * self._per_s)
        if left < 1:
            self._left[device] = (left, now)
            refuse(Reason.RATE_LIMITED)
        self._left[device] = (left - 1, now)
        self._counted.add(digest)


class Checks:
    """Whether a cap is what it must be."""

    def __init__(
        self,
        *,
        keys: Keys,
        operators: Operators,
        cosigners: Mapping[str, ES256PublicKey],
        buckets: Buckets,
        broken: Broken,
    ) -> None:
        self._keys = keys
        self._operators = operators
        self._cosigners = cosigners
        self._buckets = buckets
        self._broken = broken

    def parse(self, data: bytes, peer: Peer, effects: frozenset[Effect]) -> Cap:
        """A cap of the caller's class, for one of these effects."""
        cap = self._parse_loosely(data) if "accept-noncanonical" in self._broken else Cap.parse(data)
        rule = cap.request.rule
        wanted = peer.kind if rule.worker_class is not None else "the broker"
        if (peer.kind or "the broker") != (rule.worker_class or "the broker") or wanted is None:
            refuse(Reason.CLASS_MISMATCH)
        if rule.effect not in effects:
            refuse(Reason.INVALID_CAP)
        return cap

    def _parse_loosely(self, data: bytes) -> Cap:
        try:
            members = json.loads(data)
            raw = b64u_decode(members["request"])
            tidy = canonical_json({**members, "request": b64u_encode(canonical_json(json.loads(raw)))})
        except (ValueError, KeyError, TypeError, KeyServiceError):
            return Cap.parse(data)
        cap = Cap.parse(tidy)
        return replace(cap, request=replace(cap.request, raw=raw, digest=sha256(raw)))

    def admit(self, cap: Cap, *, replacing: bool, k11: bool = True) -> Asked:
        """Everything from the audience to K11.

        `replacing` where another store is current; `k11` whether a policy asks for it, for what policies decide.
        """
        request = cap.request
        self._context(request)
        self._cosigned(cap)
        if "charge-before-signature" in self._broken:
            self._buckets.charge(request.device, secrets.token_bytes(32))
        self._signed(cap)
        self._buckets.charge(request.device, request.digest)
        operator, device = self._registered(request)
        self._torn(request, operator)
        self._granted(request, operator, device)
        return Asked(
            request=request,
            operator=operator,
            device=device,
            k11=self._approved(cap, operator, device, replacing=replacing, asked=k11),
        )

    def _context(self, request: CapRequest) -> None:
        now, current = time.time(), self._keys.current
        told = {"server_time": int(now), "current_epoch": current}
        if "wrong-order" in self._broken and request.k3_epoch > current:
            refuse(Reason.FUTURE_EPOCH, **told)
        if request.aud != self._operators.registry_id:
            refuse(Reason.WRONG_AUDIENCE)
        if now < request.issued_at - SKEW_S:
            refuse(Reason.CAP_NOT_YET_VALID, **told)
        if now >= request.expires_at + SKEW_S and "accept-expired" not in self._broken:
            refuse(Reason.CAP_EXPIRED, **told)
        if "accept-any-epoch" not in self._broken and request.k3_epoch != current:
            refuse(Reason.STALE_EPOCH if request.k3_epoch < current else Reason.FUTURE_EPOCH, **told)

    def _cosigned(self, cap: Cap) -> None:
        key = self._cosigners.get(cap.kid)
        good = key is not None and key.verify(cap.cosign_message(), cap.cosign)
        if not good and "skip-cosignature" not in self._broken:
            refuse(Reason.BROKER_SIGNATURE_INVALID)

    def _signed(self, cap: Cap) -> None:
        if "skip-device-signature" in self._broken:
            return
        signature = low_s(cap.device_signature) if "high-s" in self._broken else cap.device_signature
        if not verify_secp256k1(cap.device_public_key, k10_digest("cap", cap.request.raw), signature):
            refuse(Reason.DEVICE_SIGNATURE_INVALID)
        if device_key_hash(address_of(cap.device_public_key)) != cap.request.device:
            refuse(Reason.DEVICE_SIGNATURE_INVALID)

    def _registered(self, request: CapRequest) -> tuple[Operator, Device]:
        operator = self._operators.of_device(request.device)
        if operator is None:
            refuse(Reason.DEVICE_UNKNOWN)
        device = operator.devices[request.device]
        if device.revoked and "revoked-device-allowed" not in self._broken:
            refuse(Reason.DEVICE_REVOKED)
        if (request.operator_omni, request.actor_omni) != (operator.omni, device.actor):
            refuse(Reason.ACTOR_BINDING_MISMATCH)
        for_masters = request.rule.master_only or request.service.text == "audit:tree"
        if not device.roles & 1 or (for_masters and not device.is_master):
            refuse(Reason.DEVICE_ROLE_MISSING)
        if operator.frozen and "freeze-ignored" not in self._broken:
            refuse(Reason.OPERATOR_FROZEN)
        return operator, device

    def _torn(self, request: CapRequest, operator: Operator) -> None:
        kind = request.rule.object_class
        if kind is not None and operator.torn.get(owner_of(request), 0) & kind:
            refuse(Reason.POLICY_REFUSED)

    def _granted(self, request: CapRequest, operator: Operator, device: Device) -> None:
        service = request.service.text
        free = device.is_master or service in {"cred:list", "memory:list", "audit:own"}
        if not free and service not in operator.scopes.get(device.actor, set()) and "scope-ignored" not in self._broken:
            refuse(Reason.SERVICE_NOT_IN_SCOPE)

    def _approved(self, cap: Cap, operator: Operator, device: Device, *, replacing: bool, asked: bool) -> bool:
        op = cap.request.op
        needed = (
            op is Op.CRED_DELETE
            or (op is Op.TYPED_DATA_SIGN and asked)
            or (op is Op.CRED_FETCH and device.is_master)
            or (op is Op.CRED_STORE and replacing)
        )
        if cap.k11 is None:
            if needed:
                refuse(Reason.K11_REQUIRED)
            return False
        if "any-k11" in self._broken:
            return True
        named = credential_id_hash(cap.k11.credential_id)
        for master in operator.masters():
            if master.k11 is not None and master.k11.credential_id_hash == named:
                verify_assertion(cap.k11, challenge=cap_challenge(cap.digest), public=master.k11)
                return True
        raise refusal(Reason.K11_INVALID)


def low_s(signature: bytes) -> bytes:
    """The same signature with the lower of its two s; what a careless verifier does before it looks."""
    s = int.from_bytes(signature[32:64], "big")
    return signature[:32] + min(s, _ORDER - s).to_bytes(32, "big") if 0 < s < _ORDER else signature
