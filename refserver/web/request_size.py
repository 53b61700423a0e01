"""Limits the size of requests: documents are added on the command line, so no request is large."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from backups.api import problems

MAX_BYTES = 4 << 20
"""The largest request body; the largest form is a file of plans."""


class RequestSizeLimit:
    """Refuses requests whose ``Content-Length`` is too large, before the body is read.

    Django limits form fields and JSON, but writes uploaded files of any size to the disk, also for anonymous users. A body
    without ``Content-Length`` is never read.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = str(request.META.get("CONTENT_LENGTH") or "0")
        if length.isdecimal() and len(length) < 20 and int(length) <= MAX_BYTES:
            return self._get_response(request)
        detail = f"The request is larger than {MAX_BYTES >> 20} MB. It was not read."
        if request.path.startswith("/api/"):
            return problems.plain(413, "too_large", detail)
        return HttpResponse(f"{detail}\n", status=413, content_type="text/plain; charset=utf-8")
