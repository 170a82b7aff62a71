"""Every change to its rule."""

from dataclasses import replace
from types import MappingProxyType

from agentkeys_core import ids
from agentkeys_core.changes import (
    AddAgent,
    AddMaster,
    Change,
    Enrol,
    Freeze,
    RevokeDevice,
    RotateKey,
    SetRoles,
    SetScope,
    SetThreshold,
    Teardown,
    Unfreeze,
)
from agentkeys_core.registry import OperatorState
from signer.registry_effects import Claims, Effects, Taken, Terms
from signer.registry_proofs import Proofs
from signer.registry_rules.agents import add_agent, set_scope
from signer.registry_rules.enrolment import enrol
from signer.registry_rules.masters import add_master, revoke_device, set_roles, set_threshold
from signer.registry_rules.rotation import rotate_key
from signer.registry_rules.stopping import freeze, teardown, unfreeze
from signer.registry_rules.terms import refusal


def claims(change: Change) -> Claims:
    """The names that the registry must look up before it can decide."""
    match change:
        case Enrol():
            key_hash = ids.device_key_hash(change.device)
            return Claims(identity=change.identity_omni, device=key_hash, actor=change.operator_omni)
        case AddMaster():
            return Claims(device=ids.device_key_hash(change.device))
        case AddAgent():
            return Claims(device=ids.device_key_hash(change.device), actor=change.actor_omni)
        case RotateKey():
            return Claims(device=ids.device_key_hash(change.new_device))
        case SetScope() | Teardown():
            return Claims(actor=change.actor_omni)
        case _:
            return Claims()


def decide(change: Change, proofs: Proofs, *, state: OperatorState | None, taken: Taken, terms: Terms) -> Effects:
    """What an authorised change does.

    Args:
        change: of a shape that `check_shape` let pass.
        proofs: what its signatures prove.
        state: the operator that it names, as it is in the transaction that will write the effects; None if unknown.
        taken: which of its `claims` are held already, and what was attested for a first bind.
        terms: incarnation, time and switches of this registry.

    Raises:
        KeyServiceError: `change_not_authorised`; `operator_frozen`; `already_bound`; `invalid_evidence` of a first bind
            that nobody attested; of changes to a device also `device_unknown`, `device_revoked`.
    """
    if isinstance(change, Enrol):
        return enrol(change, proofs, state=state, taken=taken, terms=terms)
    if state is None or taken.annulled:
        raise refusal("the operator is not registered")
    effects = _of_operator(change, proofs, state, taken, terms)
    return replace(effects, sign_counts=MappingProxyType({k11.device_key_hash: k11.sign_count for k11 in proofs.k11}))


def _of_operator(  # noqa: C901, PLR0911 - one case a change
    change: Change, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms
) -> Effects:
    match change:
        case AddMaster():
            return add_master(change, proofs, state, taken, terms)
        case AddAgent():
            return add_agent(change, proofs, state, taken, terms)
        case SetScope():
            return set_scope(change, proofs, state, taken, terms)
        case RevokeDevice():
            return revoke_device(change, proofs, state, terms)
        case SetRoles():
            return set_roles(change, proofs, state, terms)
        case SetThreshold():
            return set_threshold(change, proofs, state, terms)
        case RotateKey():
            return rotate_key(change, proofs, state, taken, terms)
        case Freeze():
            return freeze(change, proofs, state, terms)
        case Unfreeze():
            return unfreeze(change, proofs, state, terms)
        case Teardown():
            return teardown(change, proofs, state, taken, terms)
        case _:
            raise refusal(f"{change.type} is no change of this registry")
