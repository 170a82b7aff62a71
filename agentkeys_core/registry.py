"""What a registry says about one operator: devices, scopes and counters, as values that every part checks against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final, Self, TypeVar

from agentkeys_core.encoding import address_decode, address_encode, fields, hex_decode, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.hashes import keccak256
from agentkeys_core.ops import ObjectClass
from agentkeys_core.shapes import MAX_EPOCH, boolean, integer, sequence, text

_BAD: Final = Reason.INVALID_ENCODING
_Words = TypeVar("_Words", Evidence, Assurance)


class Role(IntFlag):
    """What a device may do; the first master has all three, an agent has `CAP_MINT` alone."""

    CAP_MINT = 1
    RECOVERY = 2
    SCOPE_MGMT = 4


ALL_ROLES: Final = Role.CAP_MINT | Role.RECOVERY | Role.SCOPE_MGMT


class Tier(IntEnum):
    """Whose device it is."""

    MASTER = 1
    AGENT = 2


MASTER: Final = Tier.MASTER
AGENT: Final = Tier.AGENT


def _hex32(value: object) -> bytes:
    return hex_decode(value, length=32, reason=_BAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class K11Public:
    """The registered half of a K11 key. All members have 32 bytes; x and y are the P-256 coordinates."""

    credential_id_hash: bytes
    x: bytes
    y: bytes
    rp_id_hash: bytes
    origin_hash: bytes

    def to_json(self) -> dict[str, str]:
        """The object of a device record."""
        return {name: hex_encode(getattr(self, name)) for name in _K11_NAMES}

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `to_json`'s object. Raises `unknown_fields` or `invalid_encoding`."""
        members = fields(obj, required=_K11_NAMES, reason=_BAD)
        return cls(**{name: _hex32(members[name]) for name in _K11_NAMES})


