"""Mail by SMTP, with the standard library's client: STARTTLS or TLS from the first byte, never in the clear.

Whoever asks for a mail hears whether the mail server can be reached, and nothing that depends on the address: who it is
for is told to the server after the answer went out, so neither words nor time tell whether the server knows them.
"""

import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from functools import partial
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from broker.identity_settings import MailSettings

TIMEOUT_S: Final = 10.0
_PASSWORD_LIMIT: Final = 1024


class SmtpMailer:
    """Implements `broker.ports.Mailer`. One connection a message: they are rare, and none is left open for long."""

    def __init__(self, settings: MailSettings, later: Callable[[Callable[[], None]], None]) -> None:
        """`later` does a piece of work elsewhere. Raises ConfigError where the password or the roots cannot be read."""
        self._settings = settings
        self._later = later
        try:
            self._context = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{settings.ca}: not a file of certificates") from error
        password = settings.password_file
        self._password = (
            "" if password is None else read_limited(password, _PASSWORD_LIMIT, private=True).decode().strip()
        )

    def __repr__(self) -> str:
        return f"<SmtpMailer {self._settings.host}:{self._settings.port}>"

    def send(self, *, to: str, subject: str, text: str) -> None:
        """See the port."""
        message = self._message(to, subject, text)
        try:
            server = self._open()
        except (OSError, smtplib.SMTPException) as error:
            raise KeyServiceError(Reason.MAIL_UNREACHABLE, type(error).__name__) from error
        try:
            self._later(partial(self._deliver, server, message, to))
        except KeyServiceError:
            server.close()
            raise

    def _deliver(self, server: smtplib.SMTP, message: EmailMessage, to: str) -> None:
        with server:
            server.send_message(message, self._settings.sender, [to])

    def _message(self, to: str, subject: str, text: str) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        try:
            message["From"] = self._settings.sender
            message["To"] = to
            message["Subject"] = subject
            message["Date"] = formatdate(usegmt=True)
            message["Message-ID"] = make_msgid(domain=self._settings.sender.rpartition("@")[2])
            message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine needs to answer
        except (ValueError, IndexError) as error:
            raise KeyServiceError(Reason.INVALID_BODY, "not an e-mail address") from error
        message.set_content(text, cte="7bit")  # ASCII in short lines: links stay whole for those who read the source
        return message

    def _open(self) -> smtplib.SMTP:
        """A connection that is logged in; all of it is the same for every address."""
        server = self._connect()
        try:
            if self._settings.user is not None:
                server.login(self._settings.user, self._password)
        except BaseException:
            server.close()
            raise
        return server

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        name = settings.sender.rpartition("@")[2]  # else the library asks the DNS for ours, and may wait for long
        if settings.security == "tls":
            return smtplib.SMTP_SSL(settings.host, settings.port, name, timeout=TIMEOUT_S, context=self._context)
        server = smtplib.SMTP(settings.host, settings.port, name, timeout=TIMEOUT_S)
        try:
            server.starttls(context=self._context)
        except BaseException:
            server.close()
            raise
        return server
