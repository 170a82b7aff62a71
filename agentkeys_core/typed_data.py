"""EIP-712 typed data: values read strictly by their declared types, and the digest that a wallet signs.

Whatever the types do not say, or say in two ways, is refused: what is shown, what policy judges and what is hashed are
the same values. The signer has a library compute the same digest and signs only where both agree.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from agentkeys_core.checksum import checksum_decode
from agentkeys_core.eip712 import REGISTRY_NAME
from agentkeys_core.encoding import MAX_SAFE_INTEGER, address_decode, fields
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import keccak256
from agentkeys_core.shapes import text
from agentkeys_core.typed_data_types import BAD, DOMAIN_TYPE, Kind, TypeSet, bad, check_domain_type

#: Numbers as int, addresses and bytes as bytes, arrays as tuples, structs as mappings.
Value = int | bool | str | bytes | tuple["Value", ...] | Mapping[str, "Value"]

_WORD: Final = 32
_DECIMAL: Final = re.compile(r"-?[1-9][0-9]{0,77}|0")
_HEX: Final = re.compile(r"0x((?:[0-9a-fA-F]{2})*)")
_DOMAIN: Final = ("types", "primaryType", "domain", "message")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedData:
    """One message under its domain, both with the types that they were read by."""

    types: TypeSet
    domain_types: TypeSet
    domain: Mapping[str, Value]
    message: Mapping[str, Value]

    @classmethod
    def parse(cls, obj: object) -> Self:
        """Read the object of `eth_signTypedData_v4`. Raises `invalid_typed_data` for anything that is not exactly one.

        Numbers are JSON integers within 2^53-1 or decimal text; addresses lower case or with their EIP-55 checksum;
        bytes are 0x-hex. Every declared member is there and no other, every declared type is used. The domain of
        AgentKeys' own registry is refused: a wallet must not speak there as if it were a device.
        """
        members = fields(obj, required=_DOMAIN, reason=BAD, unknown=BAD)
        declared = members["types"]
        if not isinstance(declared, dict) or DOMAIN_TYPE not in declared:
            raise bad("types without EIP712Domain")
        primary = text(members["primaryType"], "primaryType", reason=BAD)
        if primary == DOMAIN_TYPE:
            raise bad("the domain alone is no message")
        domain_types = TypeSet.parse(DOMAIN_TYPE, {DOMAIN_TYPE: declared[DOMAIN_TYPE]})
        check_domain_type(domain_types)
        domain = _struct(domain_types, DOMAIN_TYPE, members["domain"])
        if domain.get("name") == REGISTRY_NAME:
            raise bad("registry changes are signed by a device's own key, never by a wallet of ours")
        types = TypeSet.parse(primary, {name: listed for name, listed in declared.items() if name != DOMAIN_TYPE})
        return cls(
            types=types,
            domain_types=domain_types,
            domain=domain,
            message=_struct(types, primary, members["message"]),
        )

    @property
    def domain_separator(self) -> bytes:
        """EIP-712 hashStruct of the domain, 32 bytes."""
        return _hash_struct(self.domain_types, DOMAIN_TYPE, self.domain)

    @property
    def type_hash(self) -> bytes:
        """Of the primary type, 32 bytes."""
        return self.types.hashes[self.types.primary]

    @property
    def digest(self) -> bytes:
        """The 32 bytes that a wallet signs."""
        struct_hash = _hash_struct(self.types, self.types.primary, self.message)
        return keccak256(b"\x19\x01" + self.domain_separator + struct_hash)

    def at(self, path: str) -> tuple[Value, ...]:
        """Every value at a path like `details.amount` or `orders.[].price`; none where the types have no such place."""
        kind, found = Kind(base=self.types.primary), [self.message]
        values: list[Value] = list(found)
        for step in path.split("."):
            following = step_into(self.types, kind, step)
            if following is None:
                return ()
            kind = following
            values = [inner for value in values for inner in _inside(value, step)]
        return tuple(values)


def step_into(types: TypeSet, kind: Kind, step: str) -> Kind | None:
    """The type one step further down a path: `[]` for the items of an array, else a member's name; None for neither."""
    if step == "[]":
        return kind.item if kind.sizes else None
    member = None if kind.sizes else types.member(kind.base, step)
    return None if member is None else member.kind


