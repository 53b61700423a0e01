"""Are we safe?"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.view_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """Are we safe?"""
    return render(request, "backups/dashboard.html", "Overview")


urlpatterns: list[URLPattern] = [path("", overview, name="dashboard")]
