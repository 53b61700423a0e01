"""What is done by itself, and when?"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.view_plan")
def overview(request: HttpRequest, **_: object) -> HttpResponse:
    """What is done by itself, and when?"""
    return render(request, "backups/plans.html", "Plans")


urlpatterns: list[URLPattern] = [
    path("plans/", overview, name="plans"),
    path("plans/<str:name>/", overview, name="plan"),
]
