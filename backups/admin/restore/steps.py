"""The four steps of a restore, each an address whose query holds the whole selection, so that going back loses nothing."""

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import reverse

from backups import moments
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.jobs.types import PREVIEW
from backups.models import IndexedBackup, Job
from backups.models.listing import moment_of

from ..backups.selection import BACKUPS, BackupFilter, page_of_backups
from ..frame import page, say
from ..protection import Protection
from ..running import live
from ..second_person import has_approved
from ..step_up import dangerous
from .preview import effect_on_current_user, is_from_just_now, is_outdated, preview_of, summarize_preview
from .selection import RestoreSelection, RestoreTarget, is_occupied, render_step

_PAGE = 20


# Step 1: the backup


@page("backups.restore_backup")
def choose_backup(request: HttpRequest) -> HttpResponse:
    """The list of backups, and the backup nearest to a point in time (``at``)."""
    selection = RestoreSelection.of(request.GET)
    wanted, _ = BackupFilter.of({**request.GET.dict(), "proof": "", "mark": ""})
    at = request.GET.get("at", "")
    set_name = request.GET.get("set", "") or configuration().default_set
    part = page_of_backups(wanted, request.GET, _PAGE)
    recent = IndexedBackup.objects.order_by("-time", "-backup_id").values_list("set", flat=True)[:500]
    protection, newest = Protection.now(), _restorable(configuration().default_set).first()
    of_backup = ("repository", "backup_set", "look", "again")
    kept = {name: value for name, value in selection.parameters().items() if name not in of_backup}
    context = {
        "filter": wanted,
        "rows": [
            (
                row,
                selection.as_query(backup=row.backup_id, repository=_repository(row), backup_set=row.set, look="", again=""),
            )
            for row in part.rows
        ],
        "older": wanted.as_query(**kept, older=BACKUPS.write(part.older)) if part.older else "",
        "newer": wanted.as_query(**kept, newer=BACKUPS.write(part.newer)) if part.newer else "",
        "kept": kept,
        "at": at,
        "set_name": set_name,
        "moments": _around(at, set_name) if at else None,
        "sets": sorted({*configuration().sets, *recent}),
        "any": IndexedBackup.objects.exists(),
        "newest": newest if newest is not None and newest.repository not in protection.away else None,
        "protection": protection,
        "conditions": protection.conditions,
        "away": protection.away,
    }
    return render_step(request, "restore", selection, context)


def _repository(row: IndexedBackup) -> str:
    return row.repository if row.repository != configuration().default_repository else ""


def _restorable(set_name: str) -> QuerySet[IndexedBackup]:
    """What ``latest`` chooses from, newest first: no damaged backups, snapshots or safety backups."""
    rows = IndexedBackup.objects.filter(set=set_name, safety=False)
    if len(configuration().repositories) == 1:
        rows = rows.filter(repository=configuration().default_repository)
    return rows.exclude(verification__in=IndexedBackup.UNUSABLE).exclude(kind="snapshot").order_by("-time", "-backup_id")


def _around(at: str, set_name: str) -> dict[str, Any]:
    """The newest backup at or before a time, and the next one after it; or what is wrong with the time."""
    moment = moment_of(at)
    if moment is None:
        return {"problem": f"{at!r} is not a point in time: write it as 2026-11-20T10:00."}
    before = _restorable(set_name).filter(time__lte=moment).first()
    after = _restorable(set_name).filter(time__gt=moment).order_by("time", "backup_id").first()
    return {
        "before": before,
        "after": after,
        "lost": moment - before.time if before else None,
        "more": after.time - moment if after else None,
        "ahead": moment > moments.now(),
    }


# Step 2: the stores, and a folder or the live data as the target


@page("backups.restore_backup")
def choose_target(request: HttpRequest) -> HttpResponse:
    """The form; with ``go`` the answers are checked, and the next step follows."""
    selection = RestoreSelection.of(request.GET)
    if not selection.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    target = RestoreTarget.of(selection)
    problems = target.problems_of(selection) if "go" in request.GET else {}
    if "go" in request.GET and not problems:
        return HttpResponseRedirect(f"{reverse('backups:restore_changes')}?{selection.as_query(look='', again='')}")
    context = {
        "target": target,
        "row": target.row,
        "away": target.away,
        "problems": problems,
        "folder": selection.folder or _free_folder(selection, target),
        "restore_folder": configuration().restore_folder,
    }
    return render_step(request, "restore_what", selection, context)


def _free_folder(selection: RestoreSelection, target: RestoreTarget) -> str:
    """A free folder name made of the backup's id and the selected store."""
    base = target.row.backup_id + (f"-{selection.only.replace(':', '-')}" if selection.only else "")
    names = (base[:60], *(f"{base[:57]}-{number}" for number in range(2, 50)))
    return next((name for name in names if not is_occupied(name)), base[:60])


