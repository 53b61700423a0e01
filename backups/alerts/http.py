"""Requests to webhooks and dead man's switches: where they may go, how long they may take, and what is kept of the answer.

Whoever may change alerts names an address, and this server calls it: it must not become a way to reach what that person could
not. So:

- ``http`` and ``https`` only, without a name and a password in the address; always POST, with headers that nobody chooses.
- The name is looked up once, each address that it has is checked, and the connection goes to a checked one: an answer of DNS
  that changes in between changes nothing. Proxies named in the environment are not used.
- Addresses that no receiver has are refused: link-local ones and the known ones of clouds' metadata services, multicast,
  unspecified and reserved ones. Internal hosts and this machine are allowed, for receivers often are there. With
  ``BACKUPS["ALERT_HOSTS"]`` only the hosts, domains and networks named there are.
- A redirect is not followed but told. The answer is read up to 2 KB and kept up to 300 characters, without what is secret.
- 10 seconds, from looking up the name to the answer.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from backups.conf import configuration

from .deadline import within

LONGEST = 10.0
"""Seconds that a request may take in all."""

LARGEST = 64 << 10
"""Bytes of a request's body."""

_READ = 2048
_KEPT = 300
_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a receiver took a message; ``retry_after`` is what it asked for, in seconds."""

    ok: bool
    text: str
    status: int | None = None
    retry_after: float | None = None


class Refused(ValueError):
    """An address that must not be called; the message says why and holds nothing secret."""


def check(address: str) -> SplitResult:
    """Take an address apart. Raises `Refused`."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as problem:
        raise Refused("It is no address.") from problem
    if parts.scheme not in ("http", "https"):
        raise Refused("It must begin with https:// or http://.")
    if not parts.hostname or any(ord(letter) <= 32 or ord(letter) == 127 for letter in address):
        raise Refused("It names no host.")
    if not parts.netloc.isascii() or not (parts.path + parts.query).isascii():
        raise Refused("It has letters beyond ASCII: write the host in its xn-- form, and the path with %.")
    if parts.username is not None or parts.password is not None:
        raise Refused("It holds a name or a password before the host; receivers take secrets in the path.")
    if port == 0:
        raise Refused("It names port 0.")
    _check_host(parts.hostname)
    return parts


def _check_host(host: str) -> None:
    """Refuse what `BACKUPS["ALERT_HOSTS"]` leaves out, as far as a name alone tells."""
    allowed = configuration().alert_hosts
    try:
        _check_address(ipaddress.ip_address(host), host)
    except ValueError as problem:
        if isinstance(problem, Refused):
            raise
        if allowed and not _named(host, allowed) and not any(_network(entry) for entry in allowed):
            raise Refused(f"{host} is not among the hosts that BACKUPS['ALERT_HOSTS'] allows.") from None


def _check_address(address: _Address, host: str) -> None:
    if isinstance(address, ipaddress.IPv6Address):  # some of them lead to an address of the older kind
        teredo = address.teredo
        address = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
    allowed = configuration().alert_hosts
    if any(address in network for entry in allowed if (network := _network(entry)) is not None):
        return
    if allowed and not _named(host, allowed):
        raise Refused(f"{host} is not among the hosts that BACKUPS['ALERT_HOSTS'] allows.")
    never = address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
    if never or (address.is_reserved and not address.is_loopback):
        raise Refused(f"{host} is at {address}, where no receiver is.")


def _named(host: str, allowed: tuple[str, ...]) -> bool:
    host = host.lower().rstrip(".")
    return any(host == entry.lower() or (entry.startswith("*.") and host.endswith(entry[1:].lower())) for entry in allowed)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        return None


def masked(address: str) -> str:
    """An address as it may be shown: ``https://hooks.slack.com/…x7Qd``."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "…"
    rest = address[len(f"{parts.scheme}://{parts.netloc}") :].strip("/")
    end = rest[-4:] if len(rest) > 12 else ""
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/{f'…{end}' if rest else ''}"


def post(address: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Send *body* to *address*. Whatever goes wrong is an answer that says so; nothing is raised."""
    if len(body) > LARGEST:
        return Answer(ok=False, text=f"The message has {len(body)} bytes; {LARGEST} are the most.")
    try:
        parts = check(address)
    except Refused as problem:
        return Answer(ok=False, text=f"Not sent: {problem}")
    seconds = LONGEST
    opened: list[socket.socket] = []
    began = time.monotonic()

    def call() -> Answer:
        left = seconds - (time.monotonic() - began)
        return _exchange(parts, body, headers, left, opened)

    host = parts.hostname or ""
    try:
        answer = within(seconds, call, lambda: _close(opened))
    except Refused as problem:
        return Answer(ok=False, text=f"Not sent: {problem}")
    except TimeoutError:
        return Answer(ok=False, text=f"{host} gave no answer within {seconds:g} s.")
    except UnicodeError:
        return Answer(ok=False, text=f"{host} is no name of a host.")
    except socket.gaierror as problem:
        return Answer(ok=False, text=f"The name {host} is not known: {problem.strerror}.")
    except ssl.SSLCertVerificationError as problem:
        return Answer(ok=False, text=f"The certificate of {host} is not good: {problem.verify_message}.")
    except ssl.SSLError as problem:
        return Answer(ok=False, text=f"{host} speaks no TLS that fits: {problem.reason}.")
    except OSError as problem:
        return Answer(ok=False, text=f"{host} cannot be reached: {problem.strerror or type(problem).__name__}.")
    except http.client.HTTPException as problem:
        return Answer(ok=False, text=f"{host} does not speak HTTP: {type(problem).__name__}.")
    return Answer(ok=answer.ok, status=answer.status, text=without_secret(answer.text, address), retry_after=answer.retry_after)


def _exchange(
    parts: SplitResult, body: bytes, headers: Mapping[str, str], seconds: float, opened: list[socket.socket]
) -> Answer:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    connection.sock = _connect(host, port, seconds, opened)
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
        if 300 <= response.status < 400:
            where = urlsplit(response.headers.get("Location", "")).hostname or "another place"
            text = f"It sends on to {where}, and redirects are not followed. Enter the address that it leads to."
        return Answer(
            ok=200 <= response.status < 300,
            status=response.status,
            text=text or response.reason,
            retry_after=_seconds(response.headers.get("Retry-After", "")),
        )


def _connect(host: str, port: int, seconds: float, opened: list[socket.socket]) -> socket.socket:
    """A connection to the first address of *host* that answers; all of them must be allowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in found:
        _check_address(ipaddress.ip_address(str(place[0]).partition("%")[0]), host)
    problem: OSError = ConnectionError("no address")
    for family, kind, protocol, _, place in found[:4]:
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
    """Make a thread that waits for a socket go on, with an error."""
    for channel in opened:
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)


def _plain(content: bytes) -> str:
    text = content.decode("utf-8", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_KEPT]


def without_secret(text: str, address: str) -> str:
    """*text* with the parts of *address* that may be secret taken out: a receiver may say back what it was sent."""
    parts = urlsplit(address)
    secret = [address, parts.path, parts.query, *parts.path.split("/"), *parts.query.replace("=", "&").split("&")]
    for part in sorted({part for part in secret if len(part.strip("/")) >= 6}, key=len, reverse=True):
        text = text.replace(part, "…")
    return text


def _seconds(header: str) -> float | None:
    return float(header) if header.isdecimal() and len(header) < 7 else None
