"""EIP-712 for flat structs of a closed set of member types: all that registry changes need.

An encoder of our own keeps the web3 stack (a second of import, tens of MiB) out of every process; the tests compare it
with that stack's own encoder.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.encoding import MAX_SAFE_INTEGER, address_encode, hex_decode, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256
from agentkeys_core.shapes import integer

Value = bytes | int | str | tuple[str, ...]

REGISTRY_NAME: Final = "AgentKeys Registry"
REGISTRY_VERSION: Final = "1"

_INTEGER_BITS: Final[Mapping[str, int]] = {"uint8": 8, "uint64": 64, "uint256": 256}
_BYTES_LENGTH: Final[Mapping[str, int]] = {"bytes32": 32, "address": 20}
_CAPITAL: Final = re.compile("(?<!^)(?=[A-Z])")
_CHAIN_ID: Final = re.compile("eip155:(0|[1-9][0-9]{0,77}):0x([0-9a-f]{40})")
_EMBEDDED_ID: Final = re.compile("[0-9a-f]{64}")
_BAD: Final = Reason.INVALID_CHANGE


def _word(value: int | bytes) -> bytes:
    """One 32-byte word: integers big endian, addresses padded on the left."""
    raw = value.to_bytes(32, "big") if isinstance(value, int) else value
    return raw.rjust(32, b"\x00")


def _encode_value(kind: str, value: Value) -> bytes:
    if isinstance(value, tuple):
        return keccak256(b"".join(keccak256(item.encode()) for item in value))
    if isinstance(value, str):
        return keccak256(value.encode())
    if kind in _BYTES_LENGTH and isinstance(value, bytes) and len(value) != _BYTES_LENGTH[kind]:
        raise KeyServiceError(_BAD, f"a value of type {kind} has another length")
    if isinstance(value, int) and not 0 <= value < 1 << _INTEGER_BITS[kind]:
        raise KeyServiceError(_BAD, f"a value is out of the range of {kind}")
    return _word(value)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a struct: its EIP-712 type, its name on the wire, and our attribute for it."""

    kind: str
    name: str
    attribute: str

    def to_json(self, value: Value) -> object:
        """The value in the JSON form of wire.md: 0x-hex; integers beyond 2^53-1 as decimal text."""
        if isinstance(value, bytes):
            return address_encode(value) if self.kind == "address" else f"0x{hex_encode(value)}"
        if isinstance(value, tuple):
            return list(value)
        if isinstance(value, int) and value > MAX_SAFE_INTEGER:
            return str(value)
        return value

    def from_json(self, value: object) -> Value:
        """Read `to_json`'s form and no other. Raises `invalid_change`."""
        if self.kind in _INTEGER_BITS:
            return self._integer(value)
        if self.kind == "string[]":
            if not isinstance(value, list):
                raise KeyServiceError(_BAD, f"{self.name} is not an array")
            return tuple(self._text(item) for item in value)
        string = self._text(value)
        if self.kind == "string":
            return string
        if not string.startswith("0x"):
            raise KeyServiceError(_BAD, f"{self.name} lacks its 0x")
        return hex_decode(string[2:], length=_BYTES_LENGTH[self.kind], reason=_BAD)

    def _integer(self, value: object) -> int:
        limit = (1 << _INTEGER_BITS[self.kind]) - 1
        if not isinstance(value, str):
            return integer(value, self.name, high=min(limit, MAX_SAFE_INTEGER), reason=_BAD)
        # The one text of each number: ASCII digits, no leading zero, and only where a JSON number would not do.
        if not value.isascii() or not value.isdigit() or len(value) > len(str(limit)) or value[0] == "0":
            raise KeyServiceError(_BAD, f"{self.name} is not a decimal number")
        return integer(int(value), self.name, low=MAX_SAFE_INTEGER + 1, high=limit, reason=_BAD)

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            raise KeyServiceError(_BAD, f"{self.name} is not text")
        return value


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct type: `name`, `text` as EIP-712 writes it, members in order, and the type hash."""

    name: str
    text: str
    members: tuple[Member, ...]
    type_hash: bytes

    @classmethod
    def of(cls, text: str) -> Self:
        """Read `Name(type member,…)`, EIP-712's encodeType of a flat struct; only constants come here."""
        name, _, rest = text.removesuffix(")").partition("(")
        members = []
        for declaration in rest.split(","):
            kind, _, member = declaration.partition(" ")
            members.append(Member(kind, member, _CAPITAL.sub("_", member).lower()))
        return cls(name, text, tuple(members), keccak256(text.encode()))

    def hash(self, read: Callable[[Member], Value]) -> bytes:
        """EIP-712 hashStruct of the values that `read` gives for each member.

        Raises:
            KeyServiceError: `invalid_change` for a value that its member cannot hold.
        """
        return keccak256(self.type_hash + b"".join(_encode_value(member.kind, read(member)) for member in self.members))

    def declaration(self) -> list[dict[str, str]]:
        """The member list in the `types` of EIP-712 JSON."""
        return [{"name": member.name, "type": member.kind} for member in self.members]


_EMBEDDED: Final = Struct.of("EIP712Domain(string name,string version,bytes32 salt)")
_CHAIN: Final = Struct.of("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")


@dataclass(frozen=True, slots=True)
class Domain:
    """The registry that a change is for: its EIP-712 domain, made by `embedded`, `chain` or `of`."""

    struct: Struct
    values: tuple[Value, ...]
    separator: bytes

    @classmethod
    def _build(cls, struct: Struct, *values: Value) -> Self:
        every = (REGISTRY_NAME, REGISTRY_VERSION, *values)
        by_name = dict(zip(struct.members, every, strict=True))
        return cls(struct, every, struct.hash(by_name.__getitem__))

    @classmethod
    def embedded(cls, registry_id: str | bytes) -> Self:
        """The domain of an embedded registry; `registry_id` as 32 bytes or as 64 hex digits."""
        raw = hex_decode(registry_id, length=32, reason=_BAD) if isinstance(registry_id, str) else registry_id
        return cls._build(_EMBEDDED, raw)

    @classmethod
    def chain(cls, chain_id: int, contract: bytes) -> Self:
        """The domain of a registry contract; `contract` is its 20-byte address."""
        return cls._build(_CHAIN, chain_id, contract)

    @classmethod
    def of(cls, aud: str) -> Self:
        """The domain of a registry id as caps carry it in `aud`. Raises `invalid_change` for any other text."""
        if _EMBEDDED_ID.fullmatch(aud):
            return cls.embedded(aud)
        match = _CHAIN_ID.fullmatch(aud)
        if match is None:
            raise KeyServiceError(_BAD, "no registry id")
        return cls.chain(int(match[1]), bytes.fromhex(match[2]))

    @property
    def is_chain(self) -> bool:
        """Whether changes here carry incarnation 0."""
        return self.struct is _CHAIN

    def to_json(self) -> dict[str, object]:
        """The `domain` of EIP-712 JSON."""
        return {
            member.name: member.to_json(value) for member, value in zip(self.struct.members, self.values, strict=True)
        }


def signing_digest(domain: Domain, struct_hash: bytes) -> bytes:
    """The 32 bytes that EIP-712 signs."""
    return keccak256(b"\x19\x01" + domain.separator + struct_hash)
