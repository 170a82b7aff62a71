"""Stopping everything for a while, and some of it for ever."""

from dataclasses import replace

from agentkeys_core.audit import OpKind
from agentkeys_core.changes import Freeze, Teardown, Unfreeze
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import ObjectClass
from agentkeys_core.registry import OperatorState
from signer.registry_effects import Effects, Taken, Terms, following
from signer.registry_proofs import Proofs
from signer.registry_rules.approval import NO_ROLE, check_approval, check_k11_masters, master
from signer.registry_rules.terms import check_incarnation, refusal


def freeze(change: Freeze, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    """K10 of any master alone: stopping everything must be possible with one lost hand. No deadline, its own nonce.

    Key rotations that wait are cancelled.
    """
    check_incarnation(change.incarnation, terms)
    if change.freeze_nonce != state.freeze_nonce:
        raise refusal("wrong freeze nonce")
    master(state, proofs.k10, NO_ROLE)
    check_k11_masters(proofs, state)
    return Effects(
        kind=OpKind.FREEZE,
        nonce=state.nonce,
        freeze_nonce=state.freeze_nonce,
        frozen=True,
        threshold=state.threshold,
        cancelled=frozenset(state.rotations),
    )


def unfreeze(change: Unfreeze, proofs: Proofs, state: OperatorState, terms: Terms) -> Effects:
    """K10 and K11 of any master end a freeze."""
    check_approval(change, proofs, state, terms, NO_ROLE)
    if not state.frozen:
        raise refusal("the operator is not frozen")
    return replace(following(state, OpKind.UNFREEZE), freeze_nonce=state.freeze_nonce + 1, frozen=False)


def teardown(change: Teardown, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    """K10 and K11 of any master; the keys of that owner's classes are refused for ever. There is no way back.

    Credentials belong to the operator (one vault a user), memory to each actor.
    """
    check_approval(change, proofs, state, terms, NO_ROLE)
    if taken.actor_owner != state.operator_omni:
        raise refusal("that actor is none of this operator")
    credentials = bool(change.classes & ObjectClass.CREDENTIALS)
    if credentials and change.actor_omni != state.operator_omni:
        raise refusal("an agent owns no credentials: they are the operator's")
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    kind = OpKind.CRED_TEARDOWN if credentials else OpKind.MEMORY_TEARDOWN
    return replace(following(state, kind), torn_down={change.actor_omni: change.classes})
