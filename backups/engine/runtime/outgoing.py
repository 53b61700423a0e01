"""HTTP requests to webhooks and dead man's switches: how long they may take, and what is kept of the answer.

- Only ``http`` and ``https``, without credentials in the address; always POST, with fixed headers.
- Where a request may go is the caller's rule (`Rules`). The name is resolved once, every address it has is checked, and the
  connection goes to a checked address, so a DNS answer that changes in between has no effect. Proxies from the environment are
  not used.
- Redirects are reported, not followed. Of the answer 2 KB are read and 300 characters kept, without secrets.
- 10 seconds from name resolution to the answer.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

LONGEST = 10.0
"""Seconds for a whole request."""

LARGEST = 64 << 10
"""Bytes of a request's body."""

_READ = 2048
_KEPT = 300

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcome of a delivery; ``retry_after`` is the delay that the receiver asked for, in seconds."""

    ok: bool
    text: str
    status: int | None = None
    retry_after: float | None = None


class Refused(ValueError):
    """An address that must not be called; the message says why and contains no secret."""


class Rules(Protocol):
    """Where requests may go. Both methods raise `Refused`."""

    def check_host(self, parts: SplitResult) -> None:
        """Check an address as far as it can be judged without resolving its name."""

    def check_address(self, address: Address, parts: SplitResult) -> None:
        """Check an address that the name of *parts* resolves to."""


def parse(address: str, rules: Rules) -> SplitResult:
    """Parse and check an address, without resolving its name. Raises `Refused`."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as problem:
        raise Refused("It is not an address.") from problem
    if parts.scheme not in ("http", "https"):
        raise Refused("It must begin with https:// or http://.")
    if not parts.hostname or any(ord(letter) <= 32 or ord(letter) == 127 for letter in address):
        raise Refused("It names no host.")
    if not parts.netloc.isascii() or not (parts.path + parts.query).isascii():
        raise Refused("It contains non-ASCII characters: write the host in its xn-- form, and percent-encode the path.")
    if parts.username is not None or parts.password is not None:
        raise Refused("It contains a user name or password; receivers take secrets in the path.")
    if port == 0:
        raise Refused("Port 0 is invalid.")
    rules.check_host(parts)
    return parts


def masked(address: str) -> str:
    """An address for display: ``https://hooks.slack.com/…x7Qd``."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "…"
    rest = address[len(f"{parts.scheme}://{parts.netloc}") :].strip("/")
    end = rest[-4:] if len(rest) > 12 else ""
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/{f'…{end}' if rest else ''}"


def switch_address(target: str, event: str, run: str = "") -> str:
    """The URL of a dead man's switch for *event*: ``/start`` or ``/fail`` is appended to the path, the run to the query.

    The convention of healthchecks.io: the address itself is called after a success.
    """
    parts = urlsplit(target)
    path = parts.path.rstrip("/") + {"start": "/start", "fail": "/fail"}.get(event, "")
    query = "&".join(part for part in (parts.query, urlencode({"rid": run}) if run else "") if part)
    return urlunsplit((parts.scheme, parts.netloc, path or "/", query, ""))


def post(address: str, body: bytes, headers: Mapping[str, str], rules: Rules, seconds: float = LONGEST) -> Answer:
    """Send *body* to *address*. Errors are returned as an answer; nothing is raised."""
    if len(body) > LARGEST:
        return Answer(ok=False, text=f"The message has {len(body)} bytes; the maximum is {LARGEST}.")
    try:
        parts = parse(address, rules)
    except Refused as problem:
        return Answer(ok=False, text=f"Not sent: {problem}")
    opened: list[socket.socket] = []
    began = time.monotonic()

    def call() -> Answer:
        left = seconds - (time.monotonic() - began)
        return _exchange(parts, body, headers, rules, left, opened)

    host = parts.hostname or ""
    try:
        answer = within(seconds, call, lambda: _close(opened))
    except Refused as problem:
        return Answer(ok=False, text=f"Not sent: {problem}")
    except TimeoutError:
        return Answer(ok=False, text=f"{host} gave no answer within {seconds:g} s.")
    except UnicodeError:
        return Answer(ok=False, text=f"{host} is not a valid host name.")
    except socket.gaierror as problem:
        return Answer(ok=False, text=f"{host} cannot be resolved: {problem.strerror}.")
    except ssl.SSLCertVerificationError as problem:
        return Answer(ok=False, text=f"The certificate of {host} is invalid: {problem.verify_message}.")
    except ssl.SSLError as problem:
        return Answer(ok=False, text=f"TLS with {host} failed: {problem.reason}.")
    except OSError as problem:
        return Answer(ok=False, text=f"{host} cannot be reached: {problem.strerror or type(problem).__name__}.")
    except http.client.HTTPException as problem:
        return Answer(ok=False, text=f"{host} does not speak HTTP: {type(problem).__name__}.")
    return Answer(ok=answer.ok, status=answer.status, text=without_secret(answer.text, address), retry_after=answer.retry_after)


def within(seconds: float, call: Callable[[], T], abort: Callable[[], None]) -> T:
    """Return or raise what *call* does. After *seconds*, call *abort*, which must end it, and raise `TimeoutError`.

    Socket timeouts bound each step only, so a receiver that sends a byte now and then never exceeds them, and resolving
    a name has no timeout. *call* runs in a thread and must not use the database.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as raised:  # noqa: BLE001  # raised by the caller's thread
            answer.set_exception(raised)

    threading.Thread(target=run, name="outgoing", daemon=True).start()
    if not wait([answer], seconds).done:
        abort()
        raise TimeoutError(f"No answer within {seconds:g} s.")
    return answer.result()


