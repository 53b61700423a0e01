"""How large a request may be. Nothing that is sent to this site is large: documents come in on the command line."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from backups.api import problems

LARGEST = 4 << 20
"""Bytes of a request's body; the largest form is a file of plans."""


class BodyLimit:
    """Refuses what is larger, by what it says of its length, before anything of it is read.

    Django bounds forms and JSON, but writes files of a form of any size to the disk, also for somebody who is not signed in. A
    body without ``Content-Length`` is read by nobody here.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer 413, or pass *request* on."""
        length = str(request.META.get("CONTENT_LENGTH") or "0")
        if length.isdecimal() and len(length) < 20 and int(length) <= LARGEST:
            return self._get_response(request)
        detail = f"The request is too large: {LARGEST >> 20} MB are the most. Nothing of it was read."
        if request.path.startswith("/api/"):
            return problems.plain(413, "too_large", detail)
        return HttpResponse(f"{detail}\n", status=413, content_type="text/plain; charset=utf-8")
