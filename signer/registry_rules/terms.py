"""What every change must fit: this registry's incarnation, this moment, and K11 keys of an allowed origin."""

from typing import Final

from agentkeys_core.changes import NewMaster
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_ORIGIN, SOFTWARE_ORIGIN, origin_hash
from signer.registry_effects import Terms

#: A deadline further ahead is refused: a signed change must not lie about for long.
DEADLINE_AHEAD_S: Final = 3600
SOFTWARE_ORIGIN_HASH: Final = origin_hash(SOFTWARE_ORIGIN)
_PAGE_ORIGIN_HASH: Final = origin_hash(K11_ORIGIN)


def refusal(detail: str) -> KeyServiceError:
    """The one reason of a change that is well-formed and lacks what it needs (wire.md)."""
    return KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, detail)


def check_incarnation(incarnation: int, terms: Terms) -> None:
    """Refuse a change that was made for this registry before or after a restore."""
    if incarnation != terms.incarnation:
        raise refusal("wrong incarnation")


def check_deadline(deadline: int, now: int) -> None:
    """Refuse a change whose time has passed, or that would lie about for long."""
    if deadline < now:
        raise refusal("the deadline has passed")
    if deadline > now + DEADLINE_AHEAD_S:
        raise refusal("the deadline is more than an hour ahead")


def check_origin(change: NewMaster, terms: Terms) -> None:
    """Refuse a K11 key of another page than the device's own, or in software where the host does not allow that."""
    allowed = {_PAGE_ORIGIN_HASH, SOFTWARE_ORIGIN_HASH} if terms.allow_software_k11 else {_PAGE_ORIGIN_HASH}
    if change.k11_origin_hash not in allowed:
        raise refusal("that K11 origin is not allowed")
