"""What do I have?"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.view_backup")
def overview(request: HttpRequest, **_: object) -> HttpResponse:
    """What do I have?"""
    return render(request, "backups/backups.html", "Backups")


urlpatterns: list[URLPattern] = [
    path("backups/", overview, name="backups"),
    path("backups/<str:backup_id>/", overview, name="backup"),
]
