"""The addresses of the pages, put together from their areas: ``path("admin/backup/", include("backups.admin.urls"))``."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver

from . import alerts, audit, backups, dashboard, jobs, plans, readiness, restore, second_factor, tokens

app_name = "backups"
urlpatterns: list[URLPattern | URLResolver] = [
    *dashboard.urlpatterns,
    *backups.urlpatterns,
    *restore.urlpatterns,
    *jobs.urlpatterns,
    *plans.urlpatterns,
    *readiness.urlpatterns,
    *alerts.urlpatterns,
    *tokens.urlpatterns,
    *audit.urlpatterns,
    *second_factor.urlpatterns,
]
