"""The one encoder and the strict decoders of everything textual: base64url, hex, addresses, JSON (wire.md)."""

import binascii
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Never

import orjson

from agentkeys_core.errors import KeyServiceError, Reason

MAX_DEPTH: Final = 32
MAX_SAFE_INTEGER: Final = 2**53 - 1
ADDRESS_BYTES: Final = 20

_SORTED: Final = orjson.OPT_SORT_KEYS
_UNSURE: Final = object()
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
#: The letters that only the standard alphabet has become one that decodes to nothing, and so does not come back.
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/!!")


def b64u_encode(data: bytes) -> str:
    """Encode as base64url without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def b64u_decode(text: object, *, length: int | None = None, reason: Reason = Reason.INVALID_ENCODING) -> bytes:
    """Decode base64url without padding, where only one text stands for each byte string.

    Raises:
        KeyServiceError: `reason` for anything else: not text, padding, loose last bits, the standard alphabet, blanks,
            or a length in bytes other than `length`.
    """
    if not isinstance(text, str):
        raise KeyServiceError(reason, "not text")
    try:
        raw = text.encode("ascii").translate(_FROM_URL)
        data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
    except ValueError as exc:
        raise KeyServiceError(reason, "not base64url") from exc
    # The library skips foreign characters and loose bits; only the one right text survives the way back.
    if binascii.b2a_base64(data, newline=False).rstrip(b"=") != raw:
        raise KeyServiceError(reason, "not strict base64url")
    if length is not None and len(data) != length:
        raise KeyServiceError(reason, f"{len(data)} bytes instead of {length}")
    return data


def hex_encode(data: bytes) -> str:
    """Encode as lower-case hex without 0x."""
    return data.hex()


def hex_decode(text: object, *, length: int | None = None, reason: Reason = Reason.INVALID_ENCODING) -> bytes:
    """Decode lower-case hex without 0x.

    Raises:
        KeyServiceError: `reason` for anything else, or a length in bytes other than `length`.
    """
    if not isinstance(text, str):
        raise KeyServiceError(reason, "not text")
    try:
        data = bytes.fromhex(text)
    except ValueError as exc:
        raise KeyServiceError(reason, "not hex") from exc
    if data.hex() != text:  # fromhex takes blanks and capitals
        raise KeyServiceError(reason, "not lower-case hex")
    if length is not None and len(data) != length:
        raise KeyServiceError(reason, f"{len(data)} bytes instead of {length}")
    return data


def address_encode(address: bytes) -> str:
    """Write 20 address bytes as `0x` and 40 lower-case hex digits."""
    return "0x" + address.hex()


def address_decode(text: object, *, reason: Reason = Reason.INVALID_ENCODING) -> bytes:
    """Read `0x` and 40 lower-case hex digits as 20 bytes; `reason` for anything else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise KeyServiceError(reason, "not an address")
    return hex_decode(text[2:], length=ADDRESS_BYTES, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What JSON bytes parse to, and whether they are the RFC 8785 form of that."""

    value: object
    canonical: bool


class _Lax:
    """Collects what the grammar allows but the canonical form does not, while the parser runs."""

    __slots__ = ("duplicates", "numbers")

    def __init__(self) -> None:
        self.duplicates = False
        self.numbers = False

    def pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        self.duplicates |= len(found) != len(pairs)
        return found

    def integer(self, text: str) -> int:
        self.numbers |= text == "-0"
        return int(text)

    def fraction(self, text: str) -> float:
        self.numbers = True
        return float(text)


def _no_constant(text: str) -> Never:
    # NaN and Infinity are no JSON, though the standard library reads them.
    raise ValueError(text)


_BRACKETS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def _too_deep(text: str) -> bool:
    """Tell whether brackets outside strings nest beyond MAX_DEPTH, without recursion."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        found = match.group()
        if found in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif found in "]}":
            depth -= 1
    return False


def _flat_enough(value: object, depth: int = 0) -> bool:  # noqa: PLR0911  # a flat list of cases, walked for each cap
    """Tell whether orjson's sorted output of this value is its RFC 8785 form, and within MAX_DEPTH.

    True for ASCII names (so byte order is UTF-16 order), texts, plain integers, booleans and nulls.
    """
    kind = type(value)
    if kind is str or kind is int or value is None or kind is bool:
        return True
    if depth >= MAX_DEPTH:
        return False
    if isinstance(value, dict):
        for name, item in value.items():
            if type(name) is not str or not name.isascii() or not _flat_enough(item, depth + 1):
                return False
        return True
    if isinstance(value, list):
        for item in value:  # noqa: SIM110  # a generator costs more than the whole walk
            if not _flat_enough(item, depth + 1):
                return False
        return True
    return False


def _utf16(item: tuple[str, object]) -> bytes:
    return item[0].encode("utf-16-be", "surrogatepass")


def _ordered(value: object, depth: int = 0) -> object:
    """Copy with names in UTF-16 order; ValueError for what has no canonical form here."""
    if value is None or type(value) in (str, int, bool):
        return value
    if depth >= MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        if not all(type(name) is str for name in value):
            raise ValueError("a name that is not text")
        return {name: _ordered(item, depth + 1) for name, item in sorted(value.items(), key=_utf16)}
    if isinstance(value, (list, tuple)):
        return [_ordered(item, depth + 1) for item in value]
    raise ValueError("a value that has no canonical form")


def _encode_any(value: object) -> bytes:
    """RFC 8785 with integers of any size written plainly; ValueError where there is no such form."""
    # With ensure_ascii off the standard library escapes exactly what RFC 8785 escapes, in the same way.
    text = json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def canonical_json(value: object) -> bytes:
    """Encode as RFC 8785: texts, integers within 2^53-1 either side, booleans, nulls, lists, objects.

    Raises:
        KeyServiceError: `invalid_encoding` for floats, larger integers, lone surrogates, other types or depth over 32.
    """
    try:
        if _flat_enough(value):
            encoded = orjson.dumps(value, option=_SORTED | orjson.OPT_STRICT_INTEGER)
        else:
            _check_integers(value)
            encoded = _encode_any(value)
    except (ValueError, TypeError) as exc:  # UnicodeEncodeError is a ValueError
        raise KeyServiceError(Reason.INVALID_ENCODING, "no canonical form") from exc
    return encoded


def _check_integers(value: object) -> None:
    """Raise ValueError for an integer that RFC 8785 readers cannot hold exactly."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, int) and abs(item) > MAX_SAFE_INTEGER:
            raise ValueError("integer out of range")
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)


def _read_fast(data: bytes) -> object:
    """Return the value of canonical bytes, or _UNSURE where only the slow reader can judge."""
    try:
        value = orjson.loads(data)
        # orjson turns integers beyond 64 bits into floats, which never encode back to plain digits.
        if _flat_enough(value) and orjson.dumps(value, option=_SORTED) == data:
            return value
    except ValueError:
        pass
    return _UNSURE


def _reading(data: bytes, *, limit: int, unparsable: Reason, not_utf8: Reason) -> tuple[object, str, _Lax]:
    if len(data) > limit:
        raise KeyServiceError(Reason.TOO_LARGE, f"{len(data)} bytes, at most {limit}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise KeyServiceError(not_utf8, "not UTF-8") from exc
    if _too_deep(text):
        raise KeyServiceError(unparsable, f"nested deeper than {MAX_DEPTH} levels")
    lax = _Lax()
    try:
        value = json.loads(
            text,
            object_pairs_hook=lax.pairs,
            parse_int=lax.integer,
            parse_float=lax.fraction,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as exc:
        raise KeyServiceError(unparsable, "not JSON") from exc
    return value, text, lax


def read_json(data: bytes, *, limit: int, unparsable: Reason, not_utf8: Reason = Reason.INVALID_ENCODING) -> Reading:
    """Parse JSON bytes and judge whether they are canonical, for callers that decide something in between.

    Raises:
        KeyServiceError: in this order `too_large` over `limit` bytes, `not_utf8`, `unparsable` (also beyond 32 levels).
    """
    value, _, lax = _reading(data, limit=limit, unparsable=unparsable, not_utf8=not_utf8)
    if lax.duplicates or lax.numbers:
        return Reading(value=value, canonical=False)
    try:
        return Reading(value=value, canonical=_encode_any(value) == data)
    except ValueError:  # lone surrogates
        return Reading(value=value, canonical=False)


def parse_canonical(
    data: bytes, *, limit: int, not_canonical: Reason, not_utf8: Reason = Reason.INVALID_ENCODING
) -> object:
    """Parse bytes that are the RFC 8785 form of what they parse to, numbers being plain integers of any size.

    Raises:
        KeyServiceError: in this order `too_large` over `limit` bytes, `not_utf8`, `not_canonical`.
    """
    if len(data) <= limit:
        value = _read_fast(data)
        if value is not _UNSURE:
            return value
    reading = read_json(data, limit=limit, unparsable=not_canonical, not_utf8=not_utf8)
    if not reading.canonical:
        raise KeyServiceError(not_canonical, "not the canonical form of what it says")
    return reading.value


def strict_json(data: bytes, *, limit: int, reason: Reason) -> object:
    """Parse JSON in any spacing and order, but with one meaning only (bodies of HTTP requests, key files).

    Raises:
        KeyServiceError: `too_large` over `limit` bytes; `reason` for bytes that are not UTF-8 or not JSON, duplicate
            names, numbers that are not plain integers, lone surrogates, more than 32 levels.
    """
    value, text, lax = _reading(data, limit=limit, unparsable=reason, not_utf8=reason)
    if lax.duplicates:
        raise KeyServiceError(reason, "a name stands twice")
    if lax.numbers:
        raise KeyServiceError(reason, "a number that is not a plain integer")
    if "\\u" in text and not _encodes(value):
        raise KeyServiceError(reason, "a lone surrogate")
    return value


def _encodes(value: object) -> bool:
    try:
        _encode_any(value)
    except ValueError:
        return False
    return True


def fields(
    obj: object,
    *,
    required: Collection[str],
    optional: Collection[str] = (),
    reason: Reason,
    unknown: Reason = Reason.UNKNOWN_FIELDS,
) -> dict[str, object]:
    """Return the object's members, after all `required` names and no others but `optional` were found.

    Raises:
        KeyServiceError: `reason` where it is no object, `unknown` for a name not listed, `reason` for a missing one.
    """
    if not isinstance(obj, dict):
        raise KeyServiceError(reason, "not an object")
    for name in obj:
        if name not in required and name not in optional:
            raise KeyServiceError(unknown, "a name that is not known here")
    for name in required:
        if name not in obj:
            raise KeyServiceError(reason, "a name is missing")
    return obj
