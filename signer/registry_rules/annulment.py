"""The host's way back from a first bind by e-mail that the wrong person made: possible while nothing was released."""

from dataclasses import replace

from agentkeys_core.audit import OpKind
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import Evidence
from agentkeys_core.registry import OperatorState
from signer.registry_effects import Effects, following


def annul(state: OperatorState | None, *, annulled: bool, released: bool) -> Effects:
    """Revoke every device of the operator; its identity may bind again.

    Args:
        state: the operator, None if unknown.
        annulled: whether that was done before.
        released: whether anything was ever released to a device of this operator.

    Raises:
        KeyServiceError: not_found; already_bound for a bind that rests on more than the broker's word, or has released
            something.
    """
    if state is None or annulled:
        raise KeyServiceError(Reason.NOT_FOUND, "no such bind")
    if not any(device.evidence is Evidence.EMAIL for device in state.devices.values()):
        raise KeyServiceError(Reason.ALREADY_BOUND, "only a bind by e-mail can be annulled")
    if released:
        raise KeyServiceError(Reason.ALREADY_BOUND, "something was released to this operator")
    return replace(
        following(state, OpKind.DEVICE_REVOKE),
        threshold=1,
        revoked=frozenset(key_hash for key_hash, device in state.devices.items() if not device.revoked),
        cancelled=frozenset(state.rotations),
        annulled=True,
    )
