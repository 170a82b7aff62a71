"""Mail by SMTP, with the standard library's client: STARTTLS or TLS from the first byte, never in the clear."""

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.mailbox import check_email
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.deadline import ends_within
from agentkeys_runtime.files import read_limited
from broker.identity_settings import MailSettings

#: Seconds for each step, and for a message as a whole once a server is connected.
TIMEOUT_S: Final = 5.0
SEND_S: Final = 15.0
_PASSWORD_LIMIT: Final = 1024


class SmtpMailer:
    """Implements `broker.ports.MailTransport`. One connection a message: they are rare, and nothing is left open."""

    def __init__(self, settings: MailSettings) -> None:
        """Raises ConfigError where the password or the roots cannot be read."""
        self._settings = settings
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
        """See the port. Takes no longer than `SEND_S`."""
        check_email(to, reason=Reason.INVALID_BODY)
        message = self._message(to, subject, text)
        with ExitStack() as stack:
            try:
                server = self._entered(stack)
            except (OSError, smtplib.SMTPException) as error:
                raise KeyServiceError(Reason.MAIL_UNREACHABLE, type(error).__name__) from error
            try:  # from here on, what the server says may depend on the address
                server.send_message(message, self._settings.sender, [to])
            except (OSError, smtplib.SMTPException) as error:
                raise KeyServiceError(Reason.POLICY_REFUSED, f"not taken: {type(error).__name__}") from error

    def _message(self, to: str, subject: str, text: str) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"] = self._settings.sender
        message["To"] = to
        message["Subject"] = subject
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain=self._settings.domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine needs to answer
        if [found.addr_spec for found in message["To"].addresses] != [to]:
            raise KeyServiceError(Reason.INVALID_BODY, "an e-mail address that is read as another one")
        message.set_content(text, cte="7bit")  # ASCII in short lines: links stay whole for those who read the source
        return message

    def _entered(self, stack: ExitStack) -> smtplib.SMTP:
        """Connected, never in the clear, and logged in; `stack` cuts it off in time, and closes it."""
        settings, tls = self._settings, self._context
        name = settings.domain  # else the library asks the DNS for ours, and may wait for long
        made: list[smtplib.SMTP] = []
        stack.enter_context(_cut_off(lambda: made[0].sock if made else None))
        stack.callback(lambda: made[0].close() if made else None)
        if settings.security == "tls":
            server: smtplib.SMTP = _TlsServer(made, settings.host, settings.port, name, context=tls)
        else:
            server = _Server(made, settings.host, settings.port, name)
            server.starttls(context=tls)
        if settings.user is not None:
            server.login(settings.user, self._password)
        return server


class _Server(smtplib.SMTP):
    """Puts itself into `made` before it connects, which the library has it do while it is being made."""

    def __init__(self, made: list[smtplib.SMTP], host: str, port: int, name: str) -> None:
        made.append(self)
        super().__init__(host, port, name, timeout=TIMEOUT_S)


class _TlsServer(smtplib.SMTP_SSL):
    """As `_Server`, with TLS from the first byte."""

    def __init__(self, made: list[smtplib.SMTP], host: str, port: int, name: str, *, context: ssl.SSLContext) -> None:
        made.append(self)
        super().__init__(host, port, name, timeout=TIMEOUT_S, context=context)


@contextmanager
def _cut_off(of: Callable[[], socket.socket | None]) -> Iterator[None]:
    """After its time nothing waits any longer; a message that was taken by then stays taken."""
    with suppress(TimeoutError), ends_within(SEND_S, of):
        yield
