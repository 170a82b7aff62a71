"""Who stands behind a change: one master with K10 and K11, or as many K11 keys as the recovery threshold asks."""

from collections.abc import Iterable
from typing import Final

from agentkeys_core.changes import OrderedChange
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, OperatorState, Role
from signer.registry_effects import Terms
from signer.registry_proofs import Proofs
from signer.registry_rules.terms import check_deadline, check_incarnation, refusal

NO_ROLE: Final = Role(0)


def check_header(change: OrderedChange, state: OperatorState, terms: Terms) -> None:
    """Refuse a change that is meant for another moment of this operator."""
    check_incarnation(change.incarnation, terms)
    check_deadline(change.deadline, terms.now)
    if change.nonce != state.nonce:
        raise refusal("wrong nonce")


def check_approval(change: OrderedChange, proofs: Proofs, state: OperatorState, terms: Terms, role: Role) -> None:
    """The change is meant for this moment, and K10 and K11 of one master with `role` stand behind it."""
    check_header(change, state, terms)
    device = master(state, proofs.k10, role)
    check_k11_masters(proofs, state)
    if device.device_key_hash not in {k11.device_key_hash for k11 in proofs.k11}:
        raise refusal("K11 of that master has not signed")


def check_quorum(
    change: OrderedChange,
    proofs: Proofs,
    state: OperatorState,
    terms: Terms,
    *,
    without: bytes | None = None,
    newcomer: bytes | None = None,
) -> DeviceRecord:
    """Return the master whose K10 signed, once enough masters stand behind the change.

    Enough are K11 assertions under `threshold` distinct keys, each of a master with RECOVERY. Neither they nor K10 may
    be of the device `without`, which the change is directed against; an assertion of `newcomer` counts for nothing.
    """
    check_header(change, state, terms)
    signer = master(state, proofs.k10, Role.RECOVERY)
    if signer.device_key_hash == without:
        raise refusal("the master that is to go does not approve that")
    check_k11_masters(proofs, state, newcomer=newcomer)
    asserted = {k11.device_key_hash for k11 in proofs.k11} - {without, newcomer}
    behind = [device for key_hash, device in state.devices.items() if key_hash in asserted]
    if recovery_keys(behind) < state.threshold:
        raise refusal(f"K11 of {state.threshold} masters with RECOVERY must sign")
    return signer


def master(state: OperatorState, key_hash: bytes, role: Role) -> DeviceRecord:
    """The unrevoked master of this operator with that key and role."""
    device = state.devices.get(key_hash)
    if device is None or not device.is_master or device.revoked or not device.holds(role):
        raise refusal("K10 of a master of this operator that may do this has not signed")
    return device


def check_k11_masters(proofs: Proofs, state: OperatorState, *, newcomer: bytes | None = None) -> None:
    """Every K11 assertion is of an unrevoked master of this operator or of `newcomer`, also one that is not needed."""
    for k11 in proofs.k11:
        if k11.device_key_hash == newcomer:
            continue
        device = state.devices.get(k11.device_key_hash)
        if device is None or not device.is_master or device.revoked:
            raise refusal("a K11 assertion is of no master of this operator")


def recovery_keys(devices: Iterable[DeviceRecord]) -> int:
    """How many distinct K11 keys the unrevoked masters with RECOVERY among `devices` hold: one key counts once."""
    return len(
        {
            (device.k11.x, device.k11.y)
            for device in devices
            if device.k11 is not None and device.is_master and not device.revoked and device.holds(Role.RECOVERY)
        }
    )


def highest_threshold(devices: Iterable[DeviceRecord]) -> int:
    """One less than could sign, so that the loss of any one of them can still be answered; at least 1."""
    return max(1, recovery_keys(devices) - 1)


def check_one_with_all_roles(devices: Iterable[DeviceRecord]) -> None:
    """Refuse to leave an operator without a master that may do everything and can approve it."""
    if not any(
        device.is_master and not device.revoked and device.roles == ALL_ROLES and device.k11 is not None
        for device in devices
    ):
        raise refusal("one master with every role must remain")