def _exchange(
    parts: SplitResult,
    body: bytes,
    headers: Mapping[str, str],
    rules: Rules,
    seconds: float,
    opened: list[socket.socket],
) -> Answer:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    connection.sock = _connect(parts, port, rules, seconds, opened)
    if parts.scheme == "https":
        secure = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host, do_handshake_on_connect=False)
        opened.append(secure)
        secure.do_handshake()
        connection.sock = secure
    name = f"[{host}]" if ":" in host else host
    with contextlib.closing(connection):
        connection.request(
            "POST",
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            body=body,
            headers={**headers, "Host": name if parts.port is None else f"{name}:{port}", "Connection": "close"},
        )
        response = connection.getresponse()
        text = _plain(response.read(_READ))
        wanted = response.headers.get("Retry-After", "")
        if 300 <= response.status < 400:
            where = urlsplit(response.headers.get("Location", "")).hostname or "another place"
            text = f"It redirects to {where}; redirects are not followed. Enter the final address."
        return Answer(
            ok=200 <= response.status < 300,
            status=response.status,
            text=text or response.reason,
            retry_after=float(wanted) if wanted.isdecimal() and len(wanted) < 7 else None,
        )


def _connect(parts: SplitResult, port: int, rules: Rules, seconds: float, opened: list[socket.socket]) -> socket.socket:
    resolved = socket.getaddrinfo(parts.hostname or "", port, type=socket.SOCK_STREAM)
    for *_, place in resolved:
        rules.check_address(ipaddress.ip_address(str(place[0]).partition("%")[0]), parts)
    problem: OSError = ConnectionError("no address")
    for family, kind, protocol, _, place in resolved[:4]:
        channel = socket.socket(family, kind, protocol)
        opened.append(channel)
        channel.settimeout(seconds)
        try:
            channel.connect(place)
        except OSError as raised:
            channel.close()
            problem = raised
        else:
            return channel
    raise problem


def _close(opened: list[socket.socket]) -> None:
    """Shut the sockets down, so that a thread waiting for one gets an error."""
    for channel in opened:
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)


def _plain(content: bytes) -> str:
    text = content.decode("utf-8", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_KEPT]


def without_secret(text: str, address: str) -> str:
    """*text* without the parts of *address* that may be secret: a receiver may echo the request."""
    parts = urlsplit(address)
    secret = [address, parts.path, parts.query, *parts.path.split("/"), *parts.query.replace("=", "&").split("&")]
    for part in sorted({part for part in secret if len(part.strip("/")) >= 6}, key=len, reverse=True):
        text = text.replace(part, "…")
    return text
