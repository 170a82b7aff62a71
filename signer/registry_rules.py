"""Who may change what in the registry (design §6): decided from values, without I/O."""

from dataclasses import replace
from types import MappingProxyType
from typing import Final

from agentkeys_core import ids
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import AddAgent, Change, Enrol, Freeze, RevokeDevice, SetScope, Unfreeze
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_ORIGIN, SOFTWARE_ORIGIN, origin_hash
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, OperatorState, Role, Tier
from signer.registry_effects import Claims, Effects, Enrolment, Taken, Terms
from signer.registry_proofs import Proofs

#: A deadline further ahead is refused: a signed change must not lie about for long.
DEADLINE_AHEAD_S: Final = 3600

SOFTWARE_ORIGIN_HASH: Final = origin_hash(SOFTWARE_ORIGIN)
_PAGE_ORIGIN_HASH: Final = origin_hash(K11_ORIGIN)
_NO_ROLE: Final = Role(0)


def _refuse(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, detail)


def claims(change: Change) -> Claims:
    """The names that the registry must look up before it can decide."""
    match change:
        case Enrol():
            key_hash = ids.device_key_hash(change.device)
            return Claims(identity=change.identity_omni, device=key_hash, actor=change.operator_omni)
        case AddAgent():
            return Claims(device=ids.device_key_hash(change.device), actor=change.actor_omni)
        case SetScope():
            return Claims(actor=change.actor_omni)
        case _:
            return Claims()


def decide(change: Change, proofs: Proofs, *, state: OperatorState | None, taken: Taken, terms: Terms) -> Effects:
    """What an authorised change does.

    Args:
        change: of a shape that `check_shape` let pass.
        proofs: what its signatures prove.
        state: the operator that it names, as it is in the transaction that will write the effects; None if unknown.
        taken: which of its `claims` are held already.
        terms: incarnation, time and switches of this registry.

    Raises:
        KeyServiceError: `change_not_authorised`; `operator_frozen`; `already_bound`; of a revocation also
            `device_unknown`, `device_revoked`, and `not_implemented` where the target is a master.
    """
    if isinstance(change, Enrol):
        return _enrol(change, proofs, state=state, taken=taken, terms=terms)
    if state is None:
        raise _refuse("the operator is not registered")
    effects = _of_operator(change, proofs, state, taken, terms)
    return replace(effects, sign_counts=MappingProxyType({k11.device_key_hash: k11.sign_count for k11 in proofs.k11}))


