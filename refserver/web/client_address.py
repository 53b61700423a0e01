"""The client's address behind a proxy."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


class ClientAddress:
    """Sets ``REMOTE_ADDR`` to the last address of ``X-Forwarded-For``, which the proxy added.

    The earlier ones come from the client. Use it only behind a proxy (REFSERVER_BEHIND_PROXY): otherwise the client controls
    the whole header.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass *request* on with the address corrected; an invalid address is ignored."""
        last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        with contextlib.suppress(ValueError):
            request.META["REMOTE_ADDR"] = str(ipaddress.ip_address(last.strip("[]")))
        return self._get_response(request)
