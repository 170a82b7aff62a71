"""What no signature could make right about a change (docs/spec, Registry changes)."""

import time
from collections.abc import Mapping
from typing import Final

from agentkeys_core.changes import AddAgent, AddMaster, Change, Enrol, RotateKey, SetScope, SignedChange
from agentkeys_core.errors import Reason
from tests.conformance.backend.refused import refuse

WEEK_S: Final = 7 * 24 * 3600
MAX_SERVICES: Final = 256
MAX_K11: Final = 16
NEVER_GRANTED: Final = frozenset({"cred:list", "memory:list", "audit:own", "audit:tree"})
#: Signatures beside K10 and K11.
EXTRA: Final[Mapping[type[Change], frozenset[str]]] = {
    Enrol: frozenset({"wallet"}),
    AddMaster: frozenset({"new_device", "pair"}),
    AddAgent: frozenset({"pair"}),
    RotateKey: frozenset({"new_device"}),
}


def check(signed: SignedChange) -> None:
    """Refuse a change of a wrong shape, and a `Pair` that does not fit."""
    change, given = signed.change, signed.signatures
    extra = {name for name in ("wallet", "pair", "new_device") if getattr(given, name) is not None}
    if not extra <= EXTRA.get(type(change), frozenset()) or len(given.k11) > MAX_K11:
        refuse(Reason.INVALID_CHANGE)
    match change:
        case AddAgent():
            _services(change.services)
            _pair(signed, change, bytes(32))
        case AddMaster():
            _pair(signed, change, change.k11_cred_id)
        case SetScope():
            services = (*change.grant, *change.revoke)
            _services(services)
            if not services:
                refuse(Reason.INVALID_CHANGE)
        case _:
            pass


def _services(services: tuple[str, ...]) -> None:
    if len(services) > MAX_SERVICES or NEVER_GRANTED.intersection(services):
        refuse(Reason.INVALID_CHANGE)


def _pair(signed: SignedChange, change: AddAgent | AddMaster, k11_cred_id: bytes) -> None:
    if signed.signatures.pair is None:
        refuse(Reason.CHANGE_NOT_AUTHORISED)
    pair, now = signed.signatures.pair.message, time.time()
    if (pair.operator_omni, pair.device, pair.k11_cred_id) != (change.operator_omni, change.device, k11_cred_id):
        refuse(Reason.CHANGE_NOT_AUTHORISED)
    if not now < pair.expires_at <= now + WEEK_S:
        refuse(Reason.CHANGE_NOT_AUTHORISED)
