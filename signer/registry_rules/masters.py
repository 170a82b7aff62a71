"""Masters: let in, given roles, revoked, and how many of them a recovery takes."""

from collections.abc import Iterable
from dataclasses import replace

from agentkeys_core import ids
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import AddMaster, RevokeDevice, SetRoles, SetThreshold
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import DeviceRecord, OperatorState, Role, Tier
from signer.registry_effects import Effects, Taken, Terms, following
from signer.registry_proofs import Proofs
from signer.registry_rules.approval import (
    check_approval,
    check_one_with_all_roles,
    check_quorum,
    highest_threshold,
)
from signer.registry_rules.terms import check_origin, refusal


def add_master(change: AddMaster, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    """The masters approve; the new device proves both its keys over the same digest, and has signed the `Pair`."""
    key_hash = ids.device_key_hash(change.device)
    approver = check_quorum(change, proofs, state, terms, newcomer=key_hash)
    if proofs.pair != change.device:
        raise refusal("the new device has not signed the Pair")
    if proofs.new_device != change.device:
        raise refusal("K10 of the new device has not signed")
    if key_hash not in {k11.device_key_hash for k11 in proofs.k11}:
        raise refusal("K11 of the new device has not signed")
    check_origin(change, terms)
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    if taken.held:
        raise KeyServiceError(Reason.ALREADY_BOUND, "the device is registered already")
    if any(_same_k11(change, device) for device in state.devices.values()):
        raise KeyServiceError(Reason.ALREADY_BOUND, "that K11 key is another device's: it would count twice")
    device = DeviceRecord(
        device_key_hash=key_hash,
        operator_omni=state.operator_omni,
        actor_omni=state.operator_omni,
        address=change.device,
        tier=Tier.MASTER,
        roles=Role(change.roles),
        revoked=False,
        registered_at=terms.now,
        k11=change.k11,
        assurance=approver.assurance,
    )
    return replace(following(state, OpKind.DEVICE_ADD), added=device, actor=state.operator_omni)


def set_roles(change: SetRoles, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    """New roles of a master; what remains must be able to do everything, and to reach the threshold."""
    check_quorum(change, proofs, state, terms)
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    target = target_of(state, change.device_key_hash)
    if not target.is_master:
        raise refusal("an agent's roles never change")
    after = [*_others(state, target), replace(target, roles=Role(change.roles))]
    check_one_with_all_roles(after)
    _check_threshold(state.threshold, after)
    return replace(following(state, OpKind.ROLES_OR_THRESHOLD), roles={target.device_key_hash: Role(change.roles)})


def set_threshold(change: SetThreshold, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    """How many masters a recovery takes from now on."""
    check_quorum(change, proofs, state, terms)
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    _check_threshold(change.threshold, state.devices.values())
    return replace(following(state, OpKind.ROLES_OR_THRESHOLD), threshold=change.threshold)


def revoke_device(change: RevokeDevice, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    """The end of a device key; possible also while frozen. Of a master it takes as many others as the threshold says.

    Where too few remain for the threshold, it falls with the revocation: two changes would leave a stolen master a
    moment in which one K11 is enough.
    """
    target = state.devices.get(change.device_key_hash)
    if target is None or not target.is_master:
        check_approval(change, proofs, state, terms, Role.SCOPE_MGMT)
        gone = target_of(state, change.device_key_hash)
        return replace(following(state, OpKind.DEVICE_REVOKE), revoked=frozenset({gone.device_key_hash}))
    check_quorum(change, proofs, state, terms, without=target.device_key_hash)
    gone = target_of(state, change.device_key_hash)
    after = _others(state, gone)
    check_one_with_all_roles(after)
    return replace(
        following(state, OpKind.DEVICE_REVOKE),
        revoked=frozenset({gone.device_key_hash}),
        cancelled=state.rotations.keys() & {gone.device_key_hash},
        threshold=min(state.threshold, highest_threshold(after)),
    )


def target_of(state: OperatorState, key_hash: bytes) -> DeviceRecord:
    """The unrevoked device that a change names. Raises device_unknown, device_revoked."""
    target = state.devices.get(key_hash)
    if target is None:
        raise KeyServiceError(Reason.DEVICE_UNKNOWN, "the operator has no such device")
    if target.revoked:
        raise KeyServiceError(Reason.DEVICE_REVOKED, "the device is revoked already")
    return target


def _others(state: OperatorState, target: DeviceRecord) -> list[DeviceRecord]:
    return [device for device in state.devices.values() if device.device_key_hash != target.device_key_hash]


def _check_threshold(threshold: int, devices: Iterable[DeviceRecord]) -> None:
    if threshold > highest_threshold(devices):
        raise refusal("too few masters with RECOVERY for that threshold")


def _same_k11(change: AddMaster, device: DeviceRecord) -> bool:
    """Also of a revoked device: whoever lost it may have lost its K11 with it."""
    if device.k11 is None:
        return False
    new, known = change.k11, device.k11
    return (new.x, new.y) == (known.x, known.y) or new.credential_id_hash == known.credential_id_hash
