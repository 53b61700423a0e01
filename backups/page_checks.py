"""System checks of what the pages and the REST interface need, each with an id and a hint. Django's admin checks the rest.

=========== ============================================================================
backups.    what
=========== ============================================================================
E020        an app that the pages need is not installed
E021        no admin site is in the URLs
E022        static files are not found
W020        the pages are not in the URLs
W021        sessions that no restore can end
W022        a policy of the project (``SECURE_CSP``) forbids the pages' own files
W023        another name of the header with the CSRF token
W024        requests are not counted
W025        the page to try the REST interface has no files
=========== ============================================================================
"""

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.checks import CheckMessage, Error, Warning, register
from django.urls import NoReverseMatch, reverse

from .identity import sessions

TAG = "backups_pages"

_NEEDED = ("django.contrib.admin", "django.contrib.messages", "django.contrib.staticfiles")
_CSP = "django.middleware.csp.ContentSecurityPolicyMiddleware"


@register(TAG)
def pages(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check apps, addresses, static files, sessions and headers."""
    missing = [name for name in _NEEDED if not apps.is_installed(name)]
    if missing:
        hint = f"Add {', '.join(map(repr, missing))} to INSTALLED_APPS."
        return [Error("The pages of backups need Django's admin and its parts.", hint=hint, id="backups.E020")]
    return [*_of_urls(), *_of_static_files(), *_of_sessions(), *_of_headers()]


def _of_urls() -> Iterator[CheckMessage]:
    try:
        reverse("backups:dashboard")
    except NoReverseMatch:
        hint = "Add path('backups/', include('backups.urls')) to the root URLconf, in no namespace."
        yield Warning("The pages of backups are not in the URLs.", hint=hint, id="backups.W020")
        return
    try:
        reverse("admin:index")
    except NoReverseMatch:
        hint = "Add path('admin/', admin.site.urls), or the urls of your own AdminSite, to the root URLconf."
        yield Error("The pages of backups have no admin site to sign in at.", hint=hint, id="backups.E021")


def _of_static_files() -> Iterator[CheckMessage]:
    if finders.find("backups/pages.css") is None:
        hint = "Add django.contrib.staticfiles.finders.AppDirectoriesFinder to STATICFILES_FINDERS."
        yield Error("The style sheets and scripts of backups are not found.", hint=hint, id="backups.E022")
    if not apps.is_installed("drf_spectacular_sidecar"):
        hint = "Add 'drf_spectacular_sidecar' to INSTALLED_APPS."
        yield Warning("The page to try the REST interface has no files of its own.", hint=hint, id="backups.W025")


def _of_sessions() -> Iterator[CheckMessage]:
    if not sessions.can_be_ended():
        yield Warning(
            f"A restore that changes accounts cannot sign anybody out: sessions are kept by {settings.SESSION_ENGINE}.",
            hint="Set SESSION_ENGINE = 'backups.identity.sessions', or django.contrib.sessions.backends.db.",
            id="backups.W021",
        )


def _of_headers() -> Iterator[CheckMessage]:
    policy = getattr(settings, "SECURE_CSP", {}) if _CSP in settings.MIDDLEWARE else {}
    for directive in ("script-src", "style-src", "connect-src"):
        allowed = policy.get(directive, policy.get("default-src"))
        if allowed is not None and "'self'" not in allowed:
            hint = f"Add 'self' to {directive} of SECURE_CSP. The pages have no inline scripts or styles."
            yield Warning(f"SECURE_CSP forbids files of this site ({directive}).", hint=hint, id="backups.W022")
    if settings.CSRF_HEADER_NAME != "HTTP_X_CSRFTOKEN":
        hint = "Leave CSRF_HEADER_NAME at its default, HTTP_X_CSRFTOKEN."
        yield Warning("The scripts of the pages send another header than CSRF_HEADER_NAME.", hint=hint, id="backups.W023")
    if str(settings.CACHES["default"]["BACKEND"]).endswith("DummyCache"):
        hint = "Use another cache: in it, requests are counted for each token and address."
        yield Warning("The REST interface limits nobody: CACHES['default'] keeps nothing.", hint=hint, id="backups.W024")
