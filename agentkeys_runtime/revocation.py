"""The list of revoked certificates, by issuer and serial number, followed while the signer runs."""

from pathlib import Path
from typing import Final

from agentkeys_core.encoding import fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import CHECK_INTERVAL_S, Watched, read_limited

SIZE_LIMIT: Final = 16 * 1024 * 1024  # bytes; some 100,000 entries
SERIAL_DIGITS: Final = 40  # RFC 5280: at most 20 bytes
VERSION: Final = 1
_BAD: Final = Reason.INVALID_ENCODING
_HEX: Final = frozenset("0123456789abcdef")
Entry = tuple[str, int]


class RevocationList:
    """Answers whether a certificate is revoked, no later than half a second after the file changed.

    A file that becomes missing or broken is logged, and the last good list stays in force: nothing revoked comes back.
    """

    def __init__(self, entries: Watched[frozenset[Entry]]) -> None:
        self._entries = entries

    @classmethod
    def load(cls, path: Path, *, interval_s: float = CHECK_INTERVAL_S) -> "RevocationList":
        """Return the list in the file at `path`, which must exist.

        Raises:
            ConfigError: no such file, or not a revocation list.
        """
        return cls(Watched([path], lambda: _read(path), interval_s=interval_s))

    def contains(self, issuer: str, serial: int) -> bool:
        """Say whether the certificate of this issuer (RFC 4514 text) and serial number is revoked."""
        return (issuer, serial) in self._entries.get()


def parse_revocations(data: bytes) -> frozenset[Entry]:
    """Read `{"revoked":[{"issuer":text,"serial":lower-case hex}],"ver":1}`.

    Raises:
        KeyServiceError: invalid_encoding (or unknown_fields, too_large) for anything else.
    """
    names = ("revoked", "ver")
    table = fields(strict_json(data, limit=SIZE_LIMIT, reason=_BAD), required=names, reason=_BAD)
    rows = table["revoked"]
    if type(table["ver"]) is not int or table["ver"] != VERSION or not isinstance(rows, list):
        raise KeyServiceError(_BAD, "not a revocation list of version 1")
    return frozenset(_entry(row) for row in rows)


def _entry(row: object) -> Entry:
    entry = fields(row, required=("issuer", "serial"), reason=_BAD)
    issuer, serial = entry["issuer"], entry["serial"]
    if not isinstance(issuer, str) or not isinstance(serial, str):
        raise KeyServiceError(_BAD, "issuer and serial are texts")
    if not 0 < len(serial) <= SERIAL_DIGITS or not _HEX.issuperset(serial):
        raise KeyServiceError(_BAD, "a serial is 1 to 40 lower-case hex digits")
    return issuer, int(serial, 16)


def _read(path: Path) -> frozenset[Entry]:
    try:
        return parse_revocations(read_limited(path, SIZE_LIMIT))
    except KeyServiceError as error:
        raise ConfigError(f"{path}: not a revocation list: {error.detail}") from error
