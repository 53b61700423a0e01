"""Mail, by Django's settings (``EMAIL_*``), with what the server said, and an end in time."""

from __future__ import annotations

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

from . import messages
from .deadline import within
from .http import Answer

SMTP = "django.core.mail.backends.smtp.EmailBackend"
LONGEST = 25.0
"""Seconds that sending a mail may take in all; each step has ``EMAIL_TIMEOUT``."""

MOST = 50
"""Addresses of a channel."""

is_address = EmailValidator()
"""Raises Django's `ValidationError` for what is no mail address."""


class _Listening(smtplib.SMTP):
    """Keeps what the server said to the message, and which addresses it refused: Django's backend drops both."""

    said: tuple[int, bytes] | None = None
    refused: dict[str, tuple[int, bytes]] | None = None

    def __init__(self, made: list[smtplib.SMTP], *args: Any, **kwargs: Any) -> None:
        made.append(self)  # before it connects: from then on it can be made to stop
        super().__init__(*args, **kwargs)

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Send the message's content, and keep the server's answer."""
        self.said = super().data(msg)
        return self.said

    def sendmail(self, *args: Any, **kwargs: Any) -> dict[str, tuple[int, bytes]]:
        """Send, and keep which addresses were refused."""
        self.refused = super().sendmail(*args, **kwargs)
        return self.refused


class _Secure(_Listening, smtplib.SMTP_SSL):
    """The same over TLS from the first byte."""


class _Backend(EmailBackend):
    """Django's own, with connections that listen and can be stopped at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[smtplib.SMTP] = []

    @property
    def connection_class(self) -> Any:
        return functools.partial(_Secure if self.use_ssl else _Listening, self.made)


def addresses(target: str) -> list[str]:
    """The addresses of a channel: one a line, or separated by commas."""
    return [address for line in target.replace(",", "\n").splitlines() if (address := line.strip())]


def send(to: Sequence[str], message: dict[str, Any], uid: str) -> Answer:
    """Send *message* to all of *to*. Whatever goes wrong is an answer that says so; nothing is raised."""
    if not to:
        return Answer(ok=False, text="There is no address to send to.")
    if settings.EMAIL_BACKEND == SMTP and not settings.EMAIL_HOST:
        return Answer(ok=False, text="No mail server is set: set REFSERVER_EMAIL_HOST (the setting EMAIL_HOST).")
    # Built here: the thread must not use the database, and templates may
    connection: Any = _Backend() if settings.EMAIL_BACKEND == SMTP else get_connection()
    letter = _letter(to, message, uid, connection)
    try:
        return within(LONGEST, lambda: _deliver(connection, letter), lambda: _abort(connection))
    except smtplib.SMTPRecipientsRefused as problem:
        code, said = next(iter(problem.recipients.values()))
        return Answer(ok=False, status=code, text=f"Every address was refused: {_text(said)}")
    except smtplib.SMTPResponseException as problem:
        return Answer(ok=False, status=problem.smtp_code, text=f"{_step(problem)}: {_text(problem.smtp_error)}")
    except smtplib.SMTPNotSupportedError:
        return Answer(ok=False, text="The mail server offers no STARTTLS or no login; see REFSERVER_EMAIL_SECURITY.")
    except smtplib.SMTPServerDisconnected:
        return Answer(ok=False, text="The mail server ended the connection.")
    except smtplib.SMTPException as problem:
        return Answer(ok=False, text=f"The mail server did not take it: {_text(str(problem))}")
    except TimeoutError:
        return Answer(ok=False, text="The mail server gave no answer in time.")
    except socket.gaierror as problem:
        return Answer(ok=False, text=f"The mail server's name is not known: {problem.strerror}.")
    except ssl.SSLCertVerificationError as problem:
        return Answer(ok=False, text=f"The mail server's certificate is not good: {problem.verify_message}.")
    except OSError as problem:
        return Answer(ok=False, text=f"The mail server cannot be reached: {problem.strerror or type(problem).__name__}.")
    except ValueError as problem:  # a header that would break the mail
        return Answer(ok=False, text=f"It cannot be written as a mail: {problem}.")


def _letter(to: Sequence[str], message: dict[str, Any], uid: str, connection: Any) -> EmailMultiAlternatives:
    # Mails of one alert are shown together: the mail of its end answers the one of its beginning
    host = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip("> ") or "localhost"
    first = f"<alert-{message['alerts'][0]['id']}@{host}>"
    headers = {"Message-ID": f"<{uid}@{host}>", "Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
    if message["event"] != "test":
        headers |= {"References": first, "In-Reply-To": first}
    letter = EmailMultiAlternatives(
        messages.subject(message), messages.as_text(message), None, list(to), headers=headers, connection=connection
    )
    letter.attach_alternative(messages.as_html(message), "text/html")
    return letter


def _deliver(connection: Any, letter: EmailMultiAlternatives) -> Answer:
    try:
        connection.open()
        connection.send_messages([letter])
    except BaseException:
        _drop(connection)
        raise
    try:
        connection.close()
    except (smtplib.SMTPException, OSError):  # it has the mail: how it says goodbye does not matter
        _drop(connection)
    server = connection.made[-1] if isinstance(connection, _Backend) else None
    if not isinstance(server, _Listening):
        return Answer(ok=True, text="Handed over.")
    code, said = server.said or (250, b"")
    if server.refused:
        text = f"Delivered, but {', '.join(server.refused)} was refused: {_text(next(iter(server.refused.values()))[1])}"
        return Answer(ok=True, status=code, text=text)
    return Answer(ok=True, status=code, text=_text(said) or "Taken.")


def _drop(connection: Any) -> None:
    """Close without a word: a server that did not answer is not waited for once more."""
    for server in getattr(connection, "made", ()):
        server.close()


def _abort(connection: Any) -> None:
    """Make a thread that waits for the server go on, with an error."""
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


def _text(said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:300]
