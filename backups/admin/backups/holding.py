"""Holding several backups, and releasing several holds after a page that shows their reasons."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.catalog import holds
from backups.engine.errors import EngineError
from backups.engine.progress import counted
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.models import IndexedBackup

from ..frame import page, render, return_address, say
from ..step_up import dangerous
from .selection import selected


def hold(request: HttpRequest, rows: list[IndexedBackup]) -> None:
    """Hold *rows* with the note of the form, and say which could not be held."""
    actor, note = actor_of(request), request.POST.get("note", "").strip()
    refused, done = [], []
    for row in rows:
        try:
            done.append(holds.hold(actor, row, note))
        except EngineError as problem:
            refused.append(f"{row.backup_id}: {problem.message}")
    _say_done(request, done, f"held{f': {note}' if note else ''}", refused)


@page("backups.hold_backup", methods=("GET", "POST"))
@dangerous(second=four_eyes.RELEASE)
def release(request: HttpRequest) -> HttpResponse:
    """Show the selected holds with their reasons; a POST releases them."""
    values = request.POST if request.method == "POST" else request.GET
    back = return_address(request, reverse("backups:backups"))
    rows = selected(values.getlist("id"))
    held = [row for row in rows if row.held]
    if not held:
        say(request, "None of these backups is held. Nothing was changed.", level=messages.WARNING)
        return HttpResponseRedirect(back)
    if request.method == "POST":
        _release(request, held)
        return HttpResponseRedirect(back)
    context = {"held": held, "others": len(rows) - len(held), "back": back}
    title = "Release this hold?" if len(held) == 1 else f"Release {counted(len(held), 'hold')}?"
    return render(request, "backups/backup_release.html", title, context)


def _release(request: HttpRequest, rows: list[IndexedBackup]) -> None:
    refused, done = [], []
    for row in rows:
        try:
            done.append(holds.release(actor_of(request), row))
        except EngineError as problem:
            refused.append(f"{row.backup_id}: {problem.message}")
    _say_done(request, done, "released", refused)


def warn_of_unsigned(request: HttpRequest, done: list[holds.Changed]) -> None:
    """Say which holds and releases nothing vouches for, and why."""
    if unsigned := [one.words for one in done if one.unsigned]:
        say(request, " ".join(unsigned), level=messages.WARNING)


def _say_done(request: HttpRequest, done: list[holds.Changed], what: str, refused: list[str]) -> None:
    if done:
        say(request, f"{counted(len(done), 'backup')} {what}.")
    warn_of_unsigned(request, done)
    if refused:
        say(request, f"Not {what.partition(':')[0]}: " + "; ".join(refused), level=messages.WARNING)
