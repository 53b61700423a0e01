"""Step 3: what the restore would change, from a preview that a job computes."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import reverse
from django.utils import timezone

from backups.engine.errors import UsageError
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.jobs.types import PREVIEW
from backups.models import Job

from ..frame import page
from ..running import live
from .preview import FRESH, effect_on_current_user, preview_of, summarize_preview
from .selection import RestoreSelection, RestoreTarget, render_step


@page("backups.restore_backup", methods=("GET", "POST"))
def changes(request: HttpRequest) -> HttpResponse:
    """What the restore would change. A POST queues a new preview."""
    selection = RestoreSelection.of(request.POST if request.method == "POST" else request.GET)
    if not selection.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    target = RestoreTarget.of(selection)
    if target.problems_of(selection):
        return HttpResponseRedirect(f"{reverse('backups:restore_what')}?{selection.as_query(go='1')}")
    if request.method == "POST":
        job = submit.preview_restore(
            actor_of(request), backup_id=selection.backup, repository=selection.repository, only=selection.only or None
        )
        selection = selection.changed(look=str(job.pk))
        address = f"{reverse('backups:restore_changes')}?{selection.as_query()}"
        if not request.headers.get("HX-Request"):
            return HttpResponseRedirect(address)
        context = _preview_context(request, selection, target, job)
        response = render_template(request, "backups/restore_preview.html", context)
        response.headers["HX-Replace-Url"] = address
        return response
    found = preview_of(selection)
    if found is not None:
        selection = selection.changed(look=str(found.pk))
    context = _preview_context(request, selection, target, found) | {"size": target.bytes_of(selection.only)}
    return render_step(request, "restore_changes", selection, context)


@page("backups.restore_backup")
def preview(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The live part of this step, polled every second while the preview runs."""
    selection = RestoreSelection.of(request.GET).changed(look=str(job_id))
    job = Job.objects.filter(pk=job_id, kind=PREVIEW.name).first()
    if job is None:
        raise UsageError("There is no such job.", hint="Run the preview again.")
    context = _preview_context(request, selection, RestoreTarget.of(selection), job)
    return render_template(request, "backups/restore_preview.html", context)


def _preview_context(
    request: HttpRequest, selection: RestoreSelection, target: RestoreTarget, job: Job | None
) -> dict[str, Any]:
    """The preview's job, and its result once it has succeeded."""
    context: dict[str, Any] = {
        "job": job,
        "selection": selection,
        "query": selection.as_query(),
        "target": target,
        "row": target.row,
        "live": live(job) if job is not None and not job.has_ended else None,
        "next_page": f"{reverse('backups:restore_changes')}?{selection.as_query()}",
    }
    if job is not None and job.state == Job.State.SUCCEEDED and job.result:
        context |= summarize_preview(job.result, in_place=selection.in_place)
        context["own"] = effect_on_current_user(request, job.result)
        context["old"] = job.finished is not None and timezone.now() - job.finished > FRESH
    return context
