"""The registry's head: a hash chain over every applied change, and what the signer says about it to its clients."""

from dataclasses import dataclass
from typing import Final

from agentkeys_core.hashes import sha256

_CHAIN_TAG: Final = b"agentkeys.registry-chain.v1\0"
_EVENT_TAG: Final = b"agentkeys.registry-event.v1\0"
_HEAD_TAG: Final = b"agentkeys.registry-head.v1\0"

#: What the chain begins with, before the first change.
GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHead:
    """A registry's newest change: sequence (0: none yet), the chain's 32 bytes, and a MAC under the key of `epoch`."""

    sequence: int
    hash: bytes
    mac: bytes
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHead(RegistryHead):
    """A head as it was recorded with its change, under the incarnation of that moment."""

    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedChange:
    """One line of the change stream; whoever wants the new state reads the operator again."""

    sequence: int
    operator_omni: bytes
    digest: bytes
    type: str


def chained(previous: bytes, *, sequence: int, operator_omni: bytes, digest: bytes) -> bytes:
    """The chain's 32 bytes after a change; `previous` is those of the change before it."""
    return sha256(_CHAIN_TAG + previous + sequence.to_bytes(8, "big") + operator_omni + digest)


def event_digest(kind: str, cause: bytes) -> bytes:
    """The 32 bytes that name what the signer did by itself, where a change has its EIP-712 digest."""
    return sha256(_EVENT_TAG + kind.encode() + b"\0" + cause)


def mac_message(registry_id: str, *, incarnation: int, sequence: int, head: bytes) -> bytes:
    """The bytes that a head's MAC covers; the incarnation too, since heads from before a restore say nothing of now."""
    registry = sha256(registry_id.encode())
    return _HEAD_TAG + registry + incarnation.to_bytes(8, "big") + sequence.to_bytes(8, "big") + head
