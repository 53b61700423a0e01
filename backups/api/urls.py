"""All addresses of the interface: ``path("api/v1/", include("backups.api.urls"))``.

Another app adds routes below ``/api/v1/`` by an include before this one, which returns 404 for every other address::

    path("api/v1/consistency/", include(consistency_api.urlpatterns)),
    path("api/v1/", include("backups.api.urls")),

The project itself declares its routes like these (`operation`, `resource`). An app that does not import this one uses plain
views of the REST framework. With the setting ``REST_FRAMEWORK`` of `refserver.settings` they accept the same tokens and
sessions, return errors as problems, are throttled, and appear in the description. An attribute names the permission of each
method:
``permissions = {"GET": "consistency.view_check", "POST": "consistency.run_check"}``.
"""

import re

from django.urls import URLPattern, path, re_path, register_converter
from django.urls.converters import IntConverter, StringConverter

from backups.catalog.downloads import FILES
from backups.engine.names import BACKUP_ID, NAME

from . import approvals, audit, backups, jobs, plans, reference, repositories, session, status, tokens
from .resource import OneRepresentation, resource
from .throttling import AnonymousRate, AuditVerifyRate, CallerRate

_CONVERTERS = (
    ("backup_id", StringConverter, "latest|" + BACKUP_ID.pattern.replace("(", "(?:")),
    ("rb_name", StringConverter, NAME.pattern),
    ("rb_file", StringConverter, "|".join(map(re.escape, FILES))),
    ("rb_number", IntConverter, "[0-9]{1,15}"),
)
for _name, _base, _regex in _CONVERTERS:
    register_converter(type("Converter", (_base,), {"regex": _regex}), _name)

_BACKUP, _JOB = "backups/<backup_id:backup_id>", "jobs/<uuid:job_id>"
_PLAN, _REPOSITORY = "schedules/<rb_name:name>", "repositories/<rb_name:name>"

app_name = "backups-api"
urlpatterns: list[URLPattern] = [
    path("backups", resource("Backups", get=backups.list_backups, post=backups.create_backup), name="backups"),
    path(_BACKUP, resource("Backups", get=backups.show_backup, delete=backups.delete_backup), name="backup"),
    path(f"{_BACKUP}/verify", resource("Backups", post=backups.verify_backup)),
    path(f"{_BACKUP}/drill", resource("Backups", post=backups.drill_backup)),
    path(f"{_BACKUP}/preview", resource("Backups", post=backups.preview_restore)),
    path(f"{_BACKUP}/restore", resource("Backups", post=backups.restore_backup)),
    path(f"{_BACKUP}/hold", resource("Backups", post=backups.hold_backup)),
    path(f"{_BACKUP}/release", resource("Backups", post=backups.release_backup)),
    path(
        f"{_BACKUP}/files/<rb_file:file_name>",
        resource("Backups", get=backups.download_backup, content_negotiation_class=OneRepresentation),
        name="download",
    ),
    path("jobs", resource("Jobs", get=jobs.list_jobs), name="jobs"),
    path(_JOB, resource("Jobs", get=jobs.show_job), name="job"),
    path(f"{_JOB}/cancel", resource("Jobs", post=jobs.cancel_job)),
    path(f"{_JOB}/again", resource("Jobs", post=jobs.run_job_again)),
    path(f"{_JOB}/log", resource("Jobs", get=jobs.read_job_log)),
    path("schedules", resource("Schedules", get=plans.list_schedules, post=plans.create_schedule), name="schedules"),
    path(
        _PLAN,
        resource("Schedules", get=plans.show_schedule, patch=plans.change_schedule, delete=plans.delete_schedule),
        name="schedule",
    ),
    path(f"{_PLAN}/run", resource("Schedules", post=plans.run_schedule)),
    path(f"{_PLAN}/pause", resource("Schedules", post=plans.pause_schedule)),
    path(f"{_PLAN}/resume", resource("Schedules", post=plans.resume_schedule)),
    path("schedule-times", resource("Schedules", get=plans.preview_schedule)),
    path("repositories", resource("Repositories", get=repositories.list_repositories), name="repositories"),
    path(_REPOSITORY, resource("Repositories", get=repositories.show_repository), name="repository"),
    path(f"{_REPOSITORY}/reindex", resource("Repositories", post=repositories.reindex_repository)),
    path(f"{_REPOSITORY}/forget-missing", resource("Repositories", post=repositories.forget_missing)),
    path(f"{_REPOSITORY}/verify", resource("Repositories", post=repositories.verify_repository)),
    path(f"{_REPOSITORY}/prune", resource("Repositories", post=repositories.prune_repository)),
    path("audit", resource("Audit", get=audit.list_audit), name="audit"),
    path(
        "audit/verify",
        resource("Audit", get=audit.verify_audit, throttle_classes=(AnonymousRate, CallerRate, AuditVerifyRate)),
    ),
    path("tokens", resource("Tokens", get=tokens.list_tokens, post=tokens.create_token), name="tokens"),
    path("tokens/<rb_number:token_id>", resource("Tokens", get=tokens.show_token, delete=tokens.revoke_token), name="token"),
    path("approvals", resource("Approvals", get=approvals.list_approvals), name="approvals"),
    path("approvals/<uuid:approval_id>", resource("Approvals", get=approvals.show_approval), name="approval"),
    path("approvals/<uuid:approval_id>/decide", resource("Approvals", post=approvals.decide_approval)),
    path("session/confirm", resource("Session", post=session.confirm_session), name="confirm_session"),
    path("status", resource("Status", get=status.show_status), name="status"),
    path("readiness", resource("Status", get=status.show_readiness), name="readiness"),
    path("schema", resource("Reference", get=reference.show_schema), name="schema"),
    path("docs", reference.page, name="docs"),
    re_path("", reference.not_found),
]
