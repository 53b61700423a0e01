"""What the pages about backups share: the filter, its pages, and selections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from backups.conf import configuration
from backups.models import IndexedBackup, Job
from backups.models.listing import Filter, Keyset, Part, chosen, moment_of

PER_PAGE = 50
MARKS = {"held": "Held", "safety": "Safety backup", "free": "Neither"}
_MOST_SELECTED = 200
_MOST_WORDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFilter(Filter):
    """Which backups the list shows."""

    text: str = ""
    kind: str = ""
    proof: str = ""
    mark: str = ""
    set: str = ""
    host: str = ""
    repository: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, given: Mapping[str, str]) -> tuple[BackupFilter, list[str]]:
        """Read the parameters of an address. Returns the filter, and a sentence for each invalid parameter."""
        problems = []
        for name, known in (("kind", IndexedBackup.Kind.values), ("proof", IndexedBackup.Verification.values), ("mark", MARKS)):
            if given.get(name) and not chosen(given, name, known):
                problems.append(f"There is no {name} {given[name]!r}.")
        for name in ("since", "until"):
            if given.get(name) and moment_of(given[name]) is None:
                problems.append(f"{given[name]!r} is not a point in time: write it as 2026-11-20T10:00.")
        return cls(
            text=given.get("q", "").strip()[:200],
            kind=chosen(given, "kind", IndexedBackup.Kind.values),
            proof=chosen(given, "proof", IndexedBackup.Verification.values),
            mark=chosen(given, "mark", MARKS),
            set=given.get("set", "")[:64],
            host=given.get("host", "").strip()[:255],
            repository=given.get("repository", "")[:64],
            since=moment_of(given.get("since", "")),
            until=moment_of(given.get("until", "")),
        ), problems

    def rows(self) -> QuerySet[IndexedBackup]:
        found = IndexedBackup.objects.all()
        names = list(configuration().repositories)
        if self.repository:
            found = found.filter(repository=self.repository)
        if self.set:
            found = found.filter(set=self.set)
            if len(names) == 1 and not self.repository:
                found = found.filter(repository=names[0])  # the index of sets begins with the repository
        if self.kind:
            found = found.filter(kind=self.kind)
        if self.proof:
            found = found.filter(verification=self.proof)
        if self.mark:
            marks = {"held": Q(held=True), "safety": Q(safety=True), "free": Q(held=False, safety=False)}
            found = found.filter(marks[self.mark])
        if self.host:
            found = found.filter(host__iexact=self.host)
        if self.since:
            found = found.filter(time__gte=self.since)
        if self.until:
            found = found.filter(time__lte=self.until)
        for word in self.text.split()[:_MOST_WORDS]:
            found = found.filter(
                Q(backup_id__icontains=word)
                | Q(note__icontains=word)
                | Q(hold_note__icontains=word)
                | Q(host__icontains=word)
                | Q(problem__icontains=word)
            )
        return found


BACKUPS = Keyset(IndexedBackup, "time", "backup_id", "pk")


def page_of_backups(wanted: BackupFilter, given: Mapping[str, str], size: int = PER_PAGE) -> Part[IndexedBackup]:
    """A page of the backups that match, from the cursor ``older`` or ``newer`` of an address; without one the first page."""
    older, newer = BACKUPS.read(given.get("older")), BACKUPS.read(given.get("newer"))
    return BACKUPS.part(wanted.rows(), size, older=older, newer=newer)


def jobs_about(backup_id: str) -> QuerySet[Job]:
    """The jobs that made a backup or acted on it, newest first. The query fits the partial index on ``backup_id``."""
    return Job.objects.filter(backup_id=backup_id).exclude(backup_id="").order_by("-created")


def permissions_of(request: HttpRequest) -> dict[str, bool]:
    """Which actions on backups the account may use, by name: ``may.restore`` in a template."""
    names = ("verify", "hold", "download", "restore", "delete", "create")
    return {name: request.user.has_perm(f"backups.{name}_backup") for name in names}


def by_home(rows: Iterable[IndexedBackup]) -> dict[tuple[str, str], list[str]]:
    """The ids of *rows* by repository and set, in this order: a job works on the backups of one set."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in sorted(rows, key=lambda row: (row.repository, row.set)):
        found.setdefault((row.repository, row.set), []).append(row.backup_id)
    return found


def selected(addresses: list[str]) -> list[IndexedBackup]:
    """The backups at these addresses (`IndexedBackup.address`), or with these ids, newest first; unknown ones are left out."""
    wanted = set(addresses[:_MOST_SELECTED])
    ids = {one.rpartition("/")[2] for one in wanted}
    found = IndexedBackup.objects.filter(repository__in=list(configuration().repositories), backup_id__in=ids).order_by()
    known = [row for row in found if row.address in wanted or row.backup_id in wanted]
    return sorted(known, key=lambda row: (row.time, row.backup_id), reverse=True)
