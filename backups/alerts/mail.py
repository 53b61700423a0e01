"""Sends mail by Django's settings (``EMAIL_*``), with a time limit, and returns the server's answer."""

import contextlib
import functools
import smtplib
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.smtp import EmailBackend
from django.core.validators import EmailValidator

from backups.conf import called

from . import messages
from .http import Answer, within

SMTP = "django.core.mail.backends.smtp.EmailBackend"
LONGEST = 25.0
"""Seconds for sending a mail; each step has ``EMAIL_TIMEOUT``."""

MOST = 50
"""Maximum addresses of a channel."""

is_address = EmailValidator()
"""Raises Django's `ValidationError` for anything but a mail address."""


class _Recording(smtplib.SMTP):
    """Keeps the server's answer to the message and the addresses it refused; Django's backend discards both."""

    answer: tuple[int, bytes] | None = None
    refused: dict[str, tuple[int, bytes]] | None = None

    def __init__(self, made: list[smtplib.SMTP], *args: Any, **kwargs: Any) -> None:
        made.append(self)  # before it connects, so that it can be aborted from then on
        super().__init__(*args, **kwargs)

    def data(self, msg: Any) -> tuple[int, bytes]:
        self.answer = super().data(msg)
        return self.answer

    def sendmail(self, *args: Any, **kwargs: Any) -> dict[str, tuple[int, bytes]]:
        self.refused = super().sendmail(*args, **kwargs)
        return self.refused


class _Secure(_Recording, smtplib.SMTP_SSL):
    """The same over TLS from the first byte."""


class _Backend(EmailBackend):
    """Django's backend with recording connections that can be aborted at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[smtplib.SMTP] = []

    @property
    def connection_class(self) -> Any:
        return functools.partial(_Secure if self.use_ssl else _Recording, self.made)


def addresses(target: str) -> list[str]:
    """The addresses of a channel, which are on lines of their own or separated by commas."""
    return [address for line in target.replace(",", "\n").splitlines() if (address := line.strip())]


def send(to: Sequence[str], message: dict[str, Any], uid: str) -> Answer:
    """Send *message* to all of *to*. Errors are returned as an answer; nothing is raised."""
    if not to:
        return Answer(ok=False, text="No address to send to.")
    if settings.EMAIL_BACKEND == SMTP and not settings.EMAIL_HOST:
        return Answer(ok=False, text=f"No mail server is configured: set {called('EMAIL_HOST')}.")
    # Built here: the thread must not use the database, and templates may
    connection: Any = _Backend() if settings.EMAIL_BACKEND == SMTP else get_connection()
    mail = _compose(to, message, uid, connection)
    try:
        return within(LONGEST, lambda: _deliver(connection, mail), lambda: _abort(connection))
    except smtplib.SMTPRecipientsRefused as problem:
        code, answer = next(iter(problem.recipients.values()))
        return Answer(ok=False, status=code, text=f"Every address was refused: {_text(answer)}")
    except smtplib.SMTPResponseException as problem:
        return Answer(ok=False, status=problem.smtp_code, text=f"{_step(problem)}: {_text(problem.smtp_error)}")
    except smtplib.SMTPNotSupportedError:
        return Answer(ok=False, text=f"The mail server offers no STARTTLS or no login; check {called('EMAIL_USE_TLS')}.")
    except smtplib.SMTPServerDisconnected:
        return Answer(ok=False, text="The mail server closed the connection.")
    except smtplib.SMTPException as problem:
        return Answer(ok=False, text=f"The mail server did not accept it: {_text(str(problem))}")
    except TimeoutError:
        return Answer(ok=False, text="The mail server did not answer in time.")
    except socket.gaierror as problem:
        return Answer(ok=False, text=f"The mail server's name cannot be resolved: {problem.strerror}.")
    except ssl.SSLCertVerificationError as problem:
        return Answer(ok=False, text=f"The mail server's certificate is invalid: {problem.verify_message}.")
    except OSError as problem:
        return Answer(ok=False, text=f"The mail server cannot be reached: {problem.strerror or type(problem).__name__}.")
    except ValueError as problem:  # a header that would break the mail
        return Answer(ok=False, text=f"It cannot be sent as mail: {problem}.")


def _compose(to: Sequence[str], message: dict[str, Any], uid: str, connection: Any) -> EmailMultiAlternatives:
    # Mail programs show the mails of one alert together: all answer the same message id
    host = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip("> ") or "localhost"
    first = f"<alert-{message['alerts'][0]['id']}@{host}>"
    headers = {"Message-ID": f"<{uid}@{host}>", "Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
    if message["event"] != "test":
        headers |= {"References": first, "In-Reply-To": first}
    mail = EmailMultiAlternatives(
        messages.subject(message), messages.as_text(message), None, list(to), headers=headers, connection=connection
    )
    mail.attach_alternative(messages.as_html(message), "text/html")
    return mail


def _deliver(connection: Any, mail: EmailMultiAlternatives) -> Answer:
    try:
        connection.open()
        connection.send_messages([mail])
    except BaseException:
        _drop(connection)
        raise
    try:
        connection.close()
    except (smtplib.SMTPException, OSError):  # it has accepted the mail
        _drop(connection)
    server = connection.made[-1] if isinstance(connection, _Backend) else None
    if not isinstance(server, _Recording):
        return Answer(ok=True, text="Sent.")
    code, answer = server.answer or (250, b"")
    if server.refused:
        text = f"Delivered, but {', '.join(server.refused)} was refused: {_text(next(iter(server.refused.values()))[1])}"
        return Answer(ok=True, status=code, text=text)
    return Answer(ok=True, status=code, text=_text(answer) or "Accepted.")


def _drop(connection: Any) -> None:
    """Close without QUIT, so as not to wait again for a server that did not answer."""
    for server in getattr(connection, "made", ()):
        server.close()


def _abort(connection: Any) -> None:
    """Shut the connections down, so that a thread waiting for the server gets an error."""
    for server in getattr(connection, "made", ()):
        if server.sock is not None:
            with contextlib.suppress(OSError):
                server.sock.shutdown(socket.SHUT_RDWR)


def _step(problem: smtplib.SMTPResponseException) -> str:
    if isinstance(problem, smtplib.SMTPAuthenticationError):
        return "The mail server refused the login"
    if isinstance(problem, smtplib.SMTPSenderRefused):
        return f"The mail server refused the sender {problem.sender}"
    return "The mail server refused it"


def _text(answer: bytes | str) -> str:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return " ".join(text.split())[:300]
