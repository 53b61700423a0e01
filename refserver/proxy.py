"""Behind a proxy: where a request really came from."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


class ClientAddress:
    """Sets ``REMOTE_ADDR`` to the last address of ``X-Forwarded-For``: the one that the proxy itself has seen and added.

    Those before it are what the client said. Only for REFSERVER_BEHIND_PROXY: without a proxy all of it is.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass *request* on with its address corrected; what is no address is left aside."""
        last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        with contextlib.suppress(ValueError):
            request.META["REMOTE_ADDR"] = str(ipaddress.ip_address(last.strip("[]")))
        return self._get_response(request)
