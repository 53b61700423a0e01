"""The addresses of the pages: ``path("admin/consistency/", include("consistency.urls"))``, before the admin's own."""

from __future__ import annotations

from django.urls import URLPattern, path

from consistency import pages

app_name = "consistency"
urlpatterns: list[URLPattern] = [
    path("", pages.overview, name="overview"),
    path("running/", pages.running, name="running"),
    path("check/", pages.check_now, name="check_now"),
    path("checks/", pages.checks, name="checks"),
    path("checks/<int:number>/", pages.check, name="check"),
    path("checks/<int:number>/repair/", pages.plan, name="plan"),
    path("findings/<int:number>/", pages.finding, name="finding"),
    path("repairs/<int:number>/", pages.repair, name="repair"),
    path("repairs/<int:number>/undo/", pages.undo, name="undo"),
    path("repairs/resume/", pages.resume, name="resume"),
]
