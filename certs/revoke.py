"""The list of revoked leaves, `{"revoked":[{"issuer","serial"}],"ver":1}`, which the signer follows."""

import json
from typing import Final

from cryptography import x509

from agentkeys_core.encoding import fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from certs.errors import CertsError, InvalidInputError
from certs.files import PUBLIC, SIZE_LIMIT, Folder

REVOKED: Final = "revoked.json"
SERIAL_DIGITS: Final = 40
_BAD: Final = Reason.INVALID_ENCODING
_HEX: Final = frozenset("0123456789abcdef")
Entry = tuple[str, str]


def encode_list(entries: list[Entry]) -> bytes:
    """Return the file's bytes."""
    rows = [{"issuer": issuer, "serial": serial} for issuer, serial in entries]
    return json.dumps({"revoked": rows, "ver": 1}, indent=1).encode() + b"\n"


EMPTY_LIST: Final = encode_list([])


def read_list(place: Folder) -> list[Entry]:
    """Return the entries (RFC 4514 issuer, hex serial) in order; CertsError for a damaged file."""
    try:
        table = fields(
            strict_json(place.read(REVOKED), limit=SIZE_LIMIT, reason=_BAD), required=("revoked", "ver"), reason=_BAD
        )
        rows = table["revoked"] if isinstance(table["revoked"], list) and table["ver"] == 1 else [None]
        entries = [fields(row, required=("issuer", "serial"), reason=_BAD) for row in rows]
    except KeyServiceError as error:
        raise CertsError(f"{place.path / REVOKED} is damaged ({error.detail}); it was left as it is") from error
    return [(str(entry["issuer"]), str(entry["serial"])) for entry in entries]


def entry_of(certificate: x509.Certificate) -> Entry:
    """Return what names this certificate in the list."""
    return certificate.issuer.rfc4514_string(), f"{certificate.serial_number:x}"


def parse_serial(text: str) -> str:
    """Return a serial number as the list has it: lower-case hex without leading zeros. Colons are taken out."""
    digits = text.replace(":", "").lower().removeprefix("0x").lstrip("0")
    if not 0 < len(digits) <= SERIAL_DIGITS or not _HEX.issuperset(digits):
        raise InvalidInputError(f"{text!r} is not a serial number in hex")
    return digits


def revoke(place: Folder, entry: Entry) -> bool:
    """Add an entry to the list; False where it stood there already. It holds until the leaf would have expired."""
    with place.locked():
        entries = read_list(place)
        if entry in entries:
            return False
        place.replace({REVOKED: (encode_list([*entries, entry]), PUBLIC)})
    return True
