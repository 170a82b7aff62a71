"""Who sent a request, as the process can tell at once: by a signature of a device that it has seen registered.

Whoever names a key that was never seen here makes us neither verify nor ask. What was seen may be old: it decides
nothing but who is looked at further. A verified device is held against the cached state, which is read anew where its
operator has changed since: once a change, whoever asks.
"""

from collections.abc import Callable
from typing import Final

from agentkeys_core.authorisation import check_context
from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.changes import Change, Freeze, OrderedChange, RotateKey
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.keys import recover_address
from agentkeys_core.registry import DeviceRecord, OperatorState
from agentkeys_core.signed_change import SignedChange
from agentkeys_core.webauthn_check import verify_assertion
from agentkeys_runtime.web.endpoints import Known
from agentkeys_runtime.web.registry_source import PinnedRegistry, RegistrySource

#: A read of something registered: from the cache, or the one that fills it again.
_READ: Final = Known()


def registered_device(registry: RegistrySource, key_hash: bytes, verify: Callable[[], object]) -> DeviceRecord | None:
    """The unrevoked device of that key hash, once `verify` has not raised; None for anybody else's.

    Raises:
        KeyServiceError: as `verify`, and as the registry's reads.
    """
    if _unrevoked(registry.seen_device(key_hash), key_hash) is None:
        return None
    verify()
    return _unrevoked(registry.lookup_device(key_hash), key_hash)


def known_by_cap(cap: UncosignedCap, registry: RegistrySource, *, aud: str, now: float) -> Known | None:
    """Who signed this cap, if it is for this registry and time; whether it may do what it asks is not looked at.

    Raises:
        KeyServiceError: as `check_context`, `verify_device_signature`, and the registry's reads.
    """
    request = cap.request

    def verify() -> None:
        check_context(request, aud=aud, now=now, current_epoch=request.k3_epoch)  # a stale epoch is worth its answer
        verify_device_signature(cap)

    if registered_device(registry, request.device, verify) is None:
        return None
    return Known(who=f"device:{request.device.hex()}", act=f"cap:{cap.digest.hex()}")


def known_by_name(find: Callable[[bytes], OperatorState | None], name: str) -> Known | None:
    """A read of an operator or a device (64 hex digits) that `find` has seen registered."""
    return None if find(hex_decode(name, length=32)) is None else _READ


def known_by_change(body: bytes, registry: PinnedRegistry, *, now: float) -> Known | None:
    """The master whose K10 signed this change, if it is the next one of its operator; old ones are nobody's.

    A key rotation that is asked for without the old key is known by the K11 of the master whose key it replaces, and
    has a bucket apart: whoever has that old key cannot drain it.

    Raises:
        KeyServiceError: `invalid_change`, `unknown_fields`, `too_large`; for a bad K11 assertion its own reasons.
    """
    signed = SignedChange.parse(body)
    seen = registry.seen_operator(signed.change.operator_omni)
    if seen is None:
        return None
    digest = signed.digest(registry.domain)
    signer = recover_address(digest, signed.signatures.k10)
    if signer is None:
        return None
    key_hash, by = device_key_hash(signer), "device"
    change = signed.change
    if isinstance(change, RotateKey) and signer == change.new_device:
        key_hash, by = change.old_device_key_hash, "k11"
    master = _master(seen, key_hash)
    if master is None:
        return None
    if by == "k11":
        _verify_k11(signed, digest, master)
    state = _current(registry, seen)
    if _master(state, key_hash) is None or not _is_next(change, state, now):
        return None
    return Known(who=f"{by}:{key_hash.hex()}", act=f"change:{digest.hex()}")


def _current(registry: RegistrySource, seen: OperatorState) -> OperatorState:
    """The state as it is now; as it was last seen where the registry does not answer: a freeze must pass then too."""
    try:
        return registry.operator(seen.operator_omni) or seen
    except KeyServiceError:
        return seen


def _is_next(change: Change, state: OperatorState, now: float) -> bool:
    """Whether the registry could still take it; a freeze has no deadline, and its own nonce."""
    if isinstance(change, Freeze):
        return (change.incarnation, change.freeze_nonce) == (state.incarnation, state.freeze_nonce)
    return (
        isinstance(change, OrderedChange)
        and (change.incarnation, change.nonce) == (state.incarnation, state.nonce)
        and now < change.deadline
    )


def _verify_k11(signed: SignedChange, digest: bytes, master: DeviceRecord) -> None:
    for entry in signed.signatures.k11:
        if entry.device == master.device_key_hash and master.k11 is not None:
            verify_assertion(entry.assertion, challenge=digest, public=master.k11)
            return
    raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "K11 of that master has not signed")


def _master(state: OperatorState, key_hash: bytes) -> DeviceRecord | None:
    device = _unrevoked(state, key_hash)
    return device if device is not None and device.is_master else None


def _unrevoked(state: OperatorState | None, key_hash: bytes) -> DeviceRecord | None:
    device = None if state is None else state.devices.get(key_hash)
    return None if device is None or device.revoked else device
