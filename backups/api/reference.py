"""The OpenAPI document, and a page to read and try it that loads nothing from other sites."""

import functools
import re
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import Resolver404, get_script_prefix, resolve, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, ensure_csrf_cookie
from django.views.decorators.http import require_safe
from drf_spectacular.generators import EndpointEnumerator, SchemaGenerator
from drf_spectacular.settings import SPECTACULAR_DEFAULTS, patched_settings
from rest_framework.request import Request
from rest_framework.response import Response

from backups.engine.errors import BackupNotFound
from backups.identity import admin_site

from . import legacy, problems
from .operation import Operation
from .resource import Resource

_NOT_PATCHED = ("SERVE_", "DEFAULT_GENERATOR_CLASS")
_TAGS = (
    *("Status", "Backups", "Jobs", "Schedules", "Repositories", "Consistency"),
    *("Audit", "Tokens", "Approvals", "Session", "Reference"),
    legacy.TAG,
)
_SETTINGS: dict[str, Any] = {
    **{name: value for name, value in SPECTACULAR_DEFAULTS.items() if not name.startswith(_NOT_PATCHED)},
    "TITLE": "Backups",
    "DESCRIPTION": "Create, verify and restore backups that capture SQLite and ChromaDB at the same instant.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "POSTPROCESSING_HOOKS": [],
}
"""In place of the project's ``SPECTACULAR_SETTINGS``, which describe its own interface."""


class _OwnEndpoints(EndpointEnumerator):
    """The routes of this interface; the project's other views are not even looked at."""

    def should_include_endpoint(self, path: str, callback: Any) -> bool:
        own = issubclass(getattr(callback, "cls", type(None)), Resource)
        return own and bool(super().should_include_endpoint(path, callback))


class _Generator(SchemaGenerator):
    endpoint_inspector_cls = _OwnEndpoints


@functools.cache
def description() -> dict[str, Any]:
    """The OpenAPI document. It is the same for every account, and generated once per process."""
    with patched_settings(_SETTINGS):
        generator = _Generator()  # type: ignore[no-untyped-call]
        document: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    used = {tag for methods in document["paths"].values() for method in methods.values() for tag in method.get("tags", ())}
    return document | {"tags": [{"name": name} for name in _TAGS if name in used]}


@Operation(responses={200: {"application/json": {"type": "object"}}})
def show_schema(request: Request) -> HttpResponseBase:
    """Get the OpenAPI 3.1 description of this interface."""
    below = request._request.META.get("SCRIPT_NAME") or get_script_prefix().rstrip("/")
    return Response(description() | ({"servers": [{"url": below}]} if below else {}))


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
_MEMBER = re.compile(f"(?P<list>{'|'.join(_LISTED)})/(?P<name>[^/]+)")


@csrf_exempt
def not_found(request: HttpRequest) -> HttpResponse:
    """A problem with 404, for any method and every other address below this interface; it says which name is none."""
    below = request.path.removeprefix(problems.top())
    asked = _MEMBER.match(below)
    if asked is not None and _is_nothing(request.path_info.removesuffix(below) + asked[0]):  # nothing can have this name
        backup = asked["list"] == "backups"
        problem = problems.unknown(
            _LISTED[asked["list"]], asked["name"], asked["list"], code=BackupNotFound.code if backup else "not_found"
        )
        return problems.plain(404, problem.code, str(problem.detail), problem.hint)
    return problems.plain(404, "not_found", "Nothing exists at this address.", problems.hint_of(404))


def _is_nothing(path: str) -> bool:
    try:
        return resolve(path).func is not_found
    except Resolver404:
        return True


@require_safe
@never_cache
@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """The description to read and try, for users of the admin."""
    if not admin_site.admits(request):
        return redirect_to_login(request.get_full_path(), admin_site.sign_in_address())
    return render(request, "backups/api.html", {"schema": reverse("backups-api:schema")})
