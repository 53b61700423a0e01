"""Step 2: choose the stores to restore, and a folder or the live data as the target."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.conf import configuration

from ..frame import page
from .selection import RestoreSelection, RestoreTarget, is_occupied, render_step


@page("backups.restore_backup")
def choose_target(request: HttpRequest) -> HttpResponse:
    """The form; with ``go`` the answers are checked, and the next step follows."""
    selection = RestoreSelection.of(request.GET)
    if not selection.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    target = RestoreTarget.of(selection)
    problems = target.problems_of(selection) if "go" in request.GET else {}
    if "go" in request.GET and not problems:
        return HttpResponseRedirect(f"{reverse('backups:restore_changes')}?{selection.as_query(look='')}")
    context = {
        "target": target,
        "row": target.row,
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
