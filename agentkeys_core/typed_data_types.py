"""The types of EIP-712 typed data: read strictly, from JSON declarations or from the text of `encodeType`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from agentkeys_core.encoding import fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256
from agentkeys_core.shapes import sequence, text

MAX_TYPES: Final = 32
MAX_MEMBERS: Final = 64
DOMAIN_TYPE: Final = "EIP712Domain"

BAD: Final = Reason.INVALID_TYPED_DATA
_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,63}")
_ATOMIC: Final = re.compile(r"bool|address|string|bytes|bytes(?:[1-9]|[12][0-9]|3[0-2])|u?int(?P<bits>[1-9][0-9]{0,2})")
_KIND: Final = re.compile(r"(?P<base>[A-Za-z_$][A-Za-z0-9_$]*)(?P<dims>(?:\[(?:[1-9][0-9]{0,3})?\]){0,4})")
_SIZE: Final = re.compile(r"\[([0-9]*)\]")
_STRUCT_TEXT: Final = re.compile(r"([A-Za-z_$][A-Za-z0-9_$]*)\(([^()]*)\)")
#: What a domain may hold, in this order (EIP-712, "Definition of domainSeparator").
_DOMAIN_MEMBERS: Final[Mapping[str, str]] = MappingProxyType(
    {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address", "salt": "bytes32"}
)


def bad(what: str) -> KeyServiceError:
    """The refusal of anything in typed data."""
    return KeyServiceError(BAD, what)


def is_atomic(name: str) -> bool:
    """Tell whether this is a type of EIP-712 itself. `uint` and `int` are none: their hash would be another type's."""
    match = _ATOMIC.fullmatch(name)
    return match is not None and (match["bits"] is None or int(match["bits"]) in range(8, 257, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A member's type: `base` is atomic or a struct; `sizes` are its array brackets as written, None for `[]`."""

    base: str
    sizes: tuple[int | None, ...] = ()

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read e.g. `uint256`, `Person[3][]`. Raises `invalid_typed_data`."""
        match = _KIND.fullmatch(written)
        if match is None:
            raise bad("not a type")
        sizes = tuple(int(size) if size else None for size in _SIZE.findall(match["dims"]))
        return cls(base=match["base"], sizes=sizes)

    def __str__(self) -> str:
        return self.base + "".join(f"[{'' if size is None else size}]" for size in self.sizes)

    @property
    def item(self) -> "Kind":
        """The type of an array's items: without the last bracket."""
        return Kind(base=self.base, sizes=self.sizes[:-1])

    @property
    def is_integer(self) -> bool:
        """Whether a value of it is one number."""
        return not self.sizes and self.base.startswith(("uint", "int")) and is_atomic(self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeMember:
    """One member of a struct."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class TypeSet:
    """A primary type and every struct that it needs, no other and none twice.

    `structs` holds their members in order, `encoded` what EIP-712 calls encodeType, `hashes` the 32-byte type hashes.
    No type contains itself, so that values are finite and every reader agrees on the primary type.
    """

    primary: str
    structs: Mapping[str, tuple[TypeMember, ...]]
    encoded: Mapping[str, str]
    hashes: Mapping[str, bytes]

    @classmethod
    def of(cls, primary: str, structs: Mapping[str, tuple[TypeMember, ...]]) -> Self:
        """Check that the set is complete, without loops and without anything to spare. Raises `invalid_typed_data`."""
        needs: dict[str, frozenset[str]] = {}
        _collect(structs, primary, needs, ())
        if needs.keys() != structs.keys():
            raise bad("a type that the primary type does not need")
        written = {name: _text_of(name, members) for name, members in structs.items()}
        encoded = {name: written[name] + "".join(written[other] for other in sorted(needs[name])) for name in structs}
        hashes = {name: keccak256(words.encode("ascii")) for name, words in encoded.items()}
        return cls(primary, MappingProxyType(dict(structs)), MappingProxyType(encoded), MappingProxyType(hashes))

    @classmethod
    def parse(cls, primary: str, declared: Mapping[str, object]) -> Self:
        """Read the `types` of EIP-712 JSON. Raises `invalid_typed_data`."""
        if len(declared) > MAX_TYPES:
            raise bad(f"more than {MAX_TYPES} types")
        return cls.of(primary, {name: _members(name, listed) for name, listed in declared.items()})

    @classmethod
    def of_text(cls, encoded: str) -> Self:
        """Read the encodeType of a struct, and only its one right form. Raises `invalid_typed_data`."""
        found = _STRUCT_TEXT.findall(encoded)
        if not found:
            raise bad("not an encoded type")
        declared: dict[str, object] = {}
        for name, members in found:
            pairs = [member.partition(" ")[::2] for member in members.split(",")]
            declared[name] = [{"name": member, "type": kind} for kind, member in pairs]
        made = cls.parse(found[0][0], declared)
        if made.encode_type() != encoded:
            raise bad("not the canonical form of an encoded type")
        return made

    def encode_type(self) -> str:
        """EIP-712 encodeType of the primary type."""
        return self.encoded[self.primary]

    def member(self, struct: str, name: str) -> TypeMember | None:
        """A struct's member by name."""
        return next((member for member in self.structs.get(struct, ()) if member.name == name), None)


def _collect(
    structs: Mapping[str, tuple[TypeMember, ...]],
    name: str,
    needs: dict[str, frozenset[str]],
    above: tuple[str, ...],
) -> frozenset[str]:
    """Note in `needs` which other structs each struct reaches; every struct is looked into once."""
    if name in above:
        raise bad("a type that contains itself")
    if name not in structs:
        raise bad("a type that is not declared")
    if name not in needs:
        direct = {member.kind.base for member in structs[name] if not is_atomic(member.kind.base)}
        reached = [_collect(structs, base, needs, (*above, name)) for base in sorted(direct)]
        needs[name] = frozenset(direct).union(*reached)
    return needs[name]


def _text_of(name: str, members: tuple[TypeMember, ...]) -> str:
    return f"{name}({','.join(f'{member.kind} {member.name}' for member in members)})"


def _members(name: str, listed: object) -> tuple[TypeMember, ...]:
    if _NAME.fullmatch(name) is None or is_atomic(name):
        raise bad("not a name for a struct")
    found = []
    for item in sequence(listed, "the members of a type", reason=BAD):
        members = fields(item, required=("name", "type"), reason=BAD, unknown=BAD)
        member = text(members["name"], "name", reason=BAD)
        if _NAME.fullmatch(member) is None:
            raise bad("not a name for a member")
        found.append(TypeMember(name=member, kind=Kind.parse(text(members["type"], "type", reason=BAD))))
    if not 1 <= len(found) <= MAX_MEMBERS:
        raise bad(f"a type has 1 to {MAX_MEMBERS} members")
    if len({member.name for member in found}) != len(found):
        raise bad("a member is declared twice")
    return tuple(found)


def check_domain_type(domain: TypeSet) -> None:
    """Pass a domain type of the members that EIP-712 knows, in its order: wallets differ about any other."""
    known = list(_DOMAIN_MEMBERS.items())
    declared = [(member.name, str(member.kind)) for member in domain.structs[DOMAIN_TYPE]]
    if declared != [member for member in known if member in declared]:
        raise bad("not a domain that EIP-712 describes")
