"""The site's own middleware, static files and health check."""

import contextlib
import ipaddress
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import Resolver404, resolve
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from whitenoise.storage import CompressedManifestStaticFilesStorage  # type: ignore[import-untyped]

from backups.api import problems

MAX_BYTES = 4 << 20
"""The largest request body; documents are added on the command line, so the largest form is a file of plans."""

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the admin's style sheets use data: URLs for arrows
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"

View = Callable[[HttpRequest], HttpResponse]


class ClientAddress:
    """Sets ``REMOTE_ADDR`` to the last address of ``X-Forwarded-For``, which the proxy added.

    The earlier ones come from the client. Use it only behind a proxy (REFSERVER_BEHIND_PROXY): otherwise the client controls
    the whole header.
    """

    def __init__(self, get_response: View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass *request* on with the address corrected; an invalid address is ignored."""
        last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        with contextlib.suppress(ValueError):
            request.META["REMOTE_ADDR"] = str(ipaddress.ip_address(last.strip("[]")))
        return self._get_response(request)


class PageHeaders:
    """Allows pages to load from, and send to, this server only, unless a view set its own policy."""

    def __init__(self, get_response: View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        return response


class EitherSlash:
    """Serves every address with and without a trailing slash.

    The pages of the admin end in a slash, the addresses of the API do not. Where a slash is missing Django redirects a GET; the
    redirect of a POST would lose its body. Addresses that only the catch-alls below ``admin/`` and ``api/v1/`` match count as
    unknown.
    """

    _CATCH_ALLS = frozenset({"catch_all_view", "not_found"})

    def __init__(self, get_response: View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path_info
        redirected = not path.endswith("/") and request.method in ("GET", "HEAD")
        if not redirected and not self._is_known(path):
            other = path[:-1] if path.endswith("/") else f"{path}/"
            if self._is_known(other):
                request.path = request.path.removesuffix(path) + other
                request.path_info = other
        return self._get_response(request)

    def _is_known(self, path: str) -> bool:
        try:
            return resolve(path).func.__name__ not in self._CATCH_ALLS
        except Resolver404:
            return False


class RequestSizeLimit:
    """Refuses requests whose ``Content-Length`` is too large, before the body is read.

    Django limits form fields and JSON, but writes uploaded files of any size to the disk, also for anonymous users. A body
    without ``Content-Length`` is never read.
    """

    def __init__(self, get_response: View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = str(request.META.get("CONTENT_LENGTH") or "0")
        if length.isdecimal() and len(length) < 20 and int(length) <= MAX_BYTES:
            return self._get_response(request)
        detail = f"The request is larger than {MAX_BYTES >> 20} MB. It was not read."
        if request.path.startswith("/api/"):
            return problems.plain(413, "too_large", detail)
        return HttpResponse(f"{detail}\n", status=413, content_type="text/plain; charset=utf-8")


class CollectedFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # whitenoise has no types
    """Whitenoise's storage: static files are compressed, and named by their content, so that browsers may cache them forever.

    A file that was not collected keeps its plain name: a page must not fail because a style sheet is missing.
    """

    def stored_name(self, name: str) -> str:
        try:
            return str(super().stored_name(name))
        except ValueError:
            return name


@require_safe
@never_cache
def alive(request: HttpRequest) -> JsonResponse:
    """Answer 200 without using a database: a restore that locks them must not restart the web server."""
    return JsonResponse({"status": "alive"})
