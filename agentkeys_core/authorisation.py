"""The checks of design §4 that need no secret and no clock, in its order; signer, workers and broker share them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentkeys_core.captoken import Cap, CapRequest, UncosignedCap
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import cap_challenge, credential_id_hash
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import AUDIT_OWN, AUDIT_TREE, Effect, k11_required, owner_of
from agentkeys_core.registry import DeviceRecord, OperatorState, Role
from agentkeys_core.webauthn_check import verify_assertion

CLOCK_SKEW_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorised:
    """Proof that a cap passed `authorise`: the device that asked, whose data it is (32 bytes), and K11's part."""

    device: DeviceRecord
    owner: bytes
    k11_verified: bool


def check_context(request: CapRequest, *, aud: str, now: float, current_epoch: int) -> None:
    """Pass a request made for this registry, at this time and epoch.

    Args:
        request: A well-formed request.
        aud: The registry's id.
        now: Unix seconds; 60 s of difference between clocks are forgiven.
        current_epoch: Of K3.

    Raises:
        KeyServiceError: `wrong_audience`, `cap_not_yet_valid` or `cap_expired`, `stale_epoch` or `future_epoch`; with
            `server_time` and `current_epoch` in the metadata.
    """
    reason = _context_fault(request, aud=aud, now=now, current_epoch=current_epoch)
    if reason is not None:
        told = {"server_time": str(int(now)), "current_epoch": str(current_epoch)}
        raise KeyServiceError(reason, "made for another registry, time or epoch", metadata=told)


def _context_fault(request: CapRequest, *, aud: str, now: float, current_epoch: int) -> Reason | None:
    if request.aud != aud:
        return Reason.WRONG_AUDIENCE
    if now < request.issued_at - CLOCK_SKEW_S:
        return Reason.CAP_NOT_YET_VALID
    if now >= request.expires_at + CLOCK_SKEW_S:
        return Reason.CAP_EXPIRED
    if request.k3_epoch < current_epoch:
        return Reason.STALE_EPOCH
    if request.k3_epoch > current_epoch:
        return Reason.FUTURE_EPOCH
    return None


def verify_cosign(cap: Cap, keys: Mapping[str, ES256PublicKey]) -> None:
    """Prove that a pinned broker key (by kid) co-signed exactly this cap; `broker_signature_invalid` otherwise."""
    key = keys.get(cap.kid)
    if key is None:
        raise KeyServiceError(Reason.BROKER_SIGNATURE_INVALID, "kid is not pinned here")
    if not key.verify(cap.cosign_message(), cap.cosign):
        raise KeyServiceError(Reason.BROKER_SIGNATURE_INVALID)


def authorise(
    cap: UncosignedCap, operator: OperatorState | None, *, replacing: bool, policy_asks: bool = True
) -> Authorised:
    """Return who may do what the cap asks, by what the registry says now. The device signature must be verified before.

    Args:
        cap: With or without the broker's co-signature, which is checked by `verify_cosign` alone.
        operator: State of the operator to whom the request's device belongs; None where no operator has it.
        replacing: Whether a store is current under that name, so that a store replaces it.
        policy_asks: Whether the signing policy wants K11 for what is signed; only the signer knows that policy.

    Raises:
        KeyServiceError: in this order `device_unknown`, `device_revoked`, `actor_binding_mismatch`,
            `device_role_missing`, `operator_frozen`, `policy_refused` for a class that was torn down,
            `service_not_in_scope`, `k11_required` or `k11_invalid`.
    """
    request = cap.request
    device = None if operator is None else operator.devices.get(request.device)
    if operator is None or device is None:
        raise KeyServiceError(Reason.DEVICE_UNKNOWN)
    if device.revoked:
        raise KeyServiceError(Reason.DEVICE_REVOKED)
    _check_binding(request, device, operator)
    if operator.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    owner = owner_of(request.rule, request.operator_omni, request.actor_omni)
    object_class = request.rule.object_class
    if object_class is not None and operator.is_torn_down(owner, object_class):
        raise KeyServiceError(Reason.POLICY_REFUSED, "torn down")
    if _needs_grant(request, device) and not operator.grants(request.actor_omni, request.service.text):
        raise KeyServiceError(Reason.SERVICE_NOT_IN_SCOPE)
    return Authorised(
        device=device,
        owner=owner,
        k11_verified=_check_k11(cap, operator, device, replacing=replacing, policy_asks=policy_asks),
    )


def _check_binding(request: CapRequest, device: DeviceRecord, operator: OperatorState) -> None:
    """Pass a device that acts for itself, in a role that it has."""
    if not request.operator_omni == device.operator_omni == operator.operator_omni:
        raise KeyServiceError(Reason.ACTOR_BINDING_MISMATCH, "operator")
    if request.actor_omni != device.actor_omni:
        raise KeyServiceError(Reason.ACTOR_BINDING_MISMATCH, "actor")
    if not device.holds(Role.CAP_MINT):
        raise KeyServiceError(Reason.DEVICE_ROLE_MISSING, "CAP_MINT")
    if (request.rule.master_only or request.service.text == AUDIT_TREE) and not _is_master(device):
        raise KeyServiceError(Reason.DEVICE_ROLE_MISSING, "for masters only")


def _is_master(device: DeviceRecord) -> bool:
    return device.is_master and device.actor_omni == device.operator_omni


def _needs_grant(request: CapRequest, device: DeviceRecord) -> bool:
    """Tell whether a scope must name the service: not for masters, for lists (filtered) and for one's own audit."""
    listed = request.rule.effect is Effect.LIST or request.service.text == AUDIT_OWN
    return not (listed or _is_master(device))


def _check_k11(
    cap: UncosignedCap, operator: OperatorState, device: DeviceRecord, *, replacing: bool, policy_asks: bool
) -> bool:
    """Return whether a K11 assertion stands behind the cap, once policy is content. One that came is always checked."""
    if cap.k11 is None:
        if k11_required(cap.request.rule, tier=device.tier, replacing=replacing, policy_asks=policy_asks):
            raise KeyServiceError(Reason.K11_REQUIRED)
        return False
    wanted = credential_id_hash(cap.k11.credential_id)
    for master in operator.masters():
        if master.k11 is not None and master.k11.credential_id_hash == wanted:
            verify_assertion(cap.k11, challenge=cap_challenge(cap.digest), public=master.k11)
            return True
    raise KeyServiceError(Reason.K11_INVALID, "not the K11 of a master of this operator")
