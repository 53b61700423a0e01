"""The restore while it runs, and its report."""

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render as render_template
from django.urls import reverse
from django.utils.cache import add_never_cache_headers

from backups.engine.errors import BackupNotFound
from backups.engine.progress import counted
from backups.identity import admin_site
from backups.jobs.types import PREVIEW, RESTORE, RESTORE_IN_PLACE
from backups.models import IndexedBackup, Job

from ..backups.selection import jobs_about
from ..frame import page, refused, render
from ..running import live
from .preview import is_preview_of, summarize_preview
from .selection import RestoreSelection


@page("backups.restore_backup")
def report(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The restore while it runs, and its report once it has ended."""
    job = _restore_job(job_id)
    return render(request, "backups/restore_report.html", "Restore", _report_context(job))


def report_live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponseBase:
    """The live part of the report. An account that the restore itself signed out gets an explanation, not a sign-in form."""
    if not admin_site.admits(request) or not request.user.has_perm("backups.restore_backup"):
        response = render_template(request, "backups/restore_signed_out.html", {"job_id": job_id}, status=286)
        add_never_cache_headers(response)
        return response
    return _report_live(request, job_id)


@page("backups.restore_backup")
def _report_live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    try:
        job = _restore_job(job_id)
    except BackupNotFound as problem:
        return refused(request, problem)
    response = render_template(request, "backups/restore_live.html", _report_context(job))
    if job.has_ended:
        response.headers["HX-Refresh"] = "true"
    return response


def _restore_job(job_id: uuid.UUID) -> Job:
    job = Job.objects.filter(pk=job_id, kind__in=(RESTORE.name, RESTORE_IN_PLACE.name)).first()
    if job is None:
        raise BackupNotFound("There is no restore with that id.", hint="See the list of jobs.")
    return job


def _report_context(job: Job) -> dict[str, Any]:
    """The facts of a report, from the job, the backup, and the preview that preceded it."""
    in_place = job.kind == RESTORE_IN_PLACE.name
    home = {"repository": job.repository} | ({"set": job.arguments["set"]} if job.arguments.get("set") else {})
    row = IndexedBackup.objects.filter(**home, backup_id=job.arguments["backup_id"]).order_by().first()
    result = job.result or {}
    checks = result.get("checks") or {}
    safety = str(checks.get("safety_backup") or (job.error or {}).get("safety_backup") or "")
    only = job.arguments.get("only") or ""
    selection = RestoreSelection(
        backup=job.arguments["backup_id"],
        backup_set=job.arguments.get("set", ""),
        only=only,
        target="in_place" if in_place else "",
    )
    previews = jobs_about(selection.backup).filter(kind=PREVIEW.name, state=Job.State.SUCCEEDED, created__lte=job.created)
    preview = next((one for one in previews[:10] if is_preview_of(one, selection)), None) if in_place else None
    return {
        "job": job,
        "row": row,
        "in_place": in_place,
        "selection": selection,
        "live": live(job) if not job.has_ended else None,
        "succeeded": job.state == Job.State.SUCCEEDED,
        "result": result,
        "checks": _checks(checks),
        "safety": safety,
        "back_query": RestoreSelection(backup=safety, only=only, target="in_place").as_query() if _exists(job, safety) else "",
        "again_query": selection.as_query(folder="" if in_place else str(job.arguments.get("folder", ""))),
        "accounts": result.get("accounts"),
        "preview": preview,
        "changes": summarize_preview(preview.result, in_place=True) if preview is not None and preview.result else None,
        "phases": job.phases,
        "age": (job.created - row.time) if row else None,
        "next_page": reverse("backups:restore_report", args=[job.pk]),
    }


def _exists(job: Job, backup_id: str) -> bool:
    return IndexedBackup.objects.filter(repository=job.repository, backup_id=backup_id).exists()


def _checks(checks: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks of each restored store, in words."""
    found = []
    for store, facts in checks.items():
        if not isinstance(facts, dict):
            continue
        if "tables" in facts:
            rows = sum(facts["tables"].values())
            broken = facts.get("foreign_key_check") or 0
            keys = counted(broken, "broken foreign key") if broken else "no broken foreign keys"
            tables = counted(len(facts["tables"]), "table")
            text = f"integrity check {facts['integrity_check']}; {tables}, {counted(rows, 'row')}; {keys}"
            text = "; ".join([text, *facts.get("findings", [])])
            found.append({"store": store, "text": text, "good": facts["integrity_check"] != "failed"})
        elif "collections" in facts:
            parts = [
                f"{name}: {one['count']:,} vectors{', searched' if one.get('searched') else ''}"
                for name, one in facts["collections"].items()
            ]
            text = f"{'; '.join(parts) or 'no collections'}; identical to the source"
            found.append({"store": store, "text": text, "good": True})
    return found
