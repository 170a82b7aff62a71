"""What the configuration files of broker and workers have in common."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LISTEN: Final = re.compile(r"(?P<host>[^:\s\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Our certificate (leaf, then chain) and key, and the roots that the signer's certificate must stand under.

    Each file is taken up anew when it changes.
    """

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSettings:
    """Where the signer is (host:port), and the DNS name that only its certificate carries."""

    address: str
    server_name: str

    def __post_init__(self) -> None:
        parse_listen(self.address)
        if not self.server_name:
            raise ValueError("server_name is empty")


def parse_listen(text: str) -> tuple[str, int]:
    """Return host (an IPv6 address without its brackets) and port of `host:port`.

    Raises:
        ValueError: another shape.
    """
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise ValueError(f"{text!r} is not host:port")
    return match["host"].strip("[]"), int(match["port"])
