"""What the backend's registry keeps: operators with their devices, and who holds which name."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from agentkeys_core.registry import K11Public

CAP_MINT, RECOVERY, SCOPE_MGMT, ALL = 1, 2, 4, 7


@dataclass(slots=True, kw_only=True)
class Device:
    """One registered device; K11 makes it a master's."""

    key_hash: bytes
    actor: bytes
    address: bytes
    roles: int
    registered_at: int
    evidence: str = "master"
    assurance: str = "high"
    k11: K11Public | None = None
    label: str = ""
    generation: int = 0
    revoked: bool = False
    sign_count: int = 0
    counter_fell: bool = False

    @property
    def is_master(self) -> bool:
        return self.k11 is not None


@dataclass(slots=True, kw_only=True)
class Operator:
    """One user's tree. `waiting` holds new K10s that were asked for without the old one: key hash → (address, due)."""

    omni: bytes
    wallet: bytes
    wallet_epoch: int
    identity: bytes
    devices: dict[bytes, Device]
    scopes: dict[bytes, set[str]] = field(default_factory=dict)
    frozen: bool = False
    nonce: int = 1
    freeze_nonce: int = 0
    threshold: int = 1
    waiting: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    torn: dict[bytes, int] = field(default_factory=dict)
    wallet_epochs: dict[bytes, int] = field(default_factory=dict)

    def masters(self) -> list[Device]:
        """Those that are not revoked."""
        return [device for device in self.devices.values() if device.is_master and not device.revoked]


def keys_for_recovery(devices: Iterable[Device]) -> int:
    """How many K11 keys can approve a recovery: one key counts once, whoever holds it."""
    return len(
        {
            (device.k11.x, device.k11.y)
            for device in devices
            if device.k11 is not None and not device.revoked and device.roles & RECOVERY
        }
    )


@dataclass(slots=True)
class Tables:
    """Names that are held for ever, and what was attested: Enrol digest → (evidence, assurance)."""

    operators: dict[bytes, Operator] = field(default_factory=dict)
    owner_of_device: dict[bytes, bytes] = field(default_factory=dict)
    owner_of_actor: dict[bytes, bytes] = field(default_factory=dict)
    identities: set[bytes] = field(default_factory=set)
    attested: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    evidence_used: dict[bytes, bytes] = field(default_factory=dict)
