import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import (
    MAX_SAFE_INTEGER,
    address_decode,
    address_encode,
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_decode,
    hex_encode,
    parse_canonical,
    read_json,
    strict_json,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases

NON_CANONICAL = Reason.NON_CANONICAL_CAP
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SAFE = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | SAFE | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def parse(data: Any) -> Any:
    return parse_canonical(data, limit=4096, not_canonical=NON_CANONICAL)


@given(st.binary(max_size=100))
def test_b64u_has_one_text_for_each_byte_string(data: Any) -> None:
    text = b64u_encode(data)
    assert b64u_decode(text) == data
    assert "=" not in text


@pytest.mark.parametrize(
    "text", ["AA==", "AA=", "AB", "+/8A", "A A", "AA\n", "A", "AAAAA", "é", "AA!", "=", None, 7, b"AA", "\ud800"]
)
def test_b64u_refuses_every_other_text(text: Any) -> None:
    with refused("invalid_encoding"):
        b64u_decode(text)


def test_b64u_checks_the_length_in_bytes_and_takes_the_reason_of_its_caller() -> None:
    assert b64u_decode("AAAA", length=3) == bytes(3)
    with refused("invalid_body"):
        b64u_decode("AAAA", length=4, reason=Reason.INVALID_BODY)


@pytest.mark.parametrize("text", ["AB", "0x00", "0", " 00", "00 ", "0 0", "00\n", "zz", None, 0, b"00", "\u0660\u0660"])
def test_hex_is_lower_case_pairs_and_nothing_else(text: Any) -> None:
    with refused("invalid_encoding"):
        hex_decode(text)


def test_hex_goes_both_ways_and_checks_the_length() -> None:
    assert hex_decode(hex_encode(b"\x00\xff"), length=2) == b"\x00\xff"
    with refused("invalid_omni"):
        hex_decode("00ff", length=3, reason=Reason.INVALID_OMNI)


@pytest.mark.parametrize("text", ["", "0x", "00" * 20, "0X" + "00" * 20, "0x" + "AB" * 20, "0x" + "00" * 19, None])
def test_addresses_are_0x_and_forty_lower_case_digits(text: Any) -> None:
    with refused("invalid_encoding"):
        address_decode(text)


def test_addresses_go_both_ways() -> None:
    assert address_decode(address_encode(bytes(range(20)))) == bytes(range(20))


@pytest.mark.parametrize(("given_", "expect"), cases("request_body"))
def test_bodies_of_the_vectors_have_their_canonical_form(given_: Any, expect: Any) -> None:
    value = strict_json(given_["json"].encode(), limit=65536, reason=Reason.INVALID_BODY)
    encoded = canonical_json(value)
    assert encoded == bytes.fromhex(expect["canonical_hex"])
    assert encoded == expect["canonical"].encode()
    assert b64u_encode(sha256(encoded)) == expect["request_hash"]
    assert parse_canonical(encoded, limit=65536, not_canonical=NON_CANONICAL) == value


@given(VALUES)
def test_canonical_form_agrees_with_another_implementation(value: Any) -> None:
    encoded = canonical_json(value)
    assert encoded == rfc8785.dumps(value)
    assert parse(encoded) == value if len(encoded) <= 4096 else True


@given(VALUES, st.integers(0, 3))
def test_only_the_canonical_form_of_a_value_parses(value: Any, indent: Any) -> None:
    loose = json.dumps(value, indent=indent).encode()
    if len(loose) > 4096 or len(canonical_json(value)) > 4096:
        return
    if loose == canonical_json(value):
        assert parse(loose) == value
    else:
        with refused("non_canonical_cap"):
            parse(loose)
    assert strict_json(loose, limit=4096, reason=NON_CANONICAL) == value


def test_names_are_ordered_by_utf16_units() -> None:
    value = {"\U00010000": 1, "\uffff": 2}
    assert list(json.loads(canonical_json(value))) == ["\U00010000", "\uffff"]
    assert parse(canonical_json(value)) == value


@pytest.mark.parametrize("value", [1.0, MAX_SAFE_INTEGER + 1, -(2**70), "\ud800", {"\ud800": 1}, {1: 2}, b"", object()])
def test_values_without_canonical_form_are_refused(value: Any) -> None:
    with refused("invalid_encoding"):
        canonical_json(value)
    with refused("invalid_encoding"):
        canonical_json({"é": [value]})


def nested(levels: Any) -> Any:
    return b"[" * levels + b"]" * levels


def test_thirty_two_levels_are_the_limit_both_ways() -> None:
    assert parse(nested(32))
    with refused("non_canonical_cap"):
        parse(nested(33))
    with refused("invalid_body"):
        strict_json(nested(33), limit=4096, reason=Reason.INVALID_BODY)
    value = parse(nested(32))
    with refused("invalid_encoding"):
        canonical_json([value])
    with refused("invalid_encoding"):
        canonical_json({"é": value})


def test_brackets_inside_texts_do_not_nest() -> None:
    text = '"' + "[" * 40 + '\\"' + "{" * 40 + '"'
    assert strict_json(text.encode(), limit=4096, reason=NON_CANONICAL) == "[" * 40 + '"' + "{" * 40


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{} ", b"\xef\xbb\xbf{}", b'{"b":1,"a":2}', b'{"a":1,"a":1}', b"1.0", b"1e0", b"-0", b"1e+21", b"NaN"),
        *(b"01", b'"\\u0041"', b'"\\/"', b'"\\ud800"', b'"\\u001F"', b"[1,]", b"nul", b"{}{}", b"-", b"[-0]"),
        *(b'{"a":-0}', b"1.5", b"1e400", b"Infinity", b"9" * 5000, b"[" * 5000, b'{"a":{"b":1,"b":1}}', b"{}\x00"),
    ],
)
def test_bytes_that_are_not_their_own_canonical_form_are_refused(data: Any) -> None:
    with refused("non_canonical_cap"):
        parse_canonical(data, limit=8192, not_canonical=NON_CANONICAL)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64, 10**25, -(10**25)])
