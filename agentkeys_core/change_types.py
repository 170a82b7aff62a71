"""The registry changes and `Pair`, one class a type, each with what it can check without a registry (wire.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

from agentkeys_core.change_message import BAD, Change, OrderedChange, require
from agentkeys_core.eip712 import Struct
from agentkeys_core.encoding import MAX_SAFE_INTEGER
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni, operator_omni
from agentkeys_core.k11 import RP_ID_HASH
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import Service
from agentkeys_core.registry import ALL_ROLES, K11Public
from agentkeys_core.shapes import MAX_EPOCH

_HEADER: Final = "uint64 incarnation,uint64 nonce,uint64 deadline"
_K11: Final = "bytes32 k11CredId,uint256 k11X,uint256 k11Y,bytes32 k11RpIdHash,bytes32 k11OriginHash"
#: Teardown names classes by bit: 1 credentials, 2 memory.
_ALL_CLASSES: Final = 3


def _check_roles(roles: int) -> None:
    require(1 <= roles <= int(ALL_ROLES), "roles is not 1 to 7")


def _check_services(services: Iterable[str]) -> None:
    seen = set()
    for service in services:
        try:
            Service.parse(service, None)
        except KeyServiceError as exc:
            raise KeyServiceError(BAD, "a service name is malformed") from exc
        require(service not in seen, "a service is named twice")
        seen.add(service)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMaster(OrderedChange):
    """What Enrol and AddMaster share: a new K10 address and K11 key, and the roles they get."""

    device: bytes
    k11_cred_id: bytes
    k11_x: int
    k11_y: int
    k11_rp_id_hash: bytes
    k11_origin_hash: bytes
    roles: int

    @property
    def k11(self) -> K11Public:
        """The K11 key as the registry records it."""
        return K11Public(
            credential_id_hash=self.k11_cred_id,
            x=self.k11_x.to_bytes(32, "big"),
            y=self.k11_y.to_bytes(32, "big"),
            rp_id_hash=self.k11_rp_id_hash,
            origin_hash=self.k11_origin_hash,
        )

    def check(self) -> None:
        """Roles 1…7, the relying party `localhost`, a key on the curve."""
        _check_roles(self.roles)
        require(self.k11_rp_id_hash == RP_ID_HASH, "k11RpIdHash is not that of localhost")
        try:
            ES256PublicKey.from_xy(self.k11.x, self.k11.y)
        except KeyServiceError as exc:
            raise KeyServiceError(BAD, "k11X, k11Y are no P-256 key") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol(NewMaster):
    """First bind of a user's tree to its first master."""

    struct: ClassVar[Struct] = Struct.of(
        "Enrol(bytes32 identityOmni,bytes32 operatorOmni,address wallet,uint64 walletEpoch,address device,"
        f"{_K11},uint8 roles,{_HEADER})"
    )

    identity_omni: bytes
    wallet: bytes
    wallet_epoch: int

    @property
    def is_evm(self) -> bool:
        """Whether the identity is the wallet itself: its identity omni equals the operator omni."""
        return self.identity_omni == self.operator_omni

    def check(self) -> None:
        """Also: the operator omni is the wallet's, and the wallet epoch is 0 for `evm` alone."""
        # Not super(): slots make the dataclass decorator build a second class, which the bare form would miss.
        NewMaster.check(self)
        require(self.operator_omni == operator_omni(self.wallet), "operatorOmni is not that of wallet")
        epochs = range(1) if self.is_evm else range(1, MAX_EPOCH + 1)
        require(self.wallet_epoch in epochs, "walletEpoch does not fit the identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMaster(NewMaster):
    """One more master device."""

    struct: ClassVar[Struct] = Struct.of(f"AddMaster(bytes32 operatorOmni,address device,{_K11},uint8 roles,{_HEADER})")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAgent(OrderedChange):
    """A child actor's device with its first scope."""

    struct: ClassVar[Struct] = Struct.of(
        "AddAgent(bytes32 operatorOmni,bytes32 actorOmni,string label,uint64 generation,address device,"
        f"string[] services,{_HEADER})"
    )

    actor_omni: bytes
    label: str
    generation: int
    device: bytes
    services: tuple[str, ...]

    def check(self) -> None:
        """The actor omni is that of label and generation under this operator; services well-formed and distinct."""
        require(self.generation <= MAX_SAFE_INTEGER, "generation beyond 2^53-1")
        try:
            actor = child_omni(self.operator_omni, self.label, self.generation)
        except KeyServiceError as exc:
            raise KeyServiceError(BAD, "label or generation") from exc
        require(actor == self.actor_omni, "actorOmni is not that of label and generation")
        _check_services(self.services)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScope(OrderedChange):
    """Grants and revocations of services for one actor."""

    struct: ClassVar[Struct] = Struct.of(
        f"SetScope(bytes32 operatorOmni,bytes32 actorOmni,string[] grant,string[] revoke,{_HEADER})"
    )

    actor_omni: bytes
    grant: tuple[str, ...]
    revoke: tuple[str, ...]

    def check(self) -> None:
        """Services well-formed, each named once over both lists."""
        _check_services((*self.grant, *self.revoke))


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeDevice(OrderedChange):
    """The end of a device key, for ever."""

    struct: ClassVar[Struct] = Struct.of(f"RevokeDevice(bytes32 operatorOmni,bytes32 deviceKeyHash,{_HEADER})")

    device_key_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRoles(OrderedChange):
    """New roles of a master."""

    struct: ClassVar[Struct] = Struct.of(f"SetRoles(bytes32 operatorOmni,bytes32 deviceKeyHash,uint8 roles,{_HEADER})")

    device_key_hash: bytes
    roles: int

    def check(self) -> None:
        """Roles 1…7."""
        _check_roles(self.roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKey(OrderedChange):
    """A master's new K10."""

    struct: ClassVar[Struct] = Struct.of(
        f"RotateKey(bytes32 operatorOmni,bytes32 oldDeviceKeyHash,address newDevice,{_HEADER})"
    )

    old_device_key_hash: bytes
    new_device: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SetThreshold(OrderedChange):
    """How many masters a recovery takes."""

    struct: ClassVar[Struct] = Struct.of(f"SetThreshold(bytes32 operatorOmni,uint8 threshold,{_HEADER})")

    threshold: int

    def check(self) -> None:
        """At least one."""
        require(self.threshold >= 1, "threshold is 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze(Change):
    """An emergency stop by any master; its nonce grows at Unfreeze only."""

    struct: ClassVar[Struct] = Struct.of("Freeze(bytes32 operatorOmni,uint64 incarnation,uint64 freezeNonce)")

    incarnation: int
    freeze_nonce: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfreeze(OrderedChange):
    """The end of a freeze."""

    struct: ClassVar[Struct] = Struct.of(f"Unfreeze(bytes32 operatorOmni,{_HEADER})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Teardown(OrderedChange):
    """The end of an owner's keys, by class bits: 1 credentials, 2 memory."""

    struct: ClassVar[Struct] = Struct.of(f"Teardown(bytes32 operatorOmni,bytes32 actorOmni,uint8 classes,{_HEADER})")

    actor_omni: bytes
    classes: int

    def check(self) -> None:
        """At least one class, and no bit that names none."""
        require(1 <= self.classes <= _ALL_CLASSES, "classes is not 1 to 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Change):
    """A new device's own word that it joins this operator.

    It travels inside AddMaster and AddAgent and is no change by itself. `k11_cred_id` is zero for agents.
    """

    struct: ClassVar[Struct] = Struct.of(
        "Pair(bytes32 operatorOmni,address device,bytes32 k11CredId,bytes32 profileHash,uint64 expiresAt)"
    )

    device: bytes
    k11_cred_id: bytes
    profile_hash: bytes
    expires_at: int


#: What a registry applies, by name on the wire.
CHANGES: Final[Mapping[str, type[Change]]] = MappingProxyType(
    {
        kind.struct.name: kind
        for kind in (
            Enrol,
            AddMaster,
            AddAgent,
            SetScope,
            RevokeDevice,
            SetRoles,
            RotateKey,
            SetThreshold,
            Freeze,
            Unfreeze,
            Teardown,
        )
    }
)
#: Every message type, `Pair` included.
TYPES: Final[Mapping[str, type[Change]]] = MappingProxyType({**CHANGES, Pair.struct.name: Pair})


def parse_change(type_name: object, message: object) -> Change:
    """Read a message of any type, strictly.

    Raises:
        KeyServiceError: `unknown_fields` for a name that the type lacks, `invalid_change` for everything else.
    """
    kind = TYPES.get(type_name) if isinstance(type_name, str) else None
    if kind is None:
        raise KeyServiceError(BAD, "no such type")
    return kind.from_message(message)
