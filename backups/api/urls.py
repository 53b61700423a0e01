"""The addresses: ``path("api/v1/", include("backups.api.urls"))``, and ``earlier`` before the pages.

Another app adds routes below ``/api/v1/`` by being included before this one, which answers 404 for all that it does not know::

    path("api/v1/consistency/", include(consistency_api.urlpatterns)),
    path("api/v1/", include("backups.api.urls")),

Those of the project itself are declared as these are (`operation`). An app that knows nothing of this one has plain views of
the REST framework. With the settings of `refserver.settings` (``REST_FRAMEWORK``) they take the
same tokens and sessions, answer errors as problems, are throttled, and appear in the description. They say which permission a
method takes in an attribute: ``permissions = {"GET": "consistency.view_check", "POST": "consistency.run_check"}``.
"""

from __future__ import annotations

from django.urls import URLPattern, path, re_path, register_converter

from backups.engine.names import BACKUP_ID, NAME

from . import audit, backups, jobs, reference, repositories, schedules, status, tokens


class _BackupId:
    regex = "latest|" + BACKUP_ID.pattern.replace("(", "(?:")

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class _Name(_BackupId):
    regex = NAME.pattern


class _FileName(_BackupId):
    regex = r"data\.tar\.zst|manifest\.json|SHA256SUMS"


class _Number:
    regex = "[0-9]{1,15}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


for _kind, _called in ((_BackupId, "backup_id"), (_Name, "rb_name"), (_FileName, "rb_file"), (_Number, "rb_number")):
    register_converter(_kind, _called)

app_name = "backups-api"
urlpatterns: list[URLPattern] = [
    path("backups", backups.Backups.as_view(), name="backups"),
    path("backups/<backup_id:backup_id>", backups.Backup.as_view(), name="backup"),
    path("backups/<backup_id:backup_id>/verify", backups.Verify.as_view()),
    path("backups/<backup_id:backup_id>/drill", backups.Drill.as_view()),
    path("backups/<backup_id:backup_id>/preview", backups.Preview.as_view()),
    path("backups/<backup_id:backup_id>/restore", backups.Restore.as_view()),
    path("backups/<backup_id:backup_id>/hold", backups.Hold.as_view()),
    path("backups/<backup_id:backup_id>/release", backups.Release.as_view()),
    path("backups/<backup_id:backup_id>/files/<rb_file:file_name>", backups.Download.as_view(), name="download"),
    path("jobs", jobs.Jobs.as_view(), name="jobs"),
    path("jobs/<uuid:job_id>", jobs.Job.as_view(), name="job"),
    path("jobs/<uuid:job_id>/cancel", jobs.Cancel.as_view()),
    path("jobs/<uuid:job_id>/again", jobs.Again.as_view()),
    path("jobs/<uuid:job_id>/log", jobs.Log.as_view()),
    path("schedules", schedules.ScheduleList.as_view(), name="schedules"),
    path("schedules/<rb_name:name>", schedules.Schedule.as_view(), name="schedule"),
    path("schedules/<rb_name:name>/run", schedules.Run.as_view()),
    path("schedules/<rb_name:name>/pause", schedules.Pause.as_view()),
    path("schedules/<rb_name:name>/resume", schedules.Resume.as_view()),
    path("schedule-times", schedules.TimesOf.as_view()),
    path("repositories", repositories.Repositories.as_view(), name="repositories"),
    path("repositories/<rb_name:name>", repositories.Repository.as_view(), name="repository"),
    path("repositories/<rb_name:name>/reindex", repositories.Reindex.as_view()),
    path("repositories/<rb_name:name>/verify", repositories.Verify.as_view()),
    path("repositories/<rb_name:name>/prune", repositories.Prune.as_view()),
    path("audit", audit.Audit.as_view(), name="audit"),
    path("audit/verify", audit.Verify.as_view()),
    path("tokens", tokens.Tokens.as_view(), name="tokens"),
    path("tokens/<rb_number:token_id>", tokens.Token.as_view(), name="token"),
    path("status", status.Safe.as_view(), name="status"),
    path("readiness", status.ReadinessOf.as_view(), name="readiness"),
    path("schema", reference.Description.as_view(), name="schema"),
    path("docs", reference.page, name="docs"),
    re_path("", reference.nothing_here),
]
