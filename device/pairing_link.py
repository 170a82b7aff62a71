"""What the QR code of a pairing carries: where to claim it, its code, and the whole hash of the machine's key."""

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, urlencode

from agentkeys_core.encoding import hex_decode, hex_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.pairing import PAIRING_HASH_BYTES
from device.errors import DeviceError, Trouble

SCHEME: Final = "agentkeys:"
_START: Final = f"{SCHEME}pair?"
_FIELDS: Final = 4
_VERSION: Final = "1"
MAX_TEXT: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingLink:
    """`broker` is the origin where `code` is claimed; `hash` are the 16 bytes that people compare otherwise."""

    broker: str
    code: str
    hash: bytes

    def encode(self) -> str:
        """The text in the QR code."""
        members = {"broker": self.broker, "code": self.code, "hash": hex_encode(self.hash), "v": _VERSION}
        return _START + urlencode(members, safe=":/")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `encode`'s text, and nothing that only resembles it. Raises `usage`."""
        written = text.strip()[: MAX_TEXT + 1]
        try:
            members = dict(parse_qsl(written.partition("?")[2], strict_parsing=True, max_num_fields=_FIELDS))
            link = cls(
                broker=members["broker"],
                code=members["code"],
                hash=hex_decode(members["hash"], length=PAIRING_HASH_BYTES),
            )
            again = link.encode()
        except (KeyServiceError, KeyError, ValueError) as exc:
            raise DeviceError(Trouble.USAGE, "not the text of a pairing's QR code") from exc
        if again != written:  # another start, order, version or spelling
            raise DeviceError(Trouble.USAGE, "not the text of a pairing's QR code of this version")
        return link