def test_plain_integers_of_any_size_are_canonical(number: Any) -> None:
    assert parse(str(number).encode()) == number


def test_size_is_judged_before_utf8_before_form() -> None:
    with refused("too_large"):
        parse_canonical(b"\xff" * 5, limit=4, not_canonical=NON_CANONICAL)
    with refused("invalid_encoding"):
        parse_canonical(b"[\xff", limit=4, not_canonical=NON_CANONICAL)
    with refused("invalid_body"):
        parse_canonical(b"[\xff", limit=4, not_canonical=NON_CANONICAL, not_utf8=Reason.INVALID_BODY)
    with refused("too_large"):
        parse_canonical(b"[1,2]", limit=4, not_canonical=NON_CANONICAL)


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":2}', b"1.0", b"1e3", b"-0", b"NaN", b'"\\ud800"', b'{"\\udfff":1}', b"\xff", b"", b"{}{}", b"1e999"],
)
def test_strict_json_has_one_meaning_only(data: Any) -> None:
    with refused("invalid_body"):
        strict_json(data, limit=100, reason=Reason.INVALID_BODY)


def test_strict_json_takes_any_spacing_and_order() -> None:
    assert strict_json(b' {"b": 1,\n"a": "\\u00e9"} ', limit=100, reason=Reason.INVALID_BODY) == {"b": 1, "a": "é"}
    with refused("too_large"):
        strict_json(b"[1,2]", limit=4, reason=Reason.INVALID_BODY)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_value_or_a_named_reason(data: Any) -> None:
    for reader in (
        parse,
        lambda raw: strict_json(raw, limit=50, reason=Reason.INVALID_BODY),
        lambda raw: read_json(raw, limit=50, unparsable=NON_CANONICAL),
    ):
        try:
            reader(data)
        except KeyServiceError as exc:
            assert isinstance(exc.reason, Reason)  # noqa: PT017


def test_fields_name_the_first_fault_in_order() -> None:
    assert fields({"a": 1}, required=("a",), optional=("b",), reason=Reason.INVALID_CAP) == {"a": 1}
    assert fields({"a": 1, "b": 2}, required=("a",), optional=("b",), reason=Reason.INVALID_CAP) == {"a": 1, "b": 2}
    with refused("invalid_cap"):
        fields([], required=(), reason=Reason.INVALID_CAP)
    with refused("unknown_fields"):
        fields({"z": 1}, required=("a",), reason=Reason.INVALID_CAP)
    with refused("invalid_body"):
        fields({"a": 1, "z": 1}, required=("a",), reason=Reason.INVALID_CAP, unknown=Reason.INVALID_BODY)
    with refused("invalid_cap"):
        fields({}, required=("a",), reason=Reason.INVALID_CAP)
