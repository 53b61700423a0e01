"""What the pages take from the project: what stands around them, and who does the work that they ask for.

The pages know nothing of the app that runs jobs, nor of the project's navigation. ``CONSISTENCY["FRAME"]`` names a subclass of
`Frame` that joins them; all that differs is in that one class, and in the template ``consistency/base.html``, which a project
may put in place of this app's. Without either the pages stand in the plain admin, and say which command to type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.shortcuts import render as render_template
from django.urls import reverse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect

from consistency.declaration import option
from consistency.engine.errors import ConsistencyError

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a person asked for: ``check``, ``repair``, ``undo`` or ``resume``, with what it takes.

    *everything*: repair also what asks; of a check: then repair what is safe.
    """

    do: str
    check: int = 0
    everything: bool = False
    kinds: tuple[str, ...] = ()
    findings: tuple[int, ...] = ()
    repair: int = 0


class Frame:
    """The plain admin, in which nothing is done in the background."""

    queues = False
    """Whether `queue` does anything."""

    def page(self, permission: str, methods: tuple[str, ...]) -> Callable[[View], View]:
        """A decorator: signed-in staff with *permission*, one of *methods*, CSRF for what changes, never cached."""

        def decorate(view: View) -> View:
            @functools.wraps(view)
            def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
                if not admin.site.has_permission(request):
                    return redirect_to_login(request.get_full_path(), reverse("admin:login"))
                if request.method not in (*methods, *(("HEAD",) if "GET" in methods else ())):
                    return HttpResponseNotAllowed(methods)
                if not request.user.has_perm(permission):
                    raise PermissionDenied
                return view(request, *args, **kwargs)

            return never_cache(csrf_protect(guarded))

        return decorate

    def render(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        """A whole page."""
        full = {**admin.site.each_context(request), "title": title, **context}
        return render_template(request, template, full)

    def queue(self, request: HttpRequest, work: Work) -> str:
        """Have *work* done, and return the address at which it can be watched. Raises `ConsistencyError`."""
        raise ConsistencyError(
            "This project has named nothing that does the work.",
            hint="Type `manage.py check_consistency`; --help tells of --repair and --undo.",
        )

    def running(self, request: HttpRequest) -> dict[str, Any]:
        """What ``consistency/running.html`` shows of work that waits or runs."""
        return {}

    def snapshot(self, name: str) -> str:
        """The address of a backup that was made before a repair; empty when it has none."""
        return ""


def frame() -> Frame:
    """The project's frame."""
    path = option("FRAME")
    return import_string(path)() if path else Frame()


def page(permission: str, *, methods: tuple[str, ...] = ("GET",)) -> Callable[[View], View]:
    """The decorator of each view. The project's frame is asked for at each request: settings are not read at import.

    A `ConsistencyError` sends the reader back to the overview with its message.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def framed(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            return frame().page(permission, methods)(view)(request, *args, **kwargs)

        return framed

    return decorate


def say(request: HttpRequest, text: str, level: int = messages.SUCCESS) -> None:
    """A message for the next page that this person sees."""
    messages.add_message(request, level, text)
