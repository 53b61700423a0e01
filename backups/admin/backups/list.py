"""The list of backups, newest first, and what can be done with the selected ones."""

from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone

from backups.catalog.missing import forget_missing, missing_backups
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.engine.progress import counted
from backups.engine.types import Depth
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.models import IndexedBackup
from backups.models.listing import Part, minute_of

from ..frame import page, render, require, return_address, say, say_queued
from ..protection import Protection
from ..step_up import dangerous
from .holding import hold
from .selection import (
    BACKUPS,
    MARKS,
    BackupFilter,
    by_home,
    page_of_backups,
    permissions_of,
    selected,
)

_MOST_MISSING = 20
_MOST_LOSSES = 5
_MOST_DRILLS = 20
COUNTED = 1_000
"""Matches are counted up to this number."""
_CONFIRMED = {
    "delete": ("backups:delete", "backups.delete_backup"),
    "release": ("backups:release", "backups.hold_backup"),
}
"""Actions that a page of their own shows before they are done: its address and permission."""


@page("backups.view_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """All backups, newest first."""
    wanted, problems = BackupFilter.of(request.GET)
    part = page_of_backups(wanted, request.GET)
    count = _matches(wanted, part, request) if wanted.active else None
    every = IndexedBackup.objects.order_by("-time", "-backup_id")
    # Conditions, and `latest`, leave out snapshots and safety backups; so does the first sentence
    newest = every.filter(safety=False).exclude(kind=IndexedBackup.Kind.SNAPSHOT).first() or every.first()
    recent = list(every.values_list("set", "host")[:500])
    protection = Protection.now()
    context = {
        "filter": wanted,
        "problems": problems,
        "query": wanted.as_query(),
        "rows": part.rows,
        "older": wanted.as_query(older=BACKUPS.write(part.older)) if part.older else "",
        "newer": wanted.as_query(newer=BACKUPS.write(part.newer)) if part.newer else "",
        "first": not part.newer,
        "count": count,
        "counted": COUNTED,
        "newest": newest,
        "protection": protection,
        "conditions": protection.conditions,
        "away": protection.away,
        "missing": list(missing_backups()[:_MOST_MISSING]),
        "missing_count": missing_backups().count(),
        "losses": list(IndexedBackup.objects.exclude(losses="").order_by("-time")[:_MOST_LOSSES]),
        "kinds": IndexedBackup.Kind.choices,
        "proofs": IndexedBackup.Verification.choices,
        "marks": MARKS.items(),
        "sets": sorted({*configuration().sets, *(name for name, _ in recent), *([wanted.set] if wanted.set else [])}),
        "hosts": sorted({host for _, host in recent if host}),
        "repositories": list(configuration().repositories) if len(configuration().repositories) > 1 else [],
        "since": minute_of(wanted.since),
        "until": minute_of(wanted.until),
        "zone": timezone.get_current_timezone_name(),
        "may": permissions_of(request),
    }
    return render(request, "backups/backups.html", "Backups", context)


def _matches(wanted: BackupFilter, part: Part[IndexedBackup], request: HttpRequest) -> int | None:
    """The number of matches, up to `COUNTED` + 1; None if only a scan of the whole table could tell."""
    if not (part.older or part.newer or request.GET.get("older") or request.GET.get("newer")):
        return len(part.rows)
    if wanted.text or wanted.host or wanted.mark:
        return None
    return wanted.rows().order_by()[: COUNTED + 1].count()


@page("backups.view_backup", methods=("POST",))
def act_on_selected(request: HttpRequest) -> HttpResponse:
    """Verify or hold the selected backups, or go to the page that releases or deletes them."""
    rows = selected(request.POST.getlist("id"))
    back = return_address(request, reverse("backups:backups"))
    what = request.POST.get("do", "")
    if not rows:
        say(request, "No backup was selected. Nothing was changed.", level=messages.WARNING)
        return HttpResponseRedirect(back)
    if what in _CONFIRMED:
        address, permission = _CONFIRMED[what]
        require(request, permission)
        query = urlencode({"id": [row.address for row in rows], "back": back}, doseq=True)
        return HttpResponseRedirect(f"{reverse(address)}?{query}")
    if what == "verify":
        require(request, "backups.verify_backup")
        for (repository, set_name), ids in by_home(rows).items():
            job = submit.verify(
                actor_of(request), backup_ids=ids, depth=Depth.HASHES.value, repository=repository, set=set_name
            )
            say_queued(request, f"Verification of {counted(len(ids), 'backup')} queued", job)
    elif what == "drill":
        require(request, "backups.verify_backup")
        for row in rows[:_MOST_DRILLS]:
            submit.drill(actor_of(request), backup_id=row.backup_id, **row.home)
        left = len(rows) - _MOST_DRILLS
        say(
            request,
            f"{counted(min(len(rows), _MOST_DRILLS), 'drill')} queued{f'; {left:,} more were not' if left > 0 else ''}.",
        )
    elif what == "hold":
        require(request, "backups.hold_backup")
        hold(request, rows)
    else:
        raise UsageError(f"Unknown action {what!r}.", hint="Nothing was changed.")
    return HttpResponseRedirect(back)


@page("backups.delete_backup", methods=("POST",))
@dangerous(second=four_eyes.DELETE)
def forget(request: HttpRequest) -> HttpResponse:
    """Forget missing backups whose loss is acknowledged."""
    if not request.POST.get("sure"):
        raise UsageError("Tick the box to confirm that these backups are lost.", hint="Nothing was forgotten.")
    actor, ids = actor_of(request), request.POST.getlist("id")
    rows = [row for row in selected(ids) if row.missing]
    count = 0
    for (repository, set_name), mine in by_home(rows).items():
        count += len(forget_missing(actor, repository=repository, set=set_name, backup_ids=mine))
    say(request, f"{counted(count, 'missing backup')} acknowledged as lost, and forgotten.")
    return HttpResponseRedirect(reverse("backups:backups"))
