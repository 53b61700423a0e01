"""Step 4: confirm with the id of the backup and the password, and queue the restore."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.conf import configuration
from backups.identity.sign_in import actor_of, password_problem
from backups.jobs import submit
from backups.models import IndexedBackup, Job

from ..frame import page
from .preview import effect_on_current_user, preview_of, summarize_preview
from .selection import RestoreSelection, RestoreTarget, render_step


@page("backups.restore_backup", methods=("GET", "POST"))
def confirm(request: HttpRequest) -> HttpResponse:
    """The summary; where live data is replaced, the backup's id and the password are required."""
    selection = RestoreSelection.of(request.POST if request.method == "POST" else request.GET)
    if not selection.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    target = RestoreTarget.of(selection)
    if target.problems_of(selection):
        return HttpResponseRedirect(f"{reverse('backups:restore_what')}?{selection.as_query(go='1')}")
    errors: dict[str, str] = {}
    typed = request.POST.get("typed", "").strip()
    if request.method == "POST":
        if selection.in_place:
            errors = _confirmation_errors(request, target.row, typed)
        if not errors:
            job = _queue(request, selection, target.row, typed)
            return HttpResponseRedirect(reverse("backups:restore_report", args=[job.pk]))
    context: dict[str, Any] = {
        "target": target,
        "row": target.row,
        "errors": errors,
        "typed": typed,
        "place": None if selection.in_place else configuration().restore_folder / selection.folder,
        "size": target.bytes_of(selection.only),
    }
    preview = preview_of(selection)
    if preview is not None and preview.state == Job.State.SUCCEEDED:
        context["preview"] = preview
        if preview.result:
            context |= summarize_preview(preview.result, in_place=selection.in_place)
            context["own"] = effect_on_current_user(request, preview.result)
    return render_step(request, "restore_confirm", selection, context)


def _confirmation_errors(request: HttpRequest, row: IndexedBackup, typed: str) -> dict[str, str]:
    """What is wrong with the typed id and the password. The password is not checked before the id is right."""
    if typed != row.backup_id:
        return {"typed": "That is not the id of this backup. Nothing was changed."}
    problem = password_problem(request, request.POST.get("password", ""))
    return {"password": problem} if problem else {}


def _queue(request: HttpRequest, selection: RestoreSelection, row: IndexedBackup, typed: str) -> Job:
    common = {"backup_id": row.backup_id, "repository": row.repository, "only": selection.only or None}
    if selection.in_place:
        return submit.restore_in_place(actor_of(request), typed=typed, **common)
    return submit.restore_to_folder(actor_of(request), folder=selection.folder, **common)
