"""EIP-712 typed data: read by its types alone, hashed as everybody else hashes it."""

import copy
import json
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256
from agentkeys_core.typed_data import TypedData, kind_at
from agentkeys_core.typed_data_types import MAX_MEMBERS, MAX_TYPES, Kind, TypeSet, is_atomic
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases

BAD = "invalid_typed_data"
TOKEN = "0xa797bb8e610a93bc7e82eb7b458371cddd37c080"


def mail() -> dict[str, Any]:
    """The example of EIP-712, its array version."""
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Person": [{"name": "name", "type": "string"}, {"name": "wallets", "type": "address[]"}],
            "Mail": [
                {"name": "from", "type": "Person"},
                {"name": "to", "type": "Person[2]"},
                {"name": "contents", "type": "string"},
                {"name": "weight", "type": "int16"},
                {"name": "matrix", "type": "uint8[2][]"},
                {"name": "seal", "type": "bytes3"},
                {"name": "data", "type": "bytes"},
                {"name": "urgent", "type": "bool"},
            ],
        },
        "primaryType": "Mail",
        "domain": {"name": "Ether Mail", "version": "1", "chainId": 1, "verifyingContract": "0x" + "cC" * 20},
        "message": {
            "from": {"name": "Cow", "wallets": ["0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826", TOKEN]},
            "to": [{"name": "Bob", "wallets": [TOKEN]}, {"name": "Ann", "wallets": []}],
            "contents": "Hello, Bob! é €",
            "weight": -5,
            "matrix": [[1, 2], ["3", 4]],
            "seal": "0xABcdef",
            "data": "0x",
            "urgent": False,
        },
    }


def of_library(obj: Any) -> bytes:
    made = encode_typed_data(full_message=obj)
    return keccak256(b"\x19" + made.version + made.header + made.body)


def lowered() -> dict[str, Any]:
    obj = mail()
    obj["domain"]["verifyingContract"] = obj["domain"]["verifyingContract"].lower()
    return obj


@pytest.mark.parametrize(("found", "expect"), cases("typed_data"))
def test_vectors(found: dict[str, Any], expect: dict[str, Any]) -> None:
    typed = TypedData.parse(found["typed_data"])
    assert typed.types.encode_type() == expect["type"]
    assert typed.type_hash.hex() == expect["type_hash"]
    assert typed.domain_separator.hex() == expect["domain_separator"]
    assert typed.digest.hex() == expect["digest"] == of_library(found["typed_data"]).hex()


@pytest.mark.parametrize(("found", "expect"), cases("negative", "typed_data"))
def test_negative_vectors(found: dict[str, Any], expect: dict[str, Any]) -> None:
    with refused(expect["reason"]):
        TypedData.parse(json.loads(found["json"]))


def test_agrees_with_a_second_implementation() -> None:
    typed = TypedData.parse(lowered())
    assert typed.digest == of_library(lowered())
    assert typed.types.encode_type() == (
        "Mail(Person from,Person[2] to,string contents,int16 weight,uint8[2][] matrix,bytes3 seal,bytes data,bool urgent)"
        "Person(string name,address[] wallets)"
    )


def test_values_at_a_path() -> None:
    typed = TypedData.parse(lowered())
    assert typed.at("from.name") == ("Cow",)
    assert typed.at("to.[].name") == ("Bob", "Ann")
    assert typed.at("matrix.[].[]") == (1, 2, 3, 4)
    assert typed.at("weight") == (-5,)
    for nowhere in ("", "x", "from.x", "to.name", "contents.[]", "matrix.[].[].[]", "from.wallets.[].x"):
        assert typed.at(nowhere) == ()
    assert str(kind_at(typed.types, "to.[].wallets")) == "address[]"
    assert kind_at(typed.types, "to.wallets") is None


def put(path: str, value: Any) -> dict[str, Any]:
    """The example with one place changed; `del` as value removes it."""
    obj = lowered()
    *way, last = path.split("/")
    place: Any = obj
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is del_:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return obj