def kind_at(types: TypeSet, path: str) -> Kind | None:
    """The type at a path from the primary type, None where it has no such place."""
    kind: Kind | None = Kind(base=types.primary)
    for step in path.split("."):
        kind = None if kind is None else step_into(types, kind, step)
    return kind


def _inside(value: Value, step: str) -> tuple[Value, ...]:
    if isinstance(value, tuple):
        return value
    return (value[step],) if isinstance(value, Mapping) else ()


def _struct(types: TypeSet, name: str, value: object) -> Mapping[str, Value]:
    declared = types.structs[name]
    members = fields(value, required=[member.name for member in declared], reason=BAD, unknown=BAD)
    return MappingProxyType({member.name: _value(types, member.kind, members[member.name]) for member in declared})


def _value(types: TypeSet, kind: Kind, value: object) -> Value:
    if kind.sizes:
        size = kind.sizes[-1]
        if not isinstance(value, list) or (size is not None and len(value) != size):
            raise bad("not an array of the declared length")
        return tuple(_value(types, kind.item, item) for item in value)
    if kind.base in types.structs:
        return _struct(types, kind.base, value)
    if kind.is_integer:
        return _integer(kind.base, value)
    if kind.base == "bool":
        if not isinstance(value, bool):
            raise bad("not true or false")
        return value
    written = text(value, "a value", reason=BAD)
    if kind.base == "string":
        return written
    return _address(written) if kind.base == "address" else _octets(kind.base, written)


def _integer(base: str, value: object) -> int:
    if isinstance(value, str):
        if _DECIMAL.fullmatch(value) is None:
            raise bad("not a decimal number")
        number = int(value)
    elif type(value) is int and abs(value) <= MAX_SAFE_INTEGER:
        number = value
    else:
        raise bad("not a number, or one beyond 2^53-1 that must be text")
    unsigned = base.startswith("u")
    bits = int(base.removeprefix("u").removeprefix("int"))
    low, high = (0, 1 << bits) if unsigned else (-(1 << bits - 1), 1 << bits - 1)
    if not low <= number < high:
        raise bad(f"a number out of the range of {base}")
    return number


def _address(written: str) -> bytes:
    if written == written.lower():
        return address_decode(written, reason=BAD)
    return checksum_decode(written, reason=BAD)


def _octets(base: str, written: str) -> bytes:
    match = _HEX.fullmatch(written)
    if match is None:
        raise bad("not 0x-hex")
    data = bytes.fromhex(match[1])
    size = base.removeprefix("bytes")
    if size and len(data) != int(size):
        raise bad(f"a value of type {base} has another length")
    return data


def _hash_struct(types: TypeSet, name: str, value: Mapping[str, Value]) -> bytes:
    words = [_encode(types, member.kind, value[member.name]) for member in types.structs[name]]
    return keccak256(types.hashes[name] + b"".join(words))


def _encode(types: TypeSet, kind: Kind, value: Value) -> bytes:
    """One 32-byte word (EIP-712 encodeData)."""
    if isinstance(value, tuple):
        return keccak256(b"".join(_encode(types, kind.item, item) for item in value))
    if isinstance(value, Mapping):
        return _hash_struct(types, kind.base, value)
    if isinstance(value, str):
        return keccak256(_utf8(value))
    if isinstance(value, int):  # true and false are 1 and 0
        return value.to_bytes(_WORD, "big", signed=not kind.base.startswith("u") and kind.base != "bool")
    if kind.base == "bytes":
        return keccak256(value)
    return value.rjust(_WORD, b"\0") if kind.base == "address" else value.ljust(_WORD, b"\0")


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        raise KeyServiceError(BAD, "a lone surrogate") from exc
