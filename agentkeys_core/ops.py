"""What a device can ask for: the table of design §4, one row an operation, and the names of services."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum, auto
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Self

from agentkeys_core.audit_envelope import OpKind
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256

WINDOW_S: Final = 300
#: How long the cloud session of a store or delete holds its object where `SignAuditRow` does not end it (adr/0008).
HOLD_S: Final = 20.0
AUDIT_OWN: Final = "audit:own"
AUDIT_TREE: Final = "audit:tree"
MASTER_TIER: Final = 1


class ObjectClass(IntEnum):
    """What an object is: the class byte of object keys and envelopes."""

    CREDENTIALS = 1
    MEMORY = 2


class WorkerClass(StrEnum):
    """Which worker serves an operation: the class in its SPIFFE id."""

    CREDENTIALS = "credentials"
    MEMORY = "memory"
    AUDIT = "audit"


class Op(StrEnum):
    """The operations of a capability request."""

    CRED_STORE = "cred-store"
    CRED_DELETE = "cred-delete"
    CRED_FETCH = "cred-fetch"
    CRED_LIST = "cred-list"
    MEMORY_PUT = "memory-put"
    MEMORY_DELETE = "memory-delete"
    MEMORY_GET = "memory-get"
    MEMORY_LIST = "memory-list"
    AUDIT_LIST = "audit-list"
    SIWE_SIGN = "siwe-sign"
    TYPED_DATA_SIGN = "typed-data-sign"


class Effect(Enum):
    """What an operation does to its object."""

    WRITE = auto()
    READ = auto()
    DELETE = auto()
    LIST = auto()
    AUDIT = auto()
    SIGN = auto()


class K11Rule(Enum):
    """When an operation needs a K11 assertion.

    Never, by master devices, always, where it replaces an object, or where the signer's signing policy asks for one,
    which it does unless the host wrote otherwise.
    """

    NEVER = auto()
    MASTERS = auto()
    ALWAYS = auto()
    REPLACING = auto()
    POLICY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRule:
    """One row of the table of design §4.

    `worker_class` is None where the broker asks, `object_class` where no object is named, `kind` where no audit row is
    written. `once`: the cap digest is burned. `window_s`: the longest `expires_at - issued_at` in seconds.
    """

    op: Op
    effect: Effect
    prefix: str
    worker_class: WorkerClass | None = None
    object_class: ObjectClass | None = None
    window_s: int = WINDOW_S
    once: bool = False
    kind: OpKind | None = None
    master_only: bool = False
    k11: K11Rule = K11Rule.NEVER


def _credentials(
    op: Op,
    effect: Effect,
    kind: OpKind,
    *,
    k11: K11Rule,
    once: bool = False,
    master_only: bool = False,
) -> OpRule:
    return OpRule(
        op=op,
        effect=effect,
        prefix="cred",
        worker_class=WorkerClass.CREDENTIALS,
        object_class=ObjectClass.CREDENTIALS,
        once=once,
        kind=kind,
        master_only=master_only,
        k11=k11,
    )


def _memory(op: Op, effect: Effect, kind: OpKind, *, once: bool = False) -> OpRule:
    return OpRule(
        op=op,
        effect=effect,
        prefix="memory",
        worker_class=WorkerClass.MEMORY,
        object_class=ObjectClass.MEMORY,
        once=once,
        kind=kind,
    )


_RULES: Final = (
    _credentials(Op.CRED_STORE, Effect.WRITE, OpKind.CRED_STORE, k11=K11Rule.REPLACING, once=True, master_only=True),
    _credentials(Op.CRED_DELETE, Effect.DELETE, OpKind.CRED_DELETE, k11=K11Rule.ALWAYS, once=True, master_only=True),
    _credentials(Op.CRED_FETCH, Effect.READ, OpKind.CRED_FETCH, k11=K11Rule.MASTERS),
    _credentials(Op.CRED_LIST, Effect.LIST, OpKind.CRED_LIST, k11=K11Rule.NEVER),
    _memory(Op.MEMORY_PUT, Effect.WRITE, OpKind.MEMORY_PUT, once=True),
    _memory(Op.MEMORY_DELETE, Effect.DELETE, OpKind.MEMORY_DELETE, once=True),
    _memory(Op.MEMORY_GET, Effect.READ, OpKind.MEMORY_GET),
    _memory(Op.MEMORY_LIST, Effect.LIST, OpKind.MEMORY_LIST),
    OpRule(op=Op.AUDIT_LIST, effect=Effect.AUDIT, prefix="audit", worker_class=WorkerClass.AUDIT),
    OpRule(op=Op.SIWE_SIGN, effect=Effect.SIGN, prefix="siwe", once=True, kind=OpKind.SIGN_EIP191),
    OpRule(
        op=Op.TYPED_DATA_SIGN,
        effect=Effect.SIGN,
        prefix="sign",
        once=True,
        kind=OpKind.SIGN_EIP712,
        k11=K11Rule.POLICY,
    ),
)

OPS: Final[Mapping[Op, OpRule]] = MappingProxyType({rule.op: rule for rule in _RULES})

# A list op names exactly this service, and no other op may name it.
_LIST_SERVICE: Final = MappingProxyType({Op.CRED_LIST: "cred:list", Op.MEMORY_LIST: "memory:list"})
_RESERVED: Final = frozenset(_LIST_SERVICE.values())


def k11_required(rule: OpRule, *, tier: int, replacing: bool, policy_asks: bool = True) -> bool:
    """Tell whether policy asks for a K11 assertion.

    Args:
        rule: The operation's row.
        tier: Of the device that signed, 1 master, 2 agent.
        replacing: Whether a store is current under that name.
        policy_asks: Whether the signing policy wants K11 for what is signed.
    """
    if rule.k11 is K11Rule.MASTERS:
        return tier == MASTER_TIER
    if rule.k11 is K11Rule.REPLACING:
        return replacing
    if rule.k11 is K11Rule.POLICY:
        return policy_asks
    return rule.k11 is K11Rule.ALWAYS


_SERVICE: Final = re.compile(r"(?:cred|memory|siwe|sign):[a-z0-9][a-z0-9._-]{0,63}")


@lru_cache(maxsize=4096)
def _hashes(text: str) -> tuple[bytes, bytes]:
    data = text.encode("ascii")
    return keccak256(data), sha256(data)


@dataclass(frozen=True, slots=True)
class Service:
    """The name of what is asked for, e.g. `cred:openrouter`. Made by `parse`, so always well-formed."""

    text: str

    @classmethod
    def parse(cls, text: object, op: Op | None = None) -> Self:
        """Check a service name, and that it fits the op where one is given.

        Raises:
            KeyServiceError: `invalid_cap` for a malformed name, a prefix that does not fit the op, a reserved name
                (`cred:list`, `memory:list`) with another op, or a list op with any other name.
        """
        if not isinstance(text, str) or not (_SERVICE.fullmatch(text) or text in (AUDIT_OWN, AUDIT_TREE)):
            raise KeyServiceError(Reason.INVALID_CAP, "not a service name")
        service = cls(text)
        if op is not None:
            if service.prefix != OPS[op].prefix:
                raise KeyServiceError(Reason.INVALID_CAP, "the service does not fit the op")
            if (text in _RESERVED or op in _LIST_SERVICE) and _LIST_SERVICE.get(op) != text:
                raise KeyServiceError(Reason.INVALID_CAP, "a reserved name, or a list of something else")
        return service

    @property
    def prefix(self) -> str:
        """What stands before the colon."""
        return self.text.partition(":")[0]

    @property
    def name(self) -> str:
        """What follows the colon: the name inside object paths and lists."""
        return self.text.partition(":")[2]

    @property
    def service_hash(self) -> bytes:
        """keccak256 of the whole name, 32 bytes, as the registry's contracts know it."""
        return _hashes(self.text)[0]

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole name, 32 bytes, as object keys and envelopes bind it."""
        return _hashes(self.text)[1]


_FOLDER: Final = MappingProxyType({ObjectClass.CREDENTIALS: "credentials", ObjectClass.MEMORY: "memory"})


def object_path(owner: bytes, service: Service, object_class: ObjectClass) -> str:
    """Return where the object lies in the store; `owner` is a 32-byte omni."""
    return f"bots/{owner.hex()}/{_FOLDER[object_class]}/{service.name}.enc"


def object_folder(object_class: ObjectClass) -> str:
    """Return the folder that holds an owner's objects of a class."""
    return _FOLDER[object_class]


def object_place(path: str) -> tuple[bytes, str]:
    """Return owner and name of an object, of a path that `object_path` made."""
    _, owner, _, file = path.split("/")
    return bytes.fromhex(owner), file.removesuffix(".enc")


def owner_of(rule: OpRule, operator_omni: bytes, actor_omni: bytes) -> bytes:
    """Return whose data it is: the operator's vault for credentials, else the actor's own (design §3)."""
    return operator_omni if rule.object_class is ObjectClass.CREDENTIALS else actor_omni
