"""The dead man's switch of a run without Django: an address that is called at the end, and whose silence a monitor reports.

The administrator of this machine chose the address, so other hosts are not limited as those of alerts are. It is a secret,
because anybody can call it: hence https, or http to this machine.
"""

from urllib.parse import SplitResult

from ... import __version__
from .outgoing import Address, Refused, masked, parse, post, switch_address

_MOST_BODY = 1000


class _Rules:
    def check_host(self, parts: SplitResult) -> None:
        """Nothing can be judged before the name is resolved."""

    def check_address(self, address: Address, parts: SplitResult) -> None:
        if parts.scheme == "http" and not address.is_loopback:
            raise Refused(f"{parts.hostname} is another machine: use https.")


_RULES = _Rules()


def check_heartbeat(address: str) -> str:
    """*address*, if it can be called. Raises `Refused`."""
    parse(address, _RULES)
    return address


def beat(address: str, text: str, *, ok: bool) -> str:
    """Call *address*, after a failure with ``/fail``. Returns why that was not accepted, "" if it was; raises nothing."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": f"refserver-backups/{__version__}", "Accept": "*/*"}
    body = text[:_MOST_BODY].encode("utf-8", "replace")
    answer = post(switch_address(address, "success" if ok else "fail"), body, headers, _RULES)
    if answer.ok:
        return ""
    status = f"status {answer.status}, " if answer.status else ""
    return f"The heartbeat {masked(address)} was not accepted: {status}{answer.text}"
