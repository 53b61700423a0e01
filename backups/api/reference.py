"""The OpenAPI document, and a page to read and try it that loads nothing from other sites."""

import functools
import re
from typing import Any

from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import resolve, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, ensure_csrf_cookie
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from rest_framework.request import Request
from rest_framework.response import Response

from backups.engine.errors import BackupNotFound

from . import problems
from .operation import Operation


@functools.cache
def description() -> dict[str, Any]:
    """The OpenAPI document. It is the same for every account, and generated once per process."""
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]
    document: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return document


@Operation(responses={200: {"application/json": {"type": "object"}}})
def show_schema(request: Request) -> HttpResponseBase:
    """Get the OpenAPI 3.1 description of this interface."""
    return Response(description())


_LISTED = {
    "backups": "backup",
    "jobs": "job",
    "schedules": "plan",
    "repositories": "repository",
    "tokens": "token",
    "consistency/checks": "check",
    "consistency/issues": "finding",
    "consistency/repairs": "repair",
}
_MEMBER = re.compile(f"/(?P<list>{'|'.join(_LISTED)})/(?P<name>[^/]+)")


@csrf_exempt
def not_found(request: HttpRequest) -> HttpResponse:
    """A problem with 404, for any method and every other address below this interface; it says which name is none."""
    asked = _MEMBER.search(request.path_info)
    if asked is not None and resolve(request.path_info[: asked.end()]).func is not_found:  # nothing can have this name
        backup = asked["list"] == "backups"
        problem = problems.unknown(
            _LISTED[asked["list"]], asked["name"], asked["list"], code=BackupNotFound.code if backup else "not_found"
        )
        return problems.plain(404, problem.code, str(problem.detail), problem.hint)
    return problems.plain(404, "not_found", "Nothing exists at this address.", problems.HINTS[404])


@require_safe
@never_cache
@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """The description to read and try, for users of the admin."""
    if not admin.site.has_permission(request):
        return redirect_to_login(request.get_full_path(), reverse("admin:login"))
    return render(request, "backups/api.html", {"schema": reverse("backups-api:schema")})