def _of_operator(change: Change, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    match change:
        case AddAgent():
            return _add_agent(change, proofs, state, taken, terms)
        case SetScope():
            return _set_scope(change, proofs, state, taken, terms)
        case RevokeDevice():
            return _revoke_device(change, proofs, state, terms)
        case Freeze():
            return _freeze(change, proofs, state, terms)
        case Unfreeze():
            return _unfreeze(change, proofs, state, terms)
        case _:
            raise KeyServiceError(Reason.NOT_IMPLEMENTED, change.type)


def _enrol(change: Enrol, proofs: Proofs, *, state: OperatorState | None, taken: Taken, terms: Terms) -> Effects:
    """First bind: K10 and K11 of the new device, and the user's own wallet, all over the same digest."""
    key_hash = ids.device_key_hash(change.device)
    _check_incarnation(change.incarnation, terms)
    _check_deadline(change.deadline, terms.now)
    if change.nonce != 0:
        raise _refuse("the nonce of a first bind is 0")
    if proofs.k10 != key_hash:
        raise _refuse("K10 of the new device has not signed")
    if [k11.device_key_hash for k11 in proofs.k11] != [key_hash]:
        raise _refuse("K11 of the new device, and only that, must sign")
    if proofs.wallet != change.wallet:
        raise _refuse("the initial wallet has not signed")
    if change.roles != ALL_ROLES:
        raise _refuse("the first master has every role")
    allowed = {_PAGE_ORIGIN_HASH, SOFTWARE_ORIGIN_HASH} if terms.allow_software_k11 else {_PAGE_ORIGIN_HASH}
    if change.k11_origin_hash not in allowed:
        raise _refuse("that K11 origin is not allowed")
    if state is not None or taken.identity or taken.device or taken.actor_owner is not None:
        raise KeyServiceError(Reason.ALREADY_BOUND, "identity, operator or device is registered already")
    device = DeviceRecord(
        device_key_hash=key_hash,
        operator_omni=change.operator_omni,
        actor_omni=change.operator_omni,
        address=change.device,
        tier=Tier.MASTER,
        roles=ALL_ROLES,
        revoked=False,
        registered_at=terms.now,
        k11=change.k11,
        sign_count=proofs.k11[0].sign_count,
    )
    enrolment = Enrolment(identity_omni=change.identity_omni, wallet=change.wallet, wallet_epoch=change.wallet_epoch)
    return Effects(
        kind=OpKind.DEVICE_ADD,
        nonce=1,
        freeze_nonce=0,
        frozen=False,
        enrolment=enrolment,
        added=device,
        actor=change.operator_omni,
    )


def _add_agent(change: AddAgent, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    """One gesture of a master covers the agent's device and its scope; the device itself has signed the `Pair`."""
    _check_approval(change, proofs, state, terms, Role.SCOPE_MGMT)
    if proofs.pair != change.device:
        raise _refuse("the agent's device has not signed the Pair")
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    key_hash = ids.device_key_hash(change.device)
    if taken.device or taken.actor_owner not in {None, state.operator_omni}:
        raise KeyServiceError(Reason.ALREADY_BOUND, "device or actor is registered already")
    device = DeviceRecord(
        device_key_hash=key_hash,
        operator_omni=state.operator_omni,
        actor_omni=change.actor_omni,
        address=change.device,
        tier=Tier.AGENT,
        roles=Role.CAP_MINT,
        revoked=False,
        registered_at=terms.now,
        label=change.label,
        generation=change.generation,
    )
    granted = frozenset(change.services)
    return replace(_next(state, OpKind.DEVICE_ADD), added=device, actor=change.actor_omni, granted=granted)


def _set_scope(change: SetScope, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    _check_approval(change, proofs, state, terms, Role.SCOPE_MGMT)
    if taken.actor_owner != state.operator_omni or change.actor_omni == state.operator_omni:
        raise _refuse("that actor is no agent of this operator")
    if state.frozen and change.grant:  # taking away stays possible, like revoking a device
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    kind = OpKind.SCOPE_GRANT if change.grant else OpKind.SCOPE_REVOKE
    return replace(
        _next(state, kind), actor=change.actor_omni, granted=frozenset(change.grant), withdrawn=frozenset(change.revoke)
    )


def _revoke_device(change: RevokeDevice, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    _check_approval(change, proofs, state, terms, Role.SCOPE_MGMT)
    target = state.devices.get(change.device_key_hash)
    if target is None:
        raise KeyServiceError(Reason.DEVICE_UNKNOWN, "the operator has no such device")
    if target.is_master:
        # Needs assertions of other masters, which no registry has while AddMaster is not implemented: one must remain.
        raise KeyServiceError(Reason.NOT_IMPLEMENTED, "revoking a master")
    if target.revoked:
        raise KeyServiceError(Reason.DEVICE_REVOKED, "the device is revoked already")
    return replace(_next(state, OpKind.DEVICE_REVOKE), revoked=target.device_key_hash)


def _freeze(change: Freeze, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    """K10 of any master alone: stopping everything must be possible with one lost hand. No deadline, its own nonce."""
    _check_incarnation(change.incarnation, terms)
    if change.freeze_nonce != state.freeze_nonce:
        raise _refuse("wrong freeze nonce")
    _master(state, proofs.k10, _NO_ROLE)
    _check_k11_masters(proofs, state)
    return Effects(kind=OpKind.FREEZE, nonce=state.nonce, freeze_nonce=state.freeze_nonce, frozen=True)


def _unfreeze(change: Unfreeze, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    _check_approval(change, proofs, state, terms, _NO_ROLE)
    if not state.frozen:
        raise _refuse("the operator is not frozen")
    return replace(_next(state, OpKind.UNFREEZE), freeze_nonce=state.freeze_nonce + 1, frozen=False)


def _next(state: OperatorState, kind: OpKind) -> Effects:
    """A change that uses up one nonce and, so far, does nothing else."""
    return Effects(kind=kind, nonce=state.nonce + 1, freeze_nonce=state.freeze_nonce, frozen=state.frozen)


def _check_approval(
    change: AddAgent | SetScope | RevokeDevice | Unfreeze,
    proofs: Proofs,
    state: OperatorState,
    terms: Terms,
    role: Role,
) -> None:
    """The change is meant for this moment, and K10 and K11 of one master with `role` stand behind it."""
    _check_incarnation(change.incarnation, terms)
    _check_deadline(change.deadline, terms.now)
    if change.nonce != state.nonce:
        raise _refuse("wrong nonce")
    master = _master(state, proofs.k10, role)
    _check_k11_masters(proofs, state)
    if master.device_key_hash not in {k11.device_key_hash for k11 in proofs.k11}:
        raise _refuse("K11 of that master has not signed")


def _check_incarnation(incarnation: int, terms: Terms) -> None:
    if incarnation != terms.incarnation:
        raise _refuse("wrong incarnation")


def _check_deadline(deadline: int, now: int) -> None:
    if deadline < now:
        raise _refuse("the deadline has passed")
    if deadline > now + DEADLINE_AHEAD_S:
        raise _refuse("the deadline is more than an hour ahead")


def _master(state: OperatorState, key_hash: bytes, role: Role) -> DeviceRecord:
    """The unrevoked master of this operator with that key and role."""
    device = state.devices.get(key_hash)
    if device is None or not device.is_master or device.revoked or not device.holds(role):
        raise _refuse("K10 of a master of this operator that may do this has not signed")
    return device


def _check_k11_masters(proofs: Proofs, state: OperatorState) -> None:
    """Every K11 assertion is of an unrevoked master of this operator, also one that is not needed."""
    for k11 in proofs.k11:
        device = state.devices.get(k11.device_key_hash)
        if device is None or not device.is_master or device.revoked:
            raise _refuse("a K11 assertion is of no master of this operator")
