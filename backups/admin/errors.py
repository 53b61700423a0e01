"""Error pages below ``/admin/backup/`` and ``/admin/consistency/`` keep the frame; elsewhere Django's own views show them.

A project names them in its root URLs: ``handler403 = "backups.admin.errors.not_allowed"``.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views import defaults

from backups.identity import admin_site

from .frame import is_framed, render

Handler = Callable[[HttpRequest, Exception], HttpResponseBase]

_NO_PAGE = "There is no page at this address."
_NO_PERMISSION = "Your account does not have the permission for this."
_ASK = "Ask an administrator to add it to a group that has it. Nothing was changed."


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """The handler for 404."""
    return _framed(request, exception, "Not found", 404, _NO_PAGE) or defaults.page_not_found(request, exception)


def not_allowed(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """The handler for 403."""
    return _framed(request, exception, "Not allowed", 403, _NO_PERMISSION, _ASK) or defaults.permission_denied(
        request, exception
    )


def _framed(
    request: HttpRequest, exception: Exception, title: str, status: int, otherwise: str, hint: str = ""
) -> HttpResponse | None:
    """The error in the frame, with the text of *exception* or *otherwise*; None outside the admin, and without staff rights."""
    if not is_framed(request) or not hasattr(request, "user") or not admin_site.admits(request):
        return None
    [said, *_] = exception.args or [""]
    said = said if isinstance(said, str) and said else otherwise  # for an address without a page it is a dictionary
    return render(request, "backups/error.html", title, {"said": said, "hint": hint}, status=status)
