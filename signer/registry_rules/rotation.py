"""A master's new K10: at once by the old key, after a delay without it. K11 stays."""

from dataclasses import replace
from typing import Final

from agentkeys_core import ids
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import RotateKey
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import DeviceRecord, OperatorState, PendingRotation
from signer.registry_effects import Effects, Taken, Terms, following
from signer.registry_proofs import Proofs
from signer.registry_rules.approval import check_header, check_k11_masters
from signer.registry_rules.masters import target_of
from signer.registry_rules.terms import refusal

#: How long whoever holds another master, or the old key, has to freeze what they did not ask for.
ROTATION_DELAY_S: Final = 72 * 3600


def rotate_key(change: RotateKey, proofs: Proofs, state: OperatorState, taken: Taken, terms: Terms) -> Effects:
    """K11 of that very master and the new key sign; K10 is the old key, or the new one again where the old is lost.

    A later request takes the place of one that waits, and waits as long itself. None is taken while frozen: no freeze
    could cancel it.
    """
    check_header(change, state, terms)
    old = target_of(state, change.old_device_key_hash)
    if not old.is_master:
        raise refusal("an agent's key is replaced by pairing anew")
    if proofs.new_device != change.new_device:
        raise refusal("the new key has not signed")
    check_k11_masters(proofs, state)
    if old.device_key_hash not in {k11.device_key_hash for k11 in proofs.k11}:
        raise refusal("K11 of that master has not signed")
    if state.frozen:
        raise KeyServiceError(Reason.OPERATOR_FROZEN)
    if taken.device or taken.reserved_for not in {None, old.device_key_hash}:
        raise KeyServiceError(Reason.ALREADY_BOUND, "the new key is registered already")
    effects = following(state, OpKind.K10_ROTATE)
    waiting = state.rotations.keys() & {old.device_key_hash}
    if proofs.k10 == old.device_key_hash:
        return _replacing(replace(effects, cancelled=waiting), old, change.new_device, terms.now)
    if proofs.k10 != ids.device_key_hash(change.new_device):
        raise refusal("neither the old nor the new key stands as K10")
    pending = PendingRotation(
        device=old.device_key_hash, new_address=change.new_device, due_at=terms.now + ROTATION_DELAY_S
    )
    return replace(effects, cancelled=waiting, rotation=pending)


def due_rotation(rotation: PendingRotation, state: OperatorState, *, now: int) -> Effects:
    """What a rotation does when its time has come. It uses no nonce: nobody signs it now."""
    effects = replace(following(state, OpKind.K10_ROTATE), nonce=state.nonce, cancelled=frozenset({rotation.device}))
    return _replacing(effects, state.devices[rotation.device], rotation.new_address, now)


def _replacing(effects: Effects, old: DeviceRecord, address: bytes, now: int) -> Effects:
    """The old key is revoked; the new one stands in its place with all else that the device had."""
    new = replace(old, device_key_hash=ids.device_key_hash(address), address=address, registered_at=now)
    return replace(effects, revoked=frozenset({old.device_key_hash}), added=new, actor=old.actor_omni)
