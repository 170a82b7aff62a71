"""Agents: their devices, and what they may use."""

from dataclasses import replace

from agentkeys_core import ids
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import AddAgent, SetScope
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import DeviceRecord, OperatorState, Role, Tier
from signer.registry_effects import Effects, Taken, Terms, following
from signer.registry_proofs import Proofs
from signer.registry_rules.approval import check_approval, master
from signer.registry_rules.terms import refusal


def add_agent(change: AddAgent, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    """One gesture of a master covers the agent's device and its scope; the device itself has signed the `Pair`."""
    check_approval(change, proofs, state, terms, Role.SCOPE_MGMT)
    if proofs.pair != change.device:
        raise refusal("the agent's device has not signed the Pair")
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    if taken.held or taken.actor_owner not in {None, state.operator_omni}:
        raise KeyServiceError(Reason.ALREADY_BOUND, "device or actor is registered already")
    device = DeviceRecord(
        device_key_hash=ids.device_key_hash(change.device),
        operator_omni=state.operator_omni,
        actor_omni=change.actor_omni,
        address=change.device,
        tier=Tier.AGENT,
        roles=Role.CAP_MINT,
        revoked=False,
        registered_at=terms.now,
        label=change.label,
        generation=change.generation,
        assurance=master(state, proofs.k10, Role.SCOPE_MGMT).assurance,
    )
    granted = frozenset(change.services)
    return replace(following(state, OpKind.DEVICE_ADD), added=device, actor=change.actor_omni, granted=granted)


def set_scope(change: SetScope, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    """Grant services to an agent, or take them away."""
    check_approval(change, proofs, state, terms, Role.SCOPE_MGMT)
    if taken.actor_owner != state.operator_omni or change.actor_omni == state.operator_omni:
        raise refusal("that actor is no agent of this operator")
    if state.frozen and change.grant:  # taking away stays possible, like revoking a device
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    kind = OpKind.SCOPE_GRANT if change.grant else OpKind.SCOPE_REVOKE
    return replace(
        following(state, kind),
        actor=change.actor_omni,
        granted=frozenset(change.grant),
        withdrawn=frozenset(change.revoke),
    )
