"""Requests to webhooks and dead man's switches: where they may go.

A person who may change alerts chooses an address that this server then calls. To prevent server-side request forgery,
link-local, multicast, unspecified and reserved addresses and those of cloud metadata services are refused. This machine and
internal networks are refused unless ``BACKUPS["ALERT_HOSTS"]`` lists the host or the network. That also limits targets to those
it lists. The rest is in `engine.runtime.outgoing`.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult

from backups.conf import called, configuration
from backups.engine.runtime import outgoing
from backups.engine.runtime.outgoing import LONGEST, Address, Answer, Refused, masked, within, without_secret

__all__ = ["LONGEST", "Answer", "Refused", "check", "masked", "post", "within", "without_secret"]

_HOSTS = "BACKUPS['ALERT_HOSTS']"
_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


class _AlertHosts:
    """The rules above."""

    def check_host(self, parts: SplitResult) -> None:
        _check_host(parts.hostname or "")

    def check_address(self, address: Address, parts: SplitResult) -> None:
        _check_address(address, parts.hostname or "")


_RULES = _AlertHosts()


def check(address: str) -> SplitResult:
    """Parse and check an address, without resolving its name. Raises `Refused`."""
    return outgoing.parse(address, _RULES)


def post(address: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Send *body* to *address*. Errors are returned as an answer; nothing is raised."""
    return outgoing.post(address, body, headers, _RULES, LONGEST)


def _check_host(host: str) -> None:
    """Refuse a host that `BACKUPS["ALERT_HOSTS"]` excludes, as far as the name alone decides."""
    allowed = configuration().alert_hosts
    try:
        _check_address(ipaddress.ip_address(host), host)
    except ValueError as problem:
        if isinstance(problem, Refused):
            raise
        if allowed and not _named(host, allowed) and not any(_network(entry) for entry in allowed):
            raise Refused(f"{host} is not among the hosts that {called(_HOSTS)} allows.") from None


def _check_address(address: Address, host: str) -> None:
    if isinstance(address, ipaddress.IPv6Address):  # some embed an IPv4 address
        teredo = address.teredo
        translated = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
        address = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or translated or address
    allowed = configuration().alert_hosts
    if any(address in network for entry in allowed if (network := _network(entry)) is not None):
        return
    if allowed and not _named(host, allowed):
        raise Refused(f"{host} is not among the hosts that {called(_HOSTS)} allows.")
    never = address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
    if never or (address.is_reserved and not address.is_loopback):
        raise Refused(f"{host} is at {address}, where no receiver can be.")
    internal = not address.is_global or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local)
    if internal and not _named(host, allowed):
        raise Refused(
            f"{host} is at {address}, on this machine or in an internal network, and {called(_HOSTS)} does not list it."
        )


def _named(host: str, allowed: tuple[str, ...]) -> bool:
    host = host.lower().rstrip(".")
    return any(host == entry.lower() or (entry.startswith("*.") and host.endswith(entry[1:].lower())) for entry in allowed)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        return None
