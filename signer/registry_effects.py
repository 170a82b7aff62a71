"""What a decision about a change rests on, and what it does: plain values between the rules and the tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agentkeys_core.audit import OpKind
from agentkeys_core.registry import DeviceRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The registry's own side of a decision. `now` is in Unix seconds."""

    incarnation: int
    now: int
    allow_software_k11: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The names that a change wants for ever: identity omni, device key hash, actor omni (None: it wants none)."""

    identity: bytes | None = None
    device: bytes | None = None
    actor: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Which of those names the registry holds already, across all operators."""

    identity: bool = False
    device: bool = False
    actor_owner: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a first bind records of its operator, once."""

    identity_omni: bytes
    wallet: bytes
    wallet_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What an authorised change does to its operator; the counters are those after it."""

    kind: OpKind
    nonce: int
    freeze_nonce: int
    frozen: bool
    enrolment: Enrolment | None = None
    added: DeviceRecord | None = None
    revoked: bytes | None = None
    actor: bytes | None = None
    granted: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()
    sign_counts: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
