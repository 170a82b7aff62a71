"""EIP-712 typed data as the backend reads it: everything by its declared type, nothing besides."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eth_utils.address import is_checksum_address

from agentkeys_core.errors import Reason
from tests.conformance.backend.refused import refusal, refuse

REGISTRY: Final = "AgentKeys Registry"
SAFE: Final = 2**53 - 1
_BAD: Final = Reason.INVALID_TYPED_DATA
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,77}")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_INTEGER: Final = re.compile(r"(?P<sign>u?)int(?P<bits>[0-9]+)")
_DOMAIN: Final = ("name", "version", "chainId", "verifyingContract", "salt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """What was read: `type` as EIP-712 writes it, values by member."""

    type: str
    domain: Mapping[str, Any]
    message: Mapping[str, Any]


def read(document: Any) -> Typed:
    """Read flat typed data (this backend's policies name no type with structs inside). Refuses `invalid_typed_data`."""
    if not isinstance(document, dict) or set(document) != {"types", "primaryType", "domain", "message"}:
        refuse(_BAD)
    types, primary = document["types"], document["primaryType"]
    if not isinstance(types, dict) or primary == "EIP712Domain" or set(types) != {"EIP712Domain", primary}:
        refuse(_BAD)
    domain_type, declared = _members(types["EIP712Domain"]), _members(types[primary])
    if list(domain_type) != [name for name in _DOMAIN if name in domain_type]:
        refuse(_BAD)
    domain = _values(domain_type, document["domain"])
    if domain.get("name") == REGISTRY:
        refuse(_BAD)
    listed = ",".join(f"{kind} {name}" for name, kind in declared.items())
    return Typed(type=f"{primary}({listed})", domain=domain, message=_values(declared, document["message"]))


def _members(declared: Any) -> dict[str, str]:
    if not isinstance(declared, list) or not all(
        isinstance(member, dict) and set(member) == {"name", "type"} for member in declared
    ):
        refuse(_BAD)
    found = {member["name"]: member["type"] for member in declared}
    if len(found) != len(declared) or not found:
        refuse(_BAD)
    return found


def _values(declared: Mapping[str, str], given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) != set(declared):
        refuse(_BAD)
    return {name: _value(kind, given[name]) for name, kind in declared.items()}


def _value(kind: str, value: Any) -> Any:
    integer = _INTEGER.fullmatch(kind)
    if integer is not None:
        return _number(integer, value)
    match kind:
        case "string" if isinstance(value, str):
            return value
        case "bool" if isinstance(value, bool):
            return value
        case "address" if isinstance(value, str) and _ADDRESS.fullmatch(value):
            if value != value.lower() and not is_checksum_address(value):
                refuse(_BAD)
            return value.lower()
        case "bytes32" if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{64}", value):
            return value.lower()
        case _:
            raise refusal(_BAD)


def _number(kind: re.Match[str], value: Any) -> int:
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            refuse(_BAD)
        value = int(value)
    elif type(value) is not int or abs(value) > SAFE:
        refuse(_BAD)
    bits, unsigned = int(kind["bits"]), bool(kind["sign"])
    low, high = (0, 1 << bits) if unsigned else (-(1 << bits - 1), 1 << bits - 1)
    if not low <= value < high:
        refuse(_BAD)
    return int(value)
