"""What the host says of mail and of OpenID providers, as values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.mailbox import check_email

#: A thread each.
MAX_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MailSettings:
    """Where mail is handed over. `security` is "starttls" or "tls"; without `user` nobody logs in.

    `sender` is the address in From; `ca` replaces the system's roots; so many `connections` carry a message each at
    once.
    """

    host: str
    port: int
    sender: str
    security: Literal["starttls", "tls"] = "starttls"
    user: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    connections: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.connections <= MAX_CONNECTIONS:
            raise ValueError(f"connections must be 1 to {MAX_CONNECTIONS}")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        try:
            check_email(self.sender, reason=Reason.INVALID_BODY)
        except KeyServiceError as error:
            raise ValueError("sender is not an address") from error

    @property
    def domain(self) -> str:
        """Of the sender."""
        return self.sender.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One provider as the host registered us there. `client_secret_file` is None for a public client.

    `issuer` is an https address; `ca` replaces the system's roots.
    """

    issuer: str
    client_id: str
    client_secret_file: Path | None = field(default=None, repr=False)
    ca: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("issuer is not an https address")
        if not self.client_id:
            raise ValueError("client_id is empty")
