"""Registry changes: the names under which all other rooms use them.

Their EIP-712 digest is the one thing that K10, K11, wallets and both kinds of registry agree on (wire.md).
"""

from agentkeys_core.change_message import Change, OrderedChange
from agentkeys_core.change_types import (
    CHANGES,
    TYPES,
    AddAgent,
    AddMaster,
    Enrol,
    Freeze,
    NewMaster,
    Pair,
    RevokeDevice,
    RotateKey,
    SetRoles,
    SetScope,
    SetThreshold,
    Teardown,
    Unfreeze,
    parse_change,
)
from agentkeys_core.eip712 import Domain
from agentkeys_core.pairing import pairing_hash
from agentkeys_core.signed_change import ChangeSignatures, K11OfDevice, SignedChange, SignedPair

__all__ = [
    "CHANGES",
    "TYPES",
    "AddAgent",
    "AddMaster",
    "Change",
    "ChangeSignatures",
    "Domain",
    "Enrol",
    "Freeze",
    "K11OfDevice",
    "NewMaster",
    "OrderedChange",
    "Pair",
    "RevokeDevice",
    "RotateKey",
    "SetRoles",
    "SetScope",
    "SetThreshold",
    "SignedChange",
    "SignedPair",
    "Teardown",
    "Unfreeze",
    "pairing_hash",
    "parse_change",
]
