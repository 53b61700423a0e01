"""Receivers on the loopback interface: a web server with configurable answers, and a mail server."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """The next answers of a web server, and the requests that it received."""

    port: int = 0
    status: int = 200
    answer: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    manner: str = "plain"
    requests: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/hook/s3cr3t-token") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@contextmanager
def web_server() -> Iterator[Web]:
    """A web server; ``manner`` is plain, hang (takes the request, answers nothing), drip (a byte now and then) or rude."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            named = {name.lower(): value for name, value in self.headers.items()}
            web.requests.append(Request(self.path, named, body))
            if web.manner == "hang":
                web.over.wait(30)
                return
            if web.manner == "drip":
                self._drip()
                return
            if web.manner == "rude":
                self.wfile.write(b"220 not HTTP at all\r\n")
                return
            self.send_response(web.status)
            for name, value in web.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(web.answer)))
            self.end_headers()
            self.wfile.write(web.answer)

        do_GET = do_POST

        def _drip(self) -> None:
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 4000:
                if web.over.wait(0.05):
                    return
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        server.server_close()


@dataclass
class Mails:
    """The messages that a mail server received, and what it refuses."""

    port: int = 0
    refuse: str = ""
    letters: list[EmailMessage] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    hang: threading.Event | None = None

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address == self.refuse:
            return "550 5.1.1 No such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        letter = message_from_bytes(envelope.content, policy=policy.default)
        letter["X-To"] = ", ".join(envelope.rcpt_tos)
        letter["X-TLS"] = "yes" if session.ssl else "no"
        self.letters.append(letter)
        return "250 2.0.0 taken as 4711"


@contextmanager
def mail_server(*, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> Iterator[Mails]:
    """A mail server; with *tls* it requires STARTTLS, with *login* that name and password."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        mails = Mails(port=free.getsockname()[1])

    def authenticate(server, session, envelope, mechanism, data) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        mails.logins.append(given[0])
        return AuthResult(success=given == login, handled=False)

    controller = Controller(
        mails,
        hostname="127.0.0.1",
        port=mails.port,
        ready_timeout=10,
        tls_context=tls,
        require_starttls=tls is not None,
        auth_required=login is not None,
        authenticator=authenticate if login else None,
    )
    controller.start()
    try:
        yield mails
    finally:
        controller.stop()


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, with its key, in one file."""
    file = folder / "mail.pem"
    key = folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "3650",
    ]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + key.read_text())
    return file


def tls_of(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
