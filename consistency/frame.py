"""What the project provides for the pages: the frame around them, and how work is queued.

The pages know neither the app that runs jobs nor the project's navigation. ``CONSISTENCY["FRAME"]`` names a subclass of `Frame`
that connects them; a project may also replace the template ``consistency/base.html``. Without either, the pages are shown in
the plain admin and name the command to run.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import permission_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render as render_template
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from consistency.declaration import option
from consistency.engine.errors import ConsistencyError

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to queue: *do* is ``check``, ``repair``, ``undo`` or ``resume``; the others are its arguments.

    *everything*: for a repair, also what needs confirmation; for a check, then repair what is safe. *rows*: restore lost
    rows from backups instead.
    """

    do: str
    check: int = 0
    everything: bool = False
    rows: bool = False
    kinds: tuple[str, ...] = ()
    findings: tuple[int, ...] = ()
    repair: int = 0


class Frame:
    """The plain admin, without background work."""

    queues = False
    """Whether `queue` works."""

    def page(self, permission: str, methods: tuple[str, ...], *, dangerous: bool = False) -> Callable[[View], View]:
        """A decorator: staff with *permission*, only these *methods*, CSRF protection, never cached.

        *dangerous*: a POST changes data, and a frame that can ask who is there does so first. The plain admin cannot.
        """

        def decorate(view: View) -> View:
            permitted = permission_required(permission, raise_exception=True)(view)
            allowed = require_http_methods([*methods, *(("HEAD",) if "GET" in methods else ())])(permitted)
            return never_cache(csrf_protect(staff_member_required(allowed)))

        return decorate

    def render(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        full = {**admin.site.each_context(request), "title": title, **context}
        return render_template(request, template, full)

    def queue(self, request: HttpRequest, work: Work) -> str:
        """Queue *work* and return the address where it can be watched. Raises `ConsistencyError`."""
        raise ConsistencyError(
            "This project does not run consistency work in the background.",
            hint="Run `manage.py consistency_check`; --help describes --repair and --undo.",
        )

    def running(self, request: HttpRequest) -> dict[str, Any]:
        """The context of ``consistency/running.html``: queued and running work."""
        return {}

    def snapshot(self, name: str) -> str:
        """The address of the page of a backup made before a repair; empty if it has none."""
        return ""


def frame() -> Frame:
    """The frame that ``CONSISTENCY["FRAME"]`` names, or the plain admin."""
    path = option("FRAME")
    return import_string(path)() if path else Frame()


def page(permission: str, *, methods: tuple[str, ...] = ("GET",), dangerous: bool = False) -> Callable[[View], View]:
    """The decorator of each view. The project's frame is loaded for each request: settings are not read at import."""

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def framed(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            return frame().page(permission, methods, dangerous=dangerous)(view)(request, *args, **kwargs)

        framed.dangerous = dangerous  # type: ignore[attr-defined]
        return framed

    return decorate
