"""Whether a signed change makes sense in itself, before any signature or state is looked at (design §6, wire.md)."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from agentkeys_core.changes import AddAgent, Change, Enrol, Freeze, RevokeDevice, SetScope, Unfreeze
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.signed_change import ChangeSignatures, SignedChange

#: Far above what people have; each assertion costs the signer a verification before anything is known of the sender.
MAX_K11_ASSERTIONS: Final = 16
MAX_SERVICES: Final = 256
#: How far ahead a `Pair` may expire: the file travels by hand to the master.
PAIR_AHEAD_S: Final = 7 * 24 * 3600

#: Names that need no grant, or that no grant opens.
_NOT_GRANTABLE: Final = frozenset({"cred:list", "memory:list", "audit:own", "audit:tree"})
#: The signatures that each implemented change may carry beside K10 and K11.
_EXTRA: Final[Mapping[type, frozenset[str]]] = MappingProxyType(
    {
        Enrol: frozenset({"wallet"}),
        AddAgent: frozenset({"pair"}),
        SetScope: frozenset(),
        RevokeDevice: frozenset(),
        Freeze: frozenset(),
        Unfreeze: frozenset(),
    }
)


def check_shape(signed: SignedChange, *, now: int) -> None:
    """Refuse what no signature could make right.

    Raises:
        KeyServiceError: `not_implemented` for changes of later versions; `invalid_change`; `invalid_evidence` for a
            first bind of an identity that is no wallet; `change_not_authorised` for a bad `Pair`.
    """
    change, signatures = signed.change, signed.signatures
    if type(change) not in _EXTRA:
        raise KeyServiceError(Reason.NOT_IMPLEMENTED, change.type)
    _check_signatures(change, signatures)
    match change:
        case Enrol() if not change.is_evm:
            # Only a wallet proves itself; other identities need evidence that nothing here can check yet.
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "an identity that is no wallet")
        case AddAgent():
            _check_services(change.services)
            _check_pair(change, signatures, now)
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
    if unwanted := [name for name, there in present.items() if there and name not in _EXTRA[type(change)]]:
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


def _check_pair(change: AddAgent, signatures: ChangeSignatures, now: int) -> None:
    """The `Pair` names this operator and device, an agent, and is fresh. Who signed it is `decide`'s matter."""
    if signatures.pair is None:
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "the agent's Pair is missing")
    pair = signatures.pair.message
    if (pair.operator_omni, pair.device, pair.k11_cred_id) != (change.operator_omni, change.device, bytes(32)):
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "the Pair names another operator or device, or a K11")
    if not now < pair.expires_at <= now + PAIR_AHEAD_S:
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "the Pair has expired, or lasts too long")
