"""The admin site around the pages: the one that the project has in its URLs, which need not be Django's default one."""

from django.conf import settings
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse

from backups.conf import configuration


def site() -> AdminSite:
    """The site that ``BACKUPS["ADMIN_SITE"]`` names, or the one at ``admin:index``; Django's default one if there is none."""
    try:
        path = "/" + reverse("admin:index", current_app=configuration().admin_site).removeprefix(get_script_prefix())
        found = getattr(resolve(path).func, "admin_site", None)
    except (NoReverseMatch, Resolver404):
        found = None
    return found if isinstance(found, AdminSite) else admin.site


def address(name: str) -> str:
    """The address of a page of the site: ``index``, ``login``. Raises ``NoReverseMatch`` where no admin site has one."""
    return reverse(f"admin:{name}", current_app=site().name)


def sign_in_address() -> str:
    """The address of the page to sign in at: that of the site, or ``LOGIN_URL``."""
    try:
        return address("login")
    except NoReverseMatch:
        return resolve_url(settings.LOGIN_URL)


def admits(request: HttpRequest) -> bool:
    """Whether the account of *request* may use the site. Marks the request, so that its templates link to that site."""
    here = site()
    request.current_app = here.name
    return here.has_permission(request)