_K11_NAMES: Final = ("credential_id_hash", "x", "y", "rp_id_hash", "origin_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """One registered device.

    `device_key_hash` is keccak256 of the 20-byte `address` of its K10 key. `k11` is None for agents; `label` and
    `generation` are None for masters. `sign_count` is the highest counter seen of K11 and `counter_fell` whether a
    lower one came after it: a clone may be about. Both inform and refuse nothing, like `evidence` and `assurance`.
    """

    device_key_hash: bytes
    operator_omni: bytes
    actor_omni: bytes
    address: bytes
    tier: Tier
    roles: Role
    revoked: bool
    registered_at: int
    k11: K11Public | None = None
    label: str | None = None
    generation: int | None = None
    sign_count: int = 0
    counter_fell: bool = False
    evidence: Evidence = Evidence.MASTER
    assurance: Assurance = Assurance.HIGH

    @property
    def is_master(self) -> bool:
        """Whether the device is of tier 1."""
        return self.tier == Tier.MASTER

    def holds(self, role: Role) -> bool:
        """Whether every bit of `role` was granted to this device."""
        return self.roles & role == role

    def to_json(self) -> dict[str, object]:
        """The object of the registry reads (wire.md); hashes hex, address 0x."""
        return {
            "actor_omni": hex_encode(self.actor_omni),
            "address": address_encode(self.address),
            "assurance": self.assurance.value,
            "counter_fell": self.counter_fell,
            "device_key_hash": hex_encode(self.device_key_hash),
            "evidence": self.evidence.value,
            "generation": self.generation,
            "k11": None if self.k11 is None else self.k11.to_json(),
            "label": self.label,
            "operator_omni": hex_encode(self.operator_omni),
            "registered_at": self.registered_at,
            "revoked": self.revoked,
            "roles": int(self.roles),
            "sign_count": self.sign_count,
            "tier": int(self.tier),
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `to_json`'s object; a key hash that is not its address's is refused.

        Raises:
            KeyServiceError: `unknown_fields`, else `invalid_encoding`.
        """
        members = fields(obj, required=_DEVICE_NAMES, reason=_BAD)
        address = address_decode(members["address"], reason=_BAD)
        key_hash = _hex32(members["device_key_hash"])
        if keccak256(address) != key_hash:
            raise KeyServiceError(_BAD, "device_key_hash is not the hash of address")
        k11, label, generation = members["k11"], members["label"], members["generation"]
        return cls(
            device_key_hash=key_hash,
            operator_omni=_hex32(members["operator_omni"]),
            actor_omni=_hex32(members["actor_omni"]),
            address=address,
            tier=Tier(integer(members["tier"], "tier", low=1, high=2, reason=_BAD)),
            roles=Role(integer(members["roles"], "roles", high=int(ALL_ROLES), reason=_BAD)),
            revoked=boolean(members["revoked"], "revoked", reason=_BAD),
            registered_at=integer(members["registered_at"], "registered_at", reason=_BAD),
            k11=None if k11 is None else K11Public.from_json(k11),
            label=None if label is None else text(label, "label", reason=_BAD),
            generation=None if generation is None else integer(generation, "generation", reason=_BAD),
            sign_count=integer(members["sign_count"], "sign_count", high=2**32 - 1, reason=_BAD),
            counter_fell=boolean(members["counter_fell"], "counter_fell", reason=_BAD),
            evidence=_one_of(Evidence, members["evidence"]),
            assurance=_one_of(Assurance, members["assurance"]),
        )


def _one_of(kind: type[_Words], value: object) -> _Words:
    try:
        return kind(text(value, kind.__name__, reason=_BAD))
    except ValueError as exc:
        raise KeyServiceError(_BAD, f"not {kind.__name__.lower()}") from exc


_DEVICE_NAMES: Final = (
    "actor_omni",
    "address",
    "assurance",
    "counter_fell",
    "device_key_hash",
    "evidence",
    "generation",
    "k11",
    "label",
    "operator_omni",
    "registered_at",
    "revoked",
    "roles",
    "sign_count",
    "tier",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRotation:
    """A master's new K10 that was asked for without the old one: it takes effect at `due_at` (Unix seconds).

    `device` is the key hash (32 bytes) of the K10 in force, `new_address` the 20 bytes of the one to come.
    """

    device: bytes
    new_address: bytes
    due_at: int

    def to_json(self) -> dict[str, object]:
        """One entry of `rotations`."""
        return {
            "device": hex_encode(self.device),
            "due_at": self.due_at,
            "new_address": address_encode(self.new_address),
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `to_json`'s object. Raises `unknown_fields` or `invalid_encoding`."""
        members = fields(obj, required=("device", "due_at", "new_address"), reason=_BAD)
        return cls(
            device=_hex32(members["device"]),
            new_address=address_decode(members["new_address"], reason=_BAD),
            due_at=integer(members["due_at"], "due_at", reason=_BAD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorState:
    """All that the registry holds of one operator at one moment.

    `devices` by device key hash, `scopes` by actor omni. `nonce` and `freeze_nonce` are those that the next change must
    carry. `rotations` by the key hash of the device that they replace. `torn_down` by owner omni: bits of the object
    classes whose keys are refused for ever. `incarnation` and `k3_epoch` are the registry's own at the same moment.
    """

    operator_omni: bytes
    wallet: bytes
    wallet_epoch: int
    frozen: bool
    nonce: int
    freeze_nonce: int
    threshold: int
    devices: Mapping[bytes, DeviceRecord]
    scopes: Mapping[bytes, frozenset[str]]
    incarnation: int
    k3_epoch: int
    rotations: Mapping[bytes, PendingRotation] = field(default_factory=lambda: MappingProxyType({}))
    torn_down: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))

    def grants(self, actor: bytes, service: str) -> bool:
        """Whether the scope of `actor` names this very service."""
        return service in self.scopes.get(actor, frozenset())

    def is_torn_down(self, owner: bytes, object_class: ObjectClass) -> bool:
        """Whether the keys of this owner's objects of that class are refused for ever."""
        return bool(self.torn_down.get(owner, 0) & object_class)

    def masters(self) -> tuple[DeviceRecord, ...]:
        """The master devices that are not revoked."""
        return tuple(device for device in self.devices.values() if device.is_master and not device.revoked)

    def to_json(self) -> dict[str, object]:
        """The object of the registry reads (wire.md); lists sorted, so that equal states give equal JSON."""
        return {
            "devices": [self.devices[key].to_json() for key in sorted(self.devices)],
            "epoch": self.k3_epoch,
            "freeze_nonce": self.freeze_nonce,
            "frozen": self.frozen,
            "incarnation": self.incarnation,
            "nonce": self.nonce,
            "operator_omni": hex_encode(self.operator_omni),
            "rotations": [self.rotations[key].to_json() for key in sorted(self.rotations)],
            "scopes": {hex_encode(actor): sorted(self.scopes[actor]) for actor in sorted(self.scopes)},
            "threshold": self.threshold,
            "torn_down": {hex_encode(owner): self.torn_down[owner] for owner in sorted(self.torn_down)},
            "wallet": address_encode(self.wallet),
            "wallet_epoch": self.wallet_epoch,
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `to_json`'s object; devices of another operator and repeated ones are refused.

        Raises:
            KeyServiceError: `unknown_fields`, else `invalid_encoding`.
        """
        members = fields(obj, required=_OPERATOR_NAMES, reason=_BAD)
        operator = _hex32(members["operator_omni"])
        devices: dict[bytes, DeviceRecord] = {}
        for entry in sequence(members["devices"], "devices", reason=_BAD):
            device = DeviceRecord.from_json(entry)
            if device.operator_omni != operator or device.device_key_hash in devices:
                raise KeyServiceError(_BAD, "a device is repeated or belongs to another operator")
            devices[device.device_key_hash] = device
        rotations = [
            PendingRotation.from_json(entry) for entry in sequence(members["rotations"], "rotations", reason=_BAD)
        ]
        return cls(
            operator_omni=operator,
            wallet=address_decode(members["wallet"], reason=_BAD),
            wallet_epoch=integer(members["wallet_epoch"], "wallet_epoch", high=MAX_EPOCH, reason=_BAD),
            frozen=boolean(members["frozen"], "frozen", reason=_BAD),
            nonce=integer(members["nonce"], "nonce", reason=_BAD),
            freeze_nonce=integer(members["freeze_nonce"], "freeze_nonce", reason=_BAD),
            threshold=integer(members["threshold"], "threshold", high=255, reason=_BAD),
            devices=MappingProxyType(devices),
            scopes=MappingProxyType(_scopes(members["scopes"])),
            incarnation=integer(members["incarnation"], "incarnation", reason=_BAD),
            k3_epoch=integer(members["epoch"], "epoch", low=1, high=MAX_EPOCH, reason=_BAD),
            rotations=MappingProxyType({rotation.device: rotation for rotation in rotations}),
            torn_down=MappingProxyType(_torn_down(members["torn_down"])),
        )


_OPERATOR_NAMES: Final = (
    "devices",
    "epoch",
    "freeze_nonce",
    "frozen",
    "incarnation",
    "nonce",
    "operator_omni",
    "rotations",
    "scopes",
    "threshold",
    "torn_down",
    "wallet",
    "wallet_epoch",
)


def _scopes(value: object) -> dict[bytes, frozenset[str]]:
    if not isinstance(value, dict):
        raise KeyServiceError(_BAD, "scopes is not an object")
    return {
        _hex32(actor): frozenset(
            text(service, "service", reason=_BAD) for service in sequence(services, "services", reason=_BAD)
        )
        for actor, services in value.items()
    }


def _torn_down(value: object) -> dict[bytes, int]:
    if not isinstance(value, dict):
        raise KeyServiceError(_BAD, "torn_down is not an object")
    return {
        _hex32(owner): integer(bits, "classes", low=1, high=sum(ObjectClass), reason=_BAD)
        for owner, bits in value.items()
    }
