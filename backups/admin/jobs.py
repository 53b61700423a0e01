"""What happened, and what is running?"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.view_job")
def overview(request: HttpRequest, **_: object) -> HttpResponse:
    """What happened, and what is running?"""
    return render(request, "backups/jobs.html", "Jobs")


urlpatterns: list[URLPattern] = [
    path("jobs/", overview, name="jobs"),
    path("jobs/<uuid:job_id>/", overview, name="job"),
]
