"""A report as a mail: text and HTML, with files attached, over a connection that is encrypted and verified."""

from __future__ import annotations

import smtplib
import socket
import ssl
from contextlib import suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any

from agent.settings import ConfigError, read_secret
from reports.deliver.dial import STEP_TIMEOUT_S, WHOLE_TIMEOUT_S, Address, dialled, reason, refuse_remote
from reports.deliver.document import Document
from reports.deliver.targets import DeliveryError, MailTarget, Security
from reports.words import printable

_MAX_ANSWER_CHARS = 200


def deliver(
    document: Document,
    target: MailTarget,
    *,
    tls: ssl.SSLContext | None = None,
    step_timeout_s: float = STEP_TIMEOUT_S,
    whole_timeout_s: float = WHOLE_TIMEOUT_S,
) -> None:
    """Hands the report to the mail server.

    Args: tls: verifies the server; by the system's authorities unless told.

    Raises: DeliveryError: as `send`.
    """
    send(compose(document, target), target, tls=tls, step_timeout_s=step_timeout_s, whole_timeout_s=whole_timeout_s)


def send(
    message: EmailMessage,
    target: MailTarget,
    *,
    tls: ssl.SSLContext | None = None,
    step_timeout_s: float = STEP_TIMEOUT_S,
    whole_timeout_s: float = WHOLE_TIMEOUT_S,
) -> None:
    """Hands a message to the mail server, for the recipients of the target.

    Args: tls: verifies the server; by the system's authorities unless told.

    Raises: DeliveryError: it was not taken, or not for every recipient; final when the server said so for good.
    """
    try:
        password = "" if target.password_file is None else read_password(target.password_file)
    except ConfigError as error:
        raise DeliveryError(str(error), retry=True) from error
    context = tls or ssl.create_default_context()
    with dialled(
        target.host,
        target.port,
        check=refuse_remote if target.security is Security.NONE else _any_address,
        step_timeout_s=step_timeout_s,
        whole_timeout_s=whole_timeout_s,
    ) as connection:
        try:
            refused = _send(connection, target, password, message, context)
        except (OSError, smtplib.SMTPException) as error:
            raise _failure(target, error) from error
    if refused:
        # Trying again would write to the others a second time.
        raise DeliveryError(f"sent, but not to {_answers(refused)}", retry=False)


def read_password(path: Path) -> str:
    """Raises: ConfigError: as `agent.settings.read_secret`; not ASCII, which is all that SMTP is sure to take."""
    password = read_secret(path)
    if not password.isascii():
        raise ConfigError(f"{path}: holds characters that are not ASCII")
    return password


def compose(document: Document, target: MailTarget) -> EmailMessage:
    """The report as a mail, with its attachments."""
    message = write(
        target, subject=document.headline, text=document.text, html=document.html, at_s=document.generated_s
    )
    for form in target.attach:
        main, _, sub = form.media_type.partition(";")[0].partition("/")
        message.add_attachment(
            document.body(form),
            maintype=main,
            subtype=sub,
            filename=document.file_name(form),
            params={"charset": "utf-8"} if main == "text" else None,
        )
    return message


def write(target: MailTarget, *, subject: str, text: str, html: str, at_s: float) -> EmailMessage:
    """A mail to the recipients of the target.

    Args: subject: one printable line, so that nothing that a VM is called can end a header.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = target.sender
    message["To"] = ", ".join(target.recipients)
    message["Subject"] = subject
    message["Date"] = formatdate(at_s)
    message["Message-ID"] = make_msgid(domain=target.sender.rpartition("@")[2])
    # So that no absent person's machine answers.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_encodable(text))
    message.add_alternative(_encodable(html), subtype="html")
    return message


class _Session(smtplib.SMTP):
    """SMTP over a connection that is there already."""

    def __init__(self, host: str, connection: socket.socket) -> None:
        self._connection = connection
        # smtplib verifies the certificate of STARTTLS for this host.
        super().__init__(host)

    def connect(self, *_: Any, **__: Any) -> tuple[int, bytes]:
        self.sock = self._connection
        self.file = None
        return self.getreply()


def _send(
    connection: socket.socket, target: MailTarget, password: str, message: EmailMessage, context: ssl.SSLContext
) -> dict[str, tuple[int, bytes]]:
    """Returns what the server answered for the recipients that it refused, when it took others."""
    if target.security is Security.TLS:
        connection = context.wrap_socket(connection, server_hostname=target.host)
    session = _Session(target.host, connection)
    try:
        if target.security is Security.STARTTLS:
            session.starttls(context=context)
        if target.user is not None:
            session.login(target.user, password)
        refused = session.send_message(message, target.sender, list(target.recipients))
        # The mail is theirs: what follows cannot fail it.
        with suppress(OSError, smtplib.SMTPException):
            session.quit()
    finally:
        session.close()
    return refused


def _failure(target: MailTarget, error: Exception) -> DeliveryError:
    """Final is what the server refuses for good (5yz), and what it does not know."""
    server = f"{target.host}:{target.port}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
        return DeliveryError(f"{server}: refused {_answers(error.recipients)}", retry=any(code < 500 for code in codes))
    if isinstance(error, smtplib.SMTPResponseException):
        answer = _answer(error.smtp_code, error.smtp_error)
        return DeliveryError(f"{server}: {answer}", retry=not 500 <= error.smtp_code < 600)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return DeliveryError(f"{server}: {error}", retry=False)
    return DeliveryError(f"{server}: {printable(reason(error))[:_MAX_ANSWER_CHARS]}", retry=True)


def _answers(refused: dict[str, tuple[int, bytes]]) -> str:
    return "; ".join(f"{recipient} ({_answer(code, text)})" for recipient, (code, text) in refused.items())


def _answer(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return printable(f"{code} {' '.join(words.split())}")[:_MAX_ANSWER_CHARS]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _any_address(address: Address) -> None:
    """A mail server may be anywhere: it is verified, and speaks first."""
