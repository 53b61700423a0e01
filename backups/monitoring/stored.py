"""Reads facts about repositories and stores: disks, growth, missing backups, and content or stores that are gone."""

import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db.models import QuerySet, Sum

from backups.conf import Configuration
from backups.engine.errors import EngineError, RepositoryMissing
from backups.engine.repository.folder import open_repository
from backups.models import IndexedBackup

from . import facts

_WINDOW = timedelta(days=30)
_SETTLED, _OLD_ENOUGH = timedelta(days=7), timedelta(days=14)
_NAMED = 3
_MOST_DAMAGED = 1_000
"""Damaged backups that are read; the others are only counted."""


def missing_backups() -> list[Any]:
    """The missing backups, newest first."""
    rows = IndexedBackup.objects.filter(verification=IndexedBackup.Verification.MISSING).order_by("-time", "-backup_id")
    return list(rows.values_list("repository", "set", "backup_id", "held", "bytes_stored", named=True))


def present_backups(repository: str) -> QuerySet[IndexedBackup]:
    """The backups of a repository that are not missing."""
    return IndexedBackup.objects.filter(repository=repository).exclude(verification=IndexedBackup.Verification.MISSING)


def why_unavailable(path: Path) -> EngineError | None:
    """Why the repository in a folder cannot be opened; None if it can. A disk that is not mounted leaves an empty folder."""
    try:
        open_repository(path)
    except EngineError as problem:
        return problem
    return None


def unavailable(config: Configuration) -> frozenset[str]:
    """The names of the repositories that are not available."""
    return frozenset(name for name, path in config.repositories.items() if why_unavailable(path) is not None)


def repository_fact(name: str, path: Path, missing: list[Any], now: datetime) -> facts.RepositoryFact:
    """A repository with its *missing* backups, newest first."""
    rows = present_backups(name)
    first = rows.order_by("time").values_list("time", flat=True).first()
    # The index that it is added up from has no verification; to read the rows would take longer than all else on a page.
    used = IndexedBackup.objects.filter(repository=name).aggregate(used=Sum("bytes_stored"))["used"] or 0
    away = why_unavailable(path)
    explained = away is not None and away.hint != RepositoryMissing.default_hint
    try:
        writable = os.access(path, os.W_OK | os.X_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY
        disk = shutil.disk_usage(path)
        free, size = disk.free, disk.total
    except OSError:
        writable, free, size = False, 0, 0
    return facts.RepositoryFact(
        name=name,
        there=away is None,
        problem=away.message if away is not None and explained else "",
        hint=away.hint if away is not None and explained else "",
        writable=writable,
        used=used - sum(one.bytes_stored for one in missing),
        free=free,
        size=size,
        first=first,
        missing=len(missing),
        missing_held=sum(one.held for one in missing),
        missing_named=tuple(one.backup_id for one in missing[:_NAMED]),
        grown_a_day=_growth(rows, first, now),
    )


def _growth(rows: Any, first: datetime | None, now: datetime) -> float | None:
    """Bytes a day that remain. The last days are left out if possible: retention has not yet thinned them out."""
    if first is None or now - first < timedelta(days=1):
        return None
    if now - first < _OLD_ENOUGH:
        grown, over = rows.filter(time__gt=first), now - first
    else:
        begin = max(first, now - _WINDOW)
        grown, over = rows.filter(time__gt=begin, time__lte=now - _SETTLED), now - _SETTLED - begin
    return float((grown.aggregate(total=Sum("bytes_stored"))["total"] or 0) / (over / timedelta(days=1)))


def _why_absent(path: Path) -> str:
    """Why a store cannot be found; empty if it is there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "it does not exist"
    except OSError as problem:
        return f"it cannot be reached: {problem.strerror}"
    return ""


def absent_sources(config: Configuration, sets: Iterable[facts.SetFact]) -> Iterator[facts.Probed]:
    """Stores that are not where they were when they were backed up."""
    for one in sets:
        if one.newest is None:
            continue
        for source in config.sources(one.name):
            if f"{source.kind}/{source.name}" in one.newest.stores and (why := _why_absent(source.path)):
                message = f"{source.path}: {why}."
                hint = "Mount its disk, or correct its path in the settings."
                yield facts.Probed(check="sources", code="source_broken", subject=str(source.path), message=message, hint=hint)


def damaged_rows() -> QuerySet[IndexedBackup]:
    """The damaged backups, without the safety backups that only hold a damaged store as it was: they have no ``damaged_in``."""
    return IndexedBackup.objects.filter(verification=IndexedBackup.Verification.DAMAGED).exclude(safety=True, damaged_in="")


def damaged_backups() -> tuple[facts.DamagedBackup, ...]:
    """The damaged backups, newest first, as far as they are read; as one where they share damage."""
    rows = damaged_rows().order_by("-time", "-backup_id")
    found: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {}
    told = rows.values_list("repository", "backup_id", "set", "problem", "damaged_in")
    for repository, id_, set_name, problem, lies_in in told[:_MOST_DAMAGED]:
        found.setdefault((repository, set_name, lies_in or id_), []).append((id_, set_name, problem))
    damaged = []
    for (_, _, lies_in), members in found.items():
        _, set_name, problem = next((one for one in members if one[0] == lies_in), members[-1])
        others = tuple(id_ for id_, _, _ in members if id_ != lies_in)
        itself = len(others) < len(members)
        damaged.append(facts.DamagedBackup(id=lies_in, set=set_name, problem=problem, itself=itself, affected=others))
    return tuple(damaged)