del_ = object()
PERSON = [{"name": "name", "type": "string"}, {"name": "wallets", "type": "address[]"}]
BENT: dict[str, tuple[str, Any]] = {
    "a member too many at the top": ("extra", 1),
    "no types": ("types", del_),
    "types that are none": ("types", []),
    "no domain type": ("types/EIP712Domain", del_),
    "no primary type": ("primaryType", del_),
    "a primary type that is no text": ("primaryType", 1),
    "a primary type that nobody declared": ("primaryType", "Letter"),
    "the domain as message": ("primaryType", "EIP712Domain"),
    "another struct as primary type": ("primaryType", "Person"),
    "a type that nobody needs": ("types/Spare", PERSON),
    "a type that is not declared": ("types/Person", del_),
    "a struct without members": ("types/Person", []),
    "members that are no list": ("types/Person", {}),
    "a member that is no object": ("types/Person", ["name"]),
    "a member with more than name and type": ("types/Person/0", {"name": "name", "type": "string", "x": 1}),
    "a member without type": ("types/Person/0", {"name": "name"}),
    "a member twice": ("types/Person/1", {"name": "name", "type": "string"}),
    "a member whose name is none": ("types/Person/0/name", "first name"),
    "a member without name": ("types/Person/0/name", ""),
    "a name with a bracket": ("types/Person/0/name", "name,string x"),
    "a struct that contains itself": ("types/Person/1", {"name": "wallets", "type": "Person[]"}),
    "uint": ("types/Mail/3/type", "uint"),
    "int12": ("types/Mail/3/type", "int12"),
    "int0": ("types/Mail/3/type", "int0"),
    "int264": ("types/Mail/3/type", "int264"),
    "bytes0": ("types/Mail/5/type", "bytes0"),
    "bytes33": ("types/Mail/5/type", "bytes33"),
    "bytes03": ("types/Mail/5/type", "bytes03"),
    "a blank in a type": ("types/Mail/5/type", "bytes3 "),
    "an array of length 0": ("types/Mail/2/type", "string[0]"),
    "an array of length 01": ("types/Mail/1/type", "Person[02]"),
    "a negative length": ("types/Mail/1/type", "Person[-2]"),
    "five dimensions": ("types/Mail/2/type", "string[][][][][]"),
    "half a bracket": ("types/Mail/2/type", "string["),
    "domain members out of order": ("types/EIP712Domain", mail()["types"]["EIP712Domain"][::-1]),
    "a domain member of another type": ("types/EIP712Domain/2/type", "uint64"),
    "a domain member that nobody knows": ("types/EIP712Domain/0/name", "title"),
    "a domain without a declared member": ("domain/version", del_),
    "a domain with an undeclared member": ("domain/salt", "0x" + "00" * 32),
    "a domain that is none": ("domain", "x"),
    "the registry's own domain": ("domain/name", "AgentKeys Registry"),
    "no message": ("message", del_),
    "a message that is none": ("message", []),
    "a member missing": ("message/contents", del_),
    "an undeclared member": ("message/cc", "Eve"),
    "an undeclared member inside": ("message/from/age", 1),
    "null for text": ("message/contents", None),
    "null for a struct": ("message/from", None),
    "a number for text": ("message/contents", 1),
    "a lone number for an array": ("message/matrix", 1),
    "an array too short": ("message/to", []),
    "an array too long": ("message/to", [{"name": "x", "wallets": []}] * 3),
    "an inner array too short": ("message/matrix/0", [1]),
    "text for true": ("message/urgent", "true"),
    "1 for true": ("message/urgent", 1),
    "true for a number": ("message/weight", True),
    "a fraction": ("message/weight", 1.0),
    "a number below its range": ("message/weight", -32769),
    "a number above its range": ("message/weight", 32768),
    "minus one for an unsigned number": ("message/matrix/0/0", -1),
    "256 in eight bits": ("message/matrix/0/0", 256),
    "hex for a number": ("message/weight", "0x5"),
    "a plus": ("message/weight", "+5"),
    "a zero before a number": ("message/weight", "05"),
    "minus zero": ("message/weight", "-0"),
    "a blank before a number": ("message/weight", " 5"),
    "other digits": ("message/weight", "\u0665"),
    "an empty number": ("message/weight", ""),
    "a number without end": ("message/weight", "9" * 5000),
    "beyond 2^53 as a number": ("domain/chainId", 2**53),
    "an address with a wrong checksum": ("message/from/wallets/0", "0xcD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"),
    "a short address": ("message/from/wallets/0", "0x00"),
    "an address without 0x": ("message/from/wallets/0", "00" * 20),
    "bytes too short": ("message/seal", "0xabcd"),
    "bytes too long": ("message/seal", "0xabcdef00"),
    "half a byte": ("message/data", "0x0"),
    "bytes that are no hex": ("message/data", "data"),
    "bytes with a blank": ("message/data", "0x 00"),
    "a lone surrogate": ("message/contents", "\ud800"),
}


@pytest.mark.parametrize("case", BENT)
def test_refuses_what_is_not_exactly_typed_data(case: str) -> None:
    with refused(BAD):
        _ = TypedData.parse(put(*BENT[case])).digest


@pytest.mark.parametrize("obj", [None, 1, "x", [], {}, {"types": {}}])
def test_refuses_what_is_no_object(obj: Any) -> None:
    with refused(BAD):
        TypedData.parse(obj)


def test_a_wrong_checksum_of_the_contract_is_refused() -> None:
    with refused(BAD):
        TypedData.parse(mail())


def struct(*kinds: str) -> list[dict[str, str]]:
    return [{"name": f"m{number}", "type": kind} for number, kind in enumerate(kinds)]


def test_many_types_that_refer_to_each_other_are_read_in_no_time() -> None:
    """Each of them reaches the next two: whoever walks every way through them walks for ever."""
    names = [f"T{number:02}" for number in range(MAX_TYPES)]
    declared: dict[str, object] = {name: struct(*names[at + 1 : at + 3] or ["bool"]) for at, name in enumerate(names)}
    assert TypeSet.parse(names[0], declared).encode_type().startswith("T00(T01 m0,T02 m1)T01(")
    with refused(BAD):
        TypeSet.parse(names[0], {**declared, "Spare": struct("bool")})


