"""What a decision about a change rests on, and what it does: plain values between the rules and the tables."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

from agentkeys_core.audit import OpKind
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.registry import DeviceRecord, OperatorState, PendingRotation, Role


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
class Attested:
    """What was attested for one Enrol, by its digest."""

    evidence: Evidence
    assurance: Assurance


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Which of those names the registry holds already, across all operators.

    `reserved_for`: the device whose waiting rotation will bring that key. `annulled`: the operator's bind was annulled
    by the host. `attested`: what was attested for that very Enrol.
    """

    identity: bool = False
    device: bool = False
    reserved_for: bytes | None = None
    actor_owner: bytes | None = None
    annulled: bool = False
    attested: Attested | None = None

    @property
    def held(self) -> bool:
        """Whether the device key is registered, or will be by a rotation that waits."""
        return self.device or self.reserved_for is not None


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
    threshold: int
    enrolment: Enrolment | None = None
    added: DeviceRecord | None = None
    revoked: AbstractSet[bytes] = frozenset()
    roles: Mapping[bytes, Role] = field(default_factory=lambda: MappingProxyType({}))
    rotation: PendingRotation | None = None
    cancelled: AbstractSet[bytes] = frozenset()
    """Devices whose waiting rotation ends, or is done."""
    actor: bytes | None = None
    granted: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()
    torn_down: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
    annulled: bool = False
    sign_counts: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))


def following(state: OperatorState, kind: OpKind) -> Effects:
    """A change that uses up one nonce and, so far, does nothing else."""
    return Effects(
        kind=kind,
        nonce=state.nonce + 1,
        freeze_nonce=state.freeze_nonce,
        frozen=state.frozen,
        threshold=state.threshold,
    )
