"""Who did what?"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.view_audit")
def overview(request: HttpRequest) -> HttpResponse:
    """Who did what?"""
    return render(request, "backups/audit.html", "Audit")


urlpatterns: list[URLPattern] = [path("audit/", overview, name="audit")]