def test_refuses_loops_and_crowds() -> None:
    for declared in (
        {"A": struct("B"), "B": struct("A")},
        {"A": struct("A[]")},
        {"A": struct(*["bool"] * (MAX_MEMBERS + 1))},
        {"A": struct("uint256"), "uint256": struct("bool")},
    ):
        with refused(BAD):
            TypeSet.parse("A", declared)


def test_types_written_as_text() -> None:
    text = "Order(Item[] items,address buyer)Item(uint256 price)"
    types = TypeSet.of_text(text)
    assert (types.primary, types.encode_type()) == ("Order", text)
    assert types.hashes["Order"] == keccak256(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "A()",
        "A(uint256)",
        "A(uint256  a)",
        "A(uint256 a) ",
        " A(uint256 a)",
        "A(uint256 a,)",
        "A(B b)",
        "A(uint256 a)B(bool b)",
        "A(C c,B b)C(bool c)B(bool b)",
        "A(bool a)A(bool a)",
        "A(uint a)",
        "A(bool a)x",
    ],
)
def test_refuses_text_that_is_no_encoded_type(text: str) -> None:
    with refused(BAD):
        TypeSet.of_text(text)


def test_kinds() -> None:
    assert Kind.parse("a[][3]") == Kind(base="a", sizes=(None, 3))
    assert str(Kind.parse("a[][3]").item) == "a[]"
    assert Kind.parse("uint8").is_integer
    assert not Kind.parse("uint8[]").is_integer
    assert not Kind.parse("uint7").is_integer
    assert not Kind.parse("integer").is_integer
    assert is_atomic("bytes32")
    assert not is_atomic("byte")


# --- any types, any values: the same digest as the library, or a named refusal

ATOMIC = st.sampled_from(
    ["bool", "address", "string", "bytes", "bytes1", "bytes32", "uint8", "uint256", "int8", "int64", "int256"]
)
DIMENSIONS = st.sampled_from(["", "", "[]", "[2]", "[][1]"])


def value_of(draw: st.DrawFn, types: dict[str, Any], kind: str) -> Any:  # noqa: PLR0911  # one return a kind
    if kind.endswith("]"):
        item, _, size = kind[:-1].rpartition("[")
        count = int(size) if size else draw(st.integers(0, 3))
        return [value_of(draw, types, item) for _ in range(count)]
    if kind in types:
        return {member["name"]: value_of(draw, types, member["type"]) for member in types[kind]}
    if kind == "bool":
        return draw(st.booleans())
    if kind == "string":
        return draw(st.text(st.characters(codec="utf-8"), max_size=8))
    if kind == "address":
        return "0x" + draw(st.binary(min_size=20, max_size=20)).hex()
    if kind.startswith("bytes"):
        length = int(kind[5:]) if kind != "bytes" else draw(st.integers(0, 40))
        return "0x" + draw(st.binary(min_size=length, max_size=length)).hex()
    bits = int(kind.lstrip("uint"))
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    number = draw(st.integers(low, high))
    return str(number) if abs(number) >= 2**53 or draw(st.booleans()) else number


@st.composite
def typed(draw: st.DrawFn) -> dict[str, Any]:
    members = st.lists(st.tuples(ATOMIC, DIMENSIONS).map("".join), min_size=1, max_size=4)
    types: dict[str, Any] = {"Inner": struct(*draw(members))}
    types["Outer"] = struct(*draw(members), "Inner" + draw(DIMENSIONS))
    fields = mail()["types"]["EIP712Domain"] + [{"name": "salt", "type": "bytes32"}]
    chosen = draw(st.lists(st.sampled_from(range(5)), min_size=1, unique=True).map(sorted))
    domain = [fields[number] for number in chosen]
    return {
        "types": {"EIP712Domain": domain, **types},
        "primaryType": "Outer",
        "domain": value_of(draw, {"D": domain}, "D"),
        "message": value_of(draw, types, "Outer"),
    }


@given(typed())
def test_any_typed_data_has_the_librarys_digest(obj: dict[str, Any]) -> None:
    assert TypedData.parse(obj).digest == of_library(copy.deepcopy(obj))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = [path for path, _ in BENT.values() if path != "types"] + ["types", "domain/name", "message/to/1", "message"]


@given(path=st.sampled_from(PLACES), value=JSON)
def test_anything_in_any_place_gives_a_digest_or_a_named_refusal(path: str, value: Any) -> None:
    try:
        length = len(TypedData.parse(put(path, value)).digest)
    except KeyServiceError as refusal:
        if refusal.reason is not Reason.INVALID_TYPED_DATA:
            raise
    else:
        assert length == 32


@given(
    st.text(max_size=30)
    | st.from_regex(r"([A-B]\((u?int[0-9]{1,3}|bool|A|B)(\[[0-9]?\])* [a-b]\)){1,2}", fullmatch=True)
)
def test_any_text_is_an_encoded_type_or_a_named_refusal(text: str) -> None:
    try:
        encoded = TypeSet.of_text(text).encode_type()
    except KeyServiceError as refusal:
        if refusal.reason is not Reason.INVALID_TYPED_DATA:
            raise
    else:
        assert encoded == text
