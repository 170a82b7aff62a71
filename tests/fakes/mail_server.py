"""A real SMTP server of the tests on loopback, with STARTTLS or TLS from the first byte, and a login."""

import asyncio
import ssl
import threading
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from demo.process import free_port

USER, PASSWORD = "agentkeys", "the mail password of the tests"


@dataclass
class Mailbox:
    """What arrived. `refuse` makes the server refuse every recipient, `refused` these.

    While `held` is clear it keeps whoever writes to a domain in `slow` waiting, and where none is there everybody.
    """

    messages: list[Message] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    refuse: bool = False
    refused: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    held: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.held.set()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked.release()
        if not self.slow or address.rpartition("@")[2] in self.slow:
            await asyncio.to_thread(self.held.wait, 60)
        if self.refuse or address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert session.authenticated
        self.recipients += envelope.rcpt_tos
        content = envelope.content
        with self._arrived:
            self.messages.append(message_from_bytes(content if isinstance(content, bytes) else str(content).encode()))
            self._arrived.notify_all()
        return "250 OK"

    def link(self, number: int = 1) -> str:
        """The link of the newest message, once so many have arrived: they come after the answer that promised them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.messages) >= number, 20), "no mail came"
        text = str(self.messages[-1].get_payload())
        return next(word for word in text.split() if word.startswith("https://"))


class MailServer:
    """`folder` gets the root that clients trust and the password's file."""

    def __init__(self, folder: Path, security: Literal["starttls", "tls", "none"]) -> None:
        self.mailbox = Mailbox()
        self.port = free_port()
        self.ca = folder / "mail-ca.pem"
        self.password_file = folder / "mail-password"
        self.password_file.write_text(PASSWORD + "\n")
        self.password_file.chmod(0o600)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        extra: dict[str, Any] = {"ssl_context": context} if security == "tls" else {}
        if security == "starttls":
            extra = {"tls_context": context, "require_starttls": True}
        if security != "none":
            extra |= {"authenticator": self._check, "auth_required": True}
        self._controller = Controller(
            self.mailbox,
            hostname="127.0.0.1",
            port=self.port,
            server_hostname="localhost",  # else it asks the DNS
            auth_require_tls=security == "starttls",
            **extra,
        )

    def _check(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=good, handled=good)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()
