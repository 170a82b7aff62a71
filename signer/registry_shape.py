"""Whether a signed change makes sense in itself, before any signature or state is looked at (design §6, wire.md)."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from agentkeys_core.changes import (
    AddAgent,
    AddMaster,
    Change,
    Enrol,
    RotateKey,
    SetScope,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.pairing import NO_K11
from agentkeys_core.signed_change import ChangeSignatures, SignedChange

#: Far above what people have; each assertion costs the signer a verification before anything is known of the sender.
MAX_K11_ASSERTIONS: Final = 16
MAX_SERVICES: Final = 256
#: How far ahead a `Pair` may expire: the file travels by hand to the master.
PAIR_AHEAD_S: Final = 7 * 24 * 3600

#: Names that need no grant, or that no grant opens.
_NOT_GRANTABLE: Final = frozenset({"cred:list", "memory:list", "audit:own", "audit:tree"})
#: The signatures that a change may carry beside K10 and K11; those that are not named here carry none.
_EXTRA: Final[Mapping[type, frozenset[str]]] = MappingProxyType(
    {
        Enrol: frozenset({"wallet"}),
        AddMaster: frozenset({"new_device", "pair"}),
        AddAgent: frozenset({"pair"}),
        RotateKey: frozenset({"new_device"}),
    }
)
_NONE: Final[frozenset[str]] = frozenset()


def check_shape(signed: SignedChange, *, now: int) -> None:
    """Refuse what no signature could make right.

    Raises:
        KeyServiceError: `invalid_change`; `change_not_authorised` for a bad `Pair`.
    """
    change, signatures = signed.change, signed.signatures
    _check_signatures(change, signatures)
    match change:
        case AddMaster():
            _check_pair(change, change.k11_cred_id, signatures, now)
        case AddAgent():
            _check_services(change.services)
            _check_pair(change, NO_K11, signatures, now)
        case SetScope():
            if not change.grant and not change.revoke:
                raise _malformed("nothing to grant and nothing to revoke")
            _check_services((*change.grant, *change.revoke))
        case _:
            pass


def _malformed(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.INVALID_CHANGE, detail)


def _check_signatures(change: Change, signatures: ChangeSignatures) -> None:
    present = {
        "new_device": signatures.new_device is not None,
        "pair": signatures.pair is not None,
        "wallet": signatures.wallet is not None,
    }
    if unwanted := [name for name, there in present.items() if there and name not in _EXTRA.get(type(change), _NONE)]:
        raise _malformed(f"signature that this change does not take: {', '.join(unwanted)}")
    if len(signatures.k11) > MAX_K11_ASSERTIONS:
        raise _malformed(f"more than {MAX_K11_ASSERTIONS} K11 assertions")


def _check_services(services: Iterable[str]) -> None:
    names = tuple(services)
    if len(names) > MAX_SERVICES:
        raise _malformed(f"more than {MAX_SERVICES} services")
    for name in names:
        if name in _NOT_GRANTABLE:
            raise _malformed(f"{name} is never granted")


def _check_pair(change: AddMaster | AddAgent, k11_cred_id: bytes, signatures: ChangeSignatures, now: int) -> None:
    """The `Pair` names this operator, device and K11 (zero: an agent), and is fresh. `decide` asks who signed it."""
    if signatures.pair is None:
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "the new device's Pair is missing")
    pair = signatures.pair.message
    if (pair.operator_omni, pair.device, pair.k11_cred_id) != (change.operator_omni, change.device, k11_cred_id):
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "the Pair names another operator, device or K11")
    if not now < pair.expires_at <= now + PAIR_AHEAD_S:
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "the Pair has expired, or lasts too long")