# Step 3: what the restore would change, from a preview that a job computes


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
        job = _queue_preview(request, selection)
        selection = selection.changed(look=str(job.pk))
        address = f"{reverse('backups:restore_changes')}?{selection.as_query()}"
        if not request.headers.get("HX-Request"):
            return HttpResponseRedirect(address)
        context = _preview_context(request, selection, target, job)
        response = render_template(request, "backups/restore_preview.html", context)
        response.headers["HX-Replace-Url"] = address
        return response
    found = preview_of(selection, target.state(selection.only))
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
        context["old"] = is_outdated(job, target.state(selection.only))
    return context


def _queue_preview(request: HttpRequest, selection: RestoreSelection) -> Job:
    return submit.preview_restore(
        actor_of(request),
        backup_id=selection.backup,
        repository=selection.repository,
        set=selection.backup_set,
        only=selection.only or None,
    )


# Step 4: the confirmation, with the id of the backup


def _replaces(request: HttpRequest) -> bool:
    return request.method == "POST" and RestoreSelection.of(request.POST).in_place


@page("backups.restore_backup", methods=("GET", "POST"))
@dangerous(_replaces, second=four_eyes.RESTORE)
def confirm(request: HttpRequest) -> HttpResponse:
    """The summary; where live data is replaced, the backup's id is required."""
    selection = RestoreSelection.of(request.POST if request.method == "POST" else request.GET)
    if not selection.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    target = RestoreTarget.of(selection)
    if target.problems_of(selection):
        return HttpResponseRedirect(f"{reverse('backups:restore_what')}?{selection.as_query(go='1')}")
    errors: dict[str, str] = {}
    typed = request.POST.get("typed", "").strip()
    state = target.state(selection.only) if selection.in_place else ""
    if request.method == "POST":
        if selection.in_place:
            if typed != target.row.backup_id:
                errors = {"typed": "That is not the id of this backup. Nothing was changed."}
            errors = errors or _code_errors(request, preview_of(selection, state))
        if not errors:
            if selection.in_place and not _confirms(request, selection, state):
                return _show_again(request, selection)
            job = _queue(request, selection, target.row, typed)
            return HttpResponseRedirect(reverse("backups:restore_report", args=[job.pk]))
    preview = preview_of(selection, state)
    outdated = selection.in_place and preview is not None and preview.has_ended and is_outdated(preview, state)
    if preview is not None and outdated and preview.result and not is_from_just_now(preview):
        say(request, "The live data was written to after the preview, so it is made again.", level=messages.WARNING)
        return HttpResponseRedirect(f"{reverse('backups:restore_changes')}?{selection.as_query(look='')}")
    context: dict[str, Any] = {
        "target": target,
        "row": target.row,
        "errors": errors,
        "typed": typed,
        "place": None if selection.in_place else configuration().restore_folder / selection.folder,
        "size": target.bytes_of(selection.only),
        "once": _once(request) or uuid.uuid4(),
        "state": state,
    }
    if preview is not None and preview.state == Job.State.SUCCEEDED:
        selection = selection.changed(look=str(preview.pk))
        context["preview"] = preview
        if preview.result:
            context |= summarize_preview(preview.result, in_place=selection.in_place)
            context |= {"own": effect_on_current_user(request, preview.result), "state": preview.result.get("state", "")}
    return render_step(request, "restore_confirm", selection, context)


def _confirms(request: HttpRequest, selection: RestoreSelection, state: str) -> bool:
    """Whether the confirmed state is still that of the live data, or its change has been accepted beforehand."""
    accepted = bool(selection.again and request.POST.get("accept")) or has_approved(request)
    return _once(request) is not None and (accepted or request.POST.get("state") == state)


def _show_again(request: HttpRequest, selection: RestoreSelection) -> HttpResponse:
    """Step 3 with a new preview."""
    job = _queue_preview(request, selection)
    text = "Nothing was restored: the live data was written to after the preview. Check again what will change, and confirm it."
    say(request, text, level=messages.WARNING)
    query = selection.as_query(look=str(job.pk), again="1")
    return HttpResponseRedirect(f"{reverse('backups:restore_changes')}?{query}")


def _once(request: HttpRequest) -> uuid.UUID | None:
    """The id for the job in the form, so that sending the form twice queues one restore."""
    try:
        return uuid.UUID(request.POST.get("once", ""))
    except ValueError:
        return None


def _code_errors(request: HttpRequest, preview: Job | None) -> dict[str, str]:
    """What a preview found that would run must be confirmed."""
    if preview is None or not (preview.result or {}).get("code") or request.POST.get("code"):
        return {}
    return {"code": "Confirm that you know this code. Nothing was changed."}


def _queue(request: HttpRequest, selection: RestoreSelection, row: IndexedBackup, typed: str) -> Job:
    common = {"backup_id": row.backup_id, **row.home, "only": selection.only or None}
    if selection.in_place:
        return submit.restore_in_place(actor_of(request), typed=typed, once=_once(request), **common)
    return submit.restore_to_folder(actor_of(request), folder=selection.folder, once=_once(request), **common)
