"""Bring something back."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.restore_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """Bring something back."""
    return render(request, "backups/restore.html", "Restore")


urlpatterns: list[URLPattern] = [path("restore/", overview, name="restore")]
