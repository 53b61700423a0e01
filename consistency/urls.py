"""The addresses of the pages: ``path("admin/consistency/", include("consistency.urls"))``, before the admin's own."""

from django.urls import URLPattern, path

from consistency.web import checks, findings, overview, repairs

app_name = "consistency"
urlpatterns: list[URLPattern] = [
    path("", overview.overview, name="overview"),
    path("running/", overview.running, name="running"),
    path("check/", overview.check_now, name="check_now"),
    path("checks/", checks.checks, name="checks"),
    path("checks/<int:number>/", checks.check, name="check"),
    path("checks/<int:number>/repair/", repairs.plan, name="plan"),
    path("findings/<int:number>/", findings.finding, name="finding"),
    path("repairs/<int:number>/", repairs.repair, name="repair"),
    path("repairs/<int:number>/undo/", repairs.undo, name="undo"),
    path("repairs/resume/", repairs.resume, name="resume"),
]
