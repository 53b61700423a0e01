"""What all pages share: permission checks, the frame of Django's admin, messages and errors.

Templates escape every value, notes included; `say` escapes its text. Nothing in `backups` marks text from outside as safe.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.shortcuts import render as render_template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect

from backups.engine.errors import HTTP_STATUS, EngineError, UsageError
from backups.identity import admin_site, four_eyes
from backups.identity.permissions import groups_with
from backups.models import Job

from .badges import badges

View = Callable[..., HttpResponseBase]
M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Tab:
    """An entry of the navigation: URL name, label, and the permission that shows it."""

    name: str
    label: str
    permission: str


ALERTS = Tab("backups:alerts", "Alerts", "backups.view_alert")
APPROVALS = Tab("backups:approvals", "Approvals", "backups.view_audit")
TABS = (
    Tab("backups:dashboard", "Overview", "backups.view_backup"),
    Tab("backups:backups", "Backups", "backups.view_backup"),
    Tab("backups:restore", "Restore", "backups.restore_backup"),
    Tab("backups:jobs", "Jobs", "backups.view_job"),
    Tab("backups:plans", "Plans", "backups.view_plan"),
    Tab("consistency:overview", "Consistency", "consistency.view_check"),
    Tab("backups:readiness", "Readiness", "backups.view_backup"),
    ALERTS,
    Tab("backups:tokens", "Tokens", "backups.issue_token"),
    Tab("backups:audit", "Audit", "backups.view_audit"),
    APPROVALS,
)


def page(permission: str = "", *, methods: tuple[str, ...] = ("GET",)) -> Callable[[View], View]:
    """Guard a view: staff only, with *permission* if it is given, one of *methods*, CSRF protection, never cached.

    Which groups have a permission is in `backups.identity.permissions`. An `EngineError` becomes a page with its hint.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not admin_site.admits(request):
                return redirect_to_login(request.get_full_path(), admin_site.sign_in_address())
            if request.method not in (*methods, *(("HEAD",) if "GET" in methods else ())):
                return HttpResponseNotAllowed(methods)
            if permission:
                require(request, permission)
            if _holds_nul(request, kwargs):
                problem = UsageError("The request contains a NUL character.", hint="Nothing was changed.")
                return refused(request, problem)
            try:
                return view(request, *args, **kwargs)
            except EngineError as problem:
                return refused(request, problem)

        return never_cache(csrf_protect(guarded))

    return decorate


def render(
    request: HttpRequest, template: str, title: str, context: dict[str, Any] | None = None, *, status: int = 200
) -> HttpResponse:
    """A whole page: *template* extends ``backups/base.html``."""
    tabs = [(tab, address) for tab in TABS if (address := _address(tab)) and _is_shown(request, tab)]
    top = _address(TABS[0])  # all other addresses begin with that of the overview
    fitting = (address for _, address in tabs if request.path.startswith(address) and (address != top or request.path == top))
    here = max(fitting, key=len, default="")
    addresses = [address for _, address in tabs]
    marked = badges(addresses, _address(ALERTS), (context or {}).get("conditions")) if top in addresses else {}
    full = {
        **admin_site.site().each_context(request),
        "title": title,
        "tabs": [
            {"label": tab.label, "address": address, "here": address == here, "badge": marked.get(address)}
            for tab, address in tabs
        ],
        **(context or {}),
    }
    return render_template(request, template, full, status=status)


def _is_shown(request: HttpRequest, tab: Tab) -> bool:
    return request.user.has_perm(tab.permission) and (tab is not APPROVALS or four_eyes.is_required())


def refused(request: HttpRequest, problem: EngineError) -> HttpResponse:
    """A page with the error and its hint; for htmx only that part of the page."""
    status = HTTP_STATUS.get(problem.code, 500)
    if request.headers.get("HX-Request"):
        return render_template(request, "backups/problem.html", {"problem": problem}, status=status)
    return render(request, "backups/refused.html", "Error", {"problem": problem}, status=status)


def say(request: HttpRequest, text: str, *, level: int = messages.SUCCESS) -> None:
    """Show *text* on the next page, escaped unless `format_html` made it."""
    messages.add_message(request, level, text)


def say_queued(request: HttpRequest, what: str, job: Job) -> None:
    """Show that *job* was queued, with a link to it."""
    say(request, format_html('{}: <a href="{}">show the job</a>.', what, job.get_absolute_url()))


def address_of(target: str) -> str:
    """The page of the target of an audit entry, such as ``job:ID``; empty if it has none."""
    kind, _, name = target.partition(":")
    try:
        return reverse(f"backups:{kind}", args=[name]) if kind in ("backup", "job", "plan") else ""
    except NoReverseMatch:
        return ""


def return_address(request: HttpRequest, otherwise: str) -> str:
    """The address in ``next`` or ``back`` of the request if it is on this site, else *otherwise*."""
    sent = [values.get(name) for values in (request.POST, request.GET) for name in ("next", "back")]
    address = next(filter(None, sent), "")
    hosts, https = {request.get_host()}, request.is_secure()
    return address if url_has_allowed_host_and_scheme(address, hosts, require_https=https) else otherwise


def require(request: HttpRequest, permission: str) -> None:
    """Raises ``PermissionDenied``, which names the groups that have *permission*, unless the account has it."""
    if not request.user.has_perm(permission):
        *others, last = groups_with(permission) or [""]
        named = f"{', '.join(others)} or {last}" if others else last
        raise PermissionDenied(f"This needs the group {named}." if named else "")


def found_or_404(rows: QuerySet[M], what: str, **key: Any) -> M:
    """The row with this *key*. Raises ``Http404`` that says that there is no *what* with it, such as ``job``."""
    row = rows.filter(**key).first()
    if row is None:
        raise Http404(f"There is no {what} {next(iter(key.values()))}.")
    return row


def is_framed(request: HttpRequest) -> bool:
    """Whether the address is below one of the pages of `TABS`."""
    return any(address and request.path.startswith(address) for address in map(_address, TABS))


def _holds_nul(request: HttpRequest, kwargs: dict[str, Any]) -> bool:
    """Whether an address or a form contains NUL, which PostgreSQL rejects in text and a process argument cannot hold."""
    sent = [value for _, values in (*request.GET.lists(), *request.POST.lists()) for value in values]
    return any("\0" in value for value in (*sent, *kwargs.values()) if isinstance(value, str))


def _address(tab: Tab) -> str:
    try:
        return reverse(tab.name)
    except NoReverseMatch:
        return ""  # that part is not installed
