"""Sign-In with Ethereum: the one strict reading of an EIP-4361 message.

A message is accepted only if `encode` gives back the very text, so nothing stands in it that was not understood. Time
and policy are not judged here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from agentkeys_core import uri as rfc3986
from agentkeys_core.checksum import checksum_decode, checksum_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_PORT, RP_ID

#: Far above what relying parties send; a cap's body could be a hundred times as long.
MAX_MESSAGE_BYTES: Final = 8192
MAX_RESOURCES: Final = 64
MAX_CHAIN_ID: Final = 2**256 - 1

#: What the resource of a sign-in at a broker begins with. Managed wallets sign nothing of this scheme.
_DEVICE_RESOURCE: Final = "agentkeys:device:"

#: The domain of a message that a device's own page has the user's wallet sign: the one port that is K11's as well.
#: Wallets warn of a message that names another site than the one which asks (EIP-4361, "Verifying domain binding").
DEVICE_PAGE: Final = f"{RP_ID}:{K11_PORT}"

_BAD: Final = Reason.INVALID_SIWE
_WANTS: Final = " wants you to sign in with your Ethereum account:"
_VERSION: Final = "1"
_STATEMENT: Final = re.compile(r"[A-Za-z0-9 ._~:/?#\[\]@!$&'()*+,;=-]+")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,77}")
_NONCE: Final = re.compile(r"[A-Za-z0-9]{8,}")
_CLOCK: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_DATE_TIME: Final = re.compile(
    rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[Tt]({_CLOCK}:[0-5][0-9])(\.[0-9]+)?([Zz]|[+-]{_CLOCK})"
)


def device_resource(device_key_hash: bytes) -> str:
    """The resource by which a sign-in at a broker names its device (key hash, 32 bytes)."""
    return _DEVICE_RESOURCE + device_key_hash.hex()


def _bad(what: str) -> KeyServiceError:
    return KeyServiceError(_BAD, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """A moment as the message writes it (RFC 3339), and the same in Unix seconds."""

    text: str
    unix: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an RFC 3339 date-time; `invalid_siwe` for any other text, leap seconds included."""
        match = _DATE_TIME.fullmatch(text)
        if match is None:
            raise _bad("not an RFC 3339 time")
        date, time, fraction, offset = match.groups()
        zone = "+00:00" if offset in "Zz" else offset
        try:
            unix = datetime.fromisoformat(f"{date}T{time}{(fraction or '')[:7]}{zone}").timestamp()
        except (ValueError, OverflowError) as exc:
            raise _bad("no such time") from exc
        return cls(text=text, unix=unix)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiweMessage:
    """The members of an EIP-4361 message; `address` has 20 bytes, every text is as it stands in the message."""

    domain: str
    address: bytes
    uri: str
    chain_id: int
    nonce: str
    issued_at: Instant
    scheme: str | None = None
    statement: str | None = None
    expiration_time: Instant | None = None
    not_before: Instant | None = None
    request_id: str | None = None
    resources: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a message. Raises `invalid_siwe` for anything that is not exactly one, `too_large` over 8 KiB."""
        if len(text) > MAX_MESSAGE_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        if not text.isascii():
            raise _bad("not ASCII")
        lines = _Lines(text)
        scheme, domain = _origin(lines.take())
        address = checksum_decode(lines.take(), reason=_BAD)
        lines.empty()
        statement = lines.take_statement()
        lines.empty()
        uri = _checked(lines.tagged("URI: "), rfc3986.is_uri, "URI")
        _checked(lines.tagged("Version: "), _VERSION.__eq__, "version")
        chain_id = int(_checked(lines.tagged("Chain ID: "), _matches(_NUMBER), "chain id"))
        message = cls(
            domain=domain,
            address=address,
            uri=uri,
            chain_id=chain_id,
            nonce=_checked(lines.tagged("Nonce: "), _matches(_NONCE), "nonce"),
            issued_at=Instant.parse(lines.tagged("Issued At: ")),
            scheme=scheme,
            statement=statement,
            expiration_time=_instant(lines.optional("Expiration Time: ")),
            not_before=_instant(lines.optional("Not Before: ")),
            request_id=lines.optional("Request ID: "),
            resources=lines.resources(),
        )
        message._check()
        if message.encode() != text:
            raise _bad("something stands in the message that is not part of one")
        return message

    @classmethod
    def compose(
        cls,
        *,
        domain: str,
        address: bytes,
        uri: str,
        chain_id: int,
        nonce: str,
        issued_at: str,
        expiration_time: str,
        statement: str | None = None,
        resources: tuple[str, ...] | None = None,
    ) -> Self:
        """Make a message from its members; raises as `parse` where they make none."""
        made = cls(
            domain=domain,
            address=address,
            uri=uri,
            chain_id=chain_id,
            nonce=nonce,
            issued_at=Instant.parse(issued_at),
            expiration_time=Instant.parse(expiration_time),
            statement=statement,
            resources=resources,
        )
        return cls.parse(made.encode())

    def encode(self) -> str:
        """The text of the message, without a newline at its end."""
        lines = [
            ("" if self.scheme is None else f"{self.scheme}://") + self.domain + _WANTS,
            checksum_encode(self.address),
            "",
            *([] if self.statement is None else [self.statement]),
            "",
            f"URI: {self.uri}",
            f"Version: {_VERSION}",
            f"Chain ID: {self.chain_id}",
            f"Nonce: {self.nonce}",
            f"Issued At: {self.issued_at.text}",
        ]
        if self.expiration_time is not None:
            lines.append(f"Expiration Time: {self.expiration_time.text}")
        if self.not_before is not None:
            lines.append(f"Not Before: {self.not_before.text}")
        if self.request_id is not None:
            lines.append(f"Request ID: {self.request_id}")
        if self.resources is not None:
            lines += ["Resources:", *(f"- {resource}" for resource in self.resources)]
        return "\n".join(lines)

    def _check(self) -> None:
        if self.chain_id > MAX_CHAIN_ID:
            raise _bad("chain id")
        if self.request_id is not None:
            _checked(self.request_id, rfc3986.is_pchars, "request id")
        if self.resources is not None:
            if len(self.resources) > MAX_RESOURCES:
                raise _bad(f"more than {MAX_RESOURCES} resources")
            for resource in self.resources:
                _checked(resource, rfc3986.is_uri, "resource")


class _Lines:
    """The lines of a message, each taken once and in order."""

    __slots__ = ("_left",)

    def __init__(self, text: str) -> None:
        self._left = text.split("\n")[::-1]

    def take(self) -> str:
        """The next line; `invalid_siwe` at the end."""
        if not self._left:
            raise _bad("the message ends early")
        return self._left.pop()

    def empty(self) -> None:
        if self.take():
            raise _bad("an empty line is missing")

    def take_statement(self) -> str | None:
        """The statement, where the next line is not the empty one that stands in its place."""
        if not self._left or not self._left[-1]:
            return None
        return _checked(self.take(), _matches(_STATEMENT), "statement")

    def tagged(self, tag: str) -> str:
        found = self.optional(tag)
        if found is None:
            raise _bad(f"{tag.rstrip(': ')} is missing or out of order")
        return found

    def optional(self, tag: str) -> str | None:
        if not self._left or not self._left[-1].startswith(tag):
            return None
        return self._left.pop().removeprefix(tag)

    def resources(self) -> tuple[str, ...] | None:
        """All remaining lines, which must be the list of resources."""
        if not self._left:
            return None
        if self.take() != "Resources:":
            raise _bad("a line that is not part of a message")
        listed = []
        while self._left:
            listed.append(self.tagged("- "))
        return tuple(listed)


def _origin(line: str) -> tuple[str | None, str]:
    """Scheme and domain of the first line."""
    if not line.endswith(_WANTS):
        raise _bad("not a sign-in message")
    origin = line.removesuffix(_WANTS)
    scheme, separator, domain = origin.rpartition("://")
    if separator:
        _checked(scheme, rfc3986.is_scheme, "scheme")
    return scheme if separator else None, _checked(domain, rfc3986.is_authority, "domain")


def _instant(text: str | None) -> Instant | None:
    return None if text is None else Instant.parse(text)


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _checked(text: str, fits: Callable[[str], bool], what: str) -> str:
    if not fits(text):
        raise _bad(what)
    return text
