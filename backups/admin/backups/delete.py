"""Deleting backups: which of the selected ones can be deleted, the confirmation, and the job."""

from dataclasses import dataclass, field

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.catalog.last_proven import sets_left_unproven
from backups.catalog.lineage import lineage
from backups.engine.errors import UsageError
from backups.engine.progress import counted
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.models import IndexedBackup

from ..frame import page, render, return_address, say, say_queued
from ..step_up import dangerous
from .selection import by_home, selected


@dataclass(slots=True)
class Deletion:
    """A backup to be deleted, or why it cannot be (``why``) and the backups that need it."""

    row: IndexedBackup
    why: str = ""
    needed_by: list[str] = field(default_factory=list)


def deletions(rows: list[IndexedBackup]) -> list[Deletion]:
    """Which of *rows* can be deleted together: no held ones, and none that a remaining backup needs."""
    found = {row.address: Deletion(row) for row in rows}
    staying = {row.address for row in rows if row.held}
    for address in staying:
        note = found[address].row.hold_note
        found[address].why = f"It is held{f': {note}' if note else ''}."
    for row in sorted(rows, key=lambda row: row.backup_id, reverse=True):
        dependents = [f"{row.repository}/{row.set}/{one.backup_id}" for one in lineage(row).dependents]
        blocking = [one for one in dependents if one not in found or one in staying]
        if not blocking:
            continue
        deletion = found[row.address]
        deletion.needed_by = [one.rpartition("/")[2] for one in blocking]
        deletion.why = (
            deletion.why or f"{counted(len(blocking), 'backup')} still {'needs' if len(blocking) == 1 else 'need'} it."
        )
        staying.add(row.address)
    return [found[row.address] for row in rows]


@page("backups.delete_backup", methods=("GET", "POST"))
@dangerous(second=four_eyes.DELETE)
def delete(request: HttpRequest) -> HttpResponse:
    """Show which backups can be deleted and which cannot; a POST queues the deletion."""
    values = request.POST if request.method == "POST" else request.GET
    rows = selected(values.getlist("id"))
    back = return_address(request, reverse("backups:backups"))
    if not rows:
        say(request, "No backup was selected, or the selected backups are already deleted.", level=messages.WARNING)
        return HttpResponseRedirect(back)
    decided = deletions(rows)
    going = [one.row for one in decided if not one.why]
    if request.method == "POST":
        if not going:
            raise UsageError("None of these backups can be deleted.", hint="Nothing was deleted.")
        for (repository, set_name), ids in by_home(going).items():
            job = submit.delete(actor_of(request), ids, repository=repository, set=set_name)
            say_queued(request, f"Deletion of {counted(len(ids), 'backup')} queued", job)
        return HttpResponseRedirect(reverse("backups:backups"))
    context = {
        "going": going,
        "staying": [one for one in decided if one.why],
        "bytes": sum(row.bytes_stored for row in going),
        "last_proven": sets_left_unproven(going),
        "back": back,
    }
    title = "Delete this backup?" if len(rows) == 1 else f"Delete {counted(len(rows), 'backup')}?"
    return render(request, "backups/backup_delete.html", title, context)
