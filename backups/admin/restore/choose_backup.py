"""Step 1: choose a backup from the list, or by a point in time."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from backups.conf import configuration
from backups.models import IndexedBackup
from backups.models.listing import moment_of

from ..backups.selection import BACKUPS, BackupFilter, page_of_backups
from ..frame import page
from .selection import RestoreSelection, render_step

_PAGE = 20


@page("backups.restore_backup")
def choose_backup(request: HttpRequest) -> HttpResponse:
    """The list of backups, and the backup nearest to a point in time (``at``)."""
    selection = RestoreSelection.of(request.GET)
    wanted, _ = BackupFilter.of({**request.GET.dict(), "proof": "", "mark": ""})
    at = request.GET.get("at", "")
    set_name = request.GET.get("set", "") or configuration().default_set
    part = page_of_backups(wanted, request.GET, _PAGE)
    recent = IndexedBackup.objects.order_by("-time", "-backup_id").values_list("set", flat=True)[:500]
    kept = {name: value for name, value in selection.parameters().items() if name not in ("repository", "look")}
    context = {
        "filter": wanted,
        "rows": [(row, selection.as_query(backup=row.backup_id, repository=_repository(row), look="")) for row in part.rows],
        "older": wanted.as_query(**kept, older=BACKUPS.write(part.older)) if part.older else "",
        "newer": wanted.as_query(**kept, newer=BACKUPS.write(part.newer)) if part.newer else "",
        "kept": kept,
        "at": at,
        "set_name": set_name,
        "moments": _around(at, set_name) if at else None,
        "sets": sorted({*configuration().sets, *recent}),
        "any": IndexedBackup.objects.exists(),
        "newest": _restorable(configuration().default_set).first(),
    }
    return render_step(request, "restore", selection, context)


def _repository(row: IndexedBackup) -> str:
    return row.repository if row.repository != configuration().default_repository else ""


def _restorable(set_name: str) -> QuerySet[IndexedBackup]:
    """What ``latest`` chooses from, newest first: no damaged backups, snapshots or safety backups."""
    rows = IndexedBackup.objects.filter(set=set_name, safety=False)
    if len(configuration().repositories) == 1:
        rows = rows.filter(repository=configuration().default_repository)
    return rows.exclude(verification="damaged").exclude(kind="snapshot").order_by("-time", "-backup_id")


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
        "ahead": moment > timezone.now(),
    }
