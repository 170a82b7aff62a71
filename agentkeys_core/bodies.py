"""What a request commits to (its canonical body) and what is sealed as answer to it (wire.md, Capability request)."""

from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import (
    MAX_SAFE_INTEGER,
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_decode,
    parse_canonical,
)
from agentkeys_core.envelope import ObjectPlaintext
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.shapes import integer, sequence, text

MAX_BODY_BYTES: Final = 1024 * 1024
#: A thousand rows of the usual size fit many times over.
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_LIMIT: Final = 1000
BLIND_BYTES: Final = 32

#: The body of fetch, get and delete.
EMPTY_BODY: Final = b"{}"

_BODY: Final = Reason.INVALID_BODY
_ANSWER: Final = Reason.INVALID_ENCODING


def request_hash(body: bytes) -> bytes:
    """Return what the request carries of its canonical body: SHA-256, 32 bytes."""
    return sha256(body)


def _body(data: bytes, *names: str) -> dict[str, object]:
    value = parse_canonical(data, limit=MAX_BODY_BYTES, not_canonical=_BODY, not_utf8=_BODY)
    return fields(value, required=names, reason=_BODY, unknown=_BODY)


def _limit(members: dict[str, object]) -> int:
    return integer(members["limit"], "limit", low=1, high=MAX_LIMIT, reason=_BODY)


def _answer(data: bytes, *names: str) -> dict[str, object]:
    return fields(parse_canonical(data, limit=MAX_ANSWER_BYTES, not_canonical=_ANSWER), required=names, reason=_ANSWER)


def _within(encoded: bytes) -> bytes:
    if len(encoded) > MAX_BODY_BYTES:
        raise KeyServiceError(Reason.TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes")
    return encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBody:
    """Body of store and put. `value` is the secret itself, so it never prints.

    `blind`: 32 random bytes, so that `request_hash` tells nothing about the value. `expect`: the cap digest (32 bytes)
    of the store that this one replaces, None where it must replace nothing.
    """

    blind: bytes
    expect: bytes | None
    value: bytes

    def __repr__(self) -> str:
        return "<StoreBody>"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical body; `too_large` over 1 MiB, else `invalid_body`."""
        members = _body(data, "blind", "expect", "value")
        expect = members["expect"]
        return cls(
            blind=b64u_decode(members["blind"], length=BLIND_BYTES, reason=_BODY),
            expect=None if expect is None else hex_decode(expect, length=32, reason=_BODY),
            value=b64u_decode(members["value"], reason=_BODY),
        )

    def encode(self) -> bytes:
        """Return the canonical body; `too_large` over 1 MiB."""
        return _within(
            canonical_json(
                {
                    "blind": b64u_encode(self.blind),
                    "expect": None if self.expect is None else self.expect.hex(),
                    "value": b64u_encode(self.value),
                }
            )
        )


def check_empty_body(data: bytes) -> None:
    """Pass the body of fetch, get and delete; `too_large` over 1 MiB, `invalid_body` for any other."""
    _body(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListBody:
    """Body of the list operations: names after `after` (None: from the first), at most `limit` (1…1000)."""

    after: str | None
    limit: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical body; `too_large` over 1 MiB, else `invalid_body`."""
        members = _body(data, "after", "limit")
        after = members["after"]
        return cls(after=None if after is None else text(after, "after", reason=_BODY), limit=_limit(members))

    def encode(self) -> bytes:
        """Return the canonical body."""
        return _within(canonical_json({"after": self.after, "limit": self.limit}))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditListBody:
    """Body of audit-list: rows after sequence number `after` (None: from the first), at most `limit` (1…1000)."""

    after: int | None
    limit: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical body; `too_large` over 1 MiB, else `invalid_body`."""
        members = _body(data, "after", "limit")
        after = members["after"]
        return cls(after=None if after is None else integer(after, "after", reason=_BODY), limit=_limit(members))

    def encode(self) -> bytes:
        """Return the canonical body."""
        return canonical_json({"after": self.after, "limit": self.limit})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAnswer:
    """Answer to store and put: the hash (32 bytes) of the signed row."""

    row_hash: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the plaintext; `unknown_fields`, `too_large` or `invalid_encoding`."""
        return cls(row_hash=_done(data, "stored"))

    def encode(self) -> bytes:
        """Return the plaintext to be sealed."""
        return canonical_json({"row_hash": self.row_hash.hex(), "stored": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteAnswer:
    """Answer to a delete: the hash (32 bytes) of the signed row."""

    row_hash: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the plaintext; `unknown_fields`, `too_large` or `invalid_encoding`."""
        return cls(row_hash=_done(data, "deleted"))

    def encode(self) -> bytes:
        """Return the plaintext to be sealed."""
        return canonical_json({"deleted": True, "row_hash": self.row_hash.hex()})


def _done(data: bytes, word: str) -> bytes:
    members = _answer(data, "row_hash", word)
    if members[word] is not True:
        raise KeyServiceError(_ANSWER, f"{word} is not true")
    return hex_decode(members["row_hash"], length=32, reason=_ANSWER)


#: Answer to fetch and get: the very bytes inside the envelope, body and signed row of the store.
FetchAnswer = ObjectPlaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedName:
    """One name of a list (what follows the colon) and the cap digest (32 bytes) of its current store."""

    name: str
    store: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAnswer:
    """Answer to the list operations; `next` is the `after` of the next page, None on the last."""

    names: tuple[ListedName, ...]
    next: str | None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the plaintext; `unknown_fields`, `too_large` or `invalid_encoding`."""
        members = _answer(data, "names", "next")
        following = members["next"]
        return cls(
            names=tuple(_listed(item) for item in sequence(members["names"], "names", reason=_ANSWER)),
            next=None if following is None else text(following, "next", reason=_ANSWER),
        )

    def encode(self) -> bytes:
        """Return the plaintext to be sealed."""
        names = [{"name": item.name, "store": item.store.hex()} for item in self.names]
        return canonical_json({"names": names, "next": self.next})


def _listed(obj: object) -> ListedName:
    members = fields(obj, required=("name", "store"), reason=_ANSWER)
    return ListedName(
        name=text(members["name"], "name", reason=_ANSWER),
        store=hex_decode(members["store"], length=32, reason=_ANSWER),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditAnswer:
    """Answer to audit-list: rows as signed; `next` is the `after` of the next page, None on the last."""

    rows: tuple[AuditRow, ...]
    next: int | None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the plaintext, rows unverified; `unknown_fields`, `too_large` or `invalid_encoding`."""
        members = _answer(data, "next", "rows")
        following = members["next"]
        return cls(
            rows=tuple(AuditRow.from_json(item) for item in sequence(members["rows"], "rows", reason=_ANSWER)),
            next=None if following is None else integer(following, "next", high=MAX_SAFE_INTEGER, reason=_ANSWER),
        )

    def encode(self) -> bytes:
        """Return the plaintext to be sealed."""
        return canonical_json({"next": self.next, "rows": [row.to_json() for row in self.rows]})
