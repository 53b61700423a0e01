"""What do I have?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme

from backups.catalog import downloads, holds
from backups.catalog.lineage import draw, lineage, shares
from backups.conf import configuration
from backups.engine.errors import EngineError, UsageError
from backups.engine.repository.base import DATA, MANIFEST, SUMS
from backups.engine.types import Backup, Depth, Proof, SourceKind, SourceRecord
from backups.identity.sign_in import actor_of
from backups.jobs import submit, types
from backups.models import IndexedBackup, Job
from backups.models.listing import Filter, Keyset, Part, chosen, minute_of, moment_of

from .frame import page, render, say

PER_PAGE = 50
COUNTED = 1_000
"""Matches are counted up to here."""

PROOFS = {
    "restore": "Restored and compared",
    "hashes": "Every byte read",
    "none": "Not proven",
    "damaged": "Damaged",
}
MARKS = {"held": "Held", "safety": "Kept by a restore", "free": "Neither"}
_MOST_TABLES = 200
_MOST_CHOSEN = 200
_MOST_WORDS = 8


# The list


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
        """Read the parameters of an address; and a sentence for each that is left out because it is wrong."""
        problems = []
        for name, known in (("kind", IndexedBackup.Kind.values), ("proof", PROOFS), ("mark", MARKS)):
            if given.get(name) and not chosen(given, name, known):
                problems.append(f"There is no {name} {given[name]!r}.")
        for name in ("since", "until"):
            if given.get(name) and moment_of(given[name]) is None:
                problems.append(f"{given[name]!r} is not a point in time: write it as 2026-11-20T10:00.")
        return cls(
            text=given.get("q", "").strip()[:200],
            kind=chosen(given, "kind", IndexedBackup.Kind.values),
            proof=chosen(given, "proof", PROOFS),
            mark=chosen(given, "mark", MARKS),
            set=given.get("set", "")[:64],
            host=given.get("host", "").strip()[:255],
            repository=given.get("repository", "")[:64],
            since=moment_of(given.get("since", "")),
            until=moment_of(given.get("until", "")),
        ), problems

    def rows(self) -> QuerySet[IndexedBackup]:
        """The backups that match."""
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
    """A page of the backups that match, from the cursor ``older`` or ``newer`` of an address; without one the newest."""
    older, newer = BACKUPS.read(given.get("older")), BACKUPS.read(given.get("newer"))
    return BACKUPS.part(wanted.rows(), size, older=older, newer=newer)


@page("backups.view_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """All backups, newest first."""
    wanted, problems = BackupFilter.of(request.GET)
    part = page_of_backups(wanted, request.GET)
    count = _matches(wanted, part, request) if wanted.active else None
    newest = IndexedBackup.objects.order_by("-time", "-backup_id").first()
    recent = list(IndexedBackup.objects.order_by("-time", "-backup_id").values_list("set", "host")[:500])
    damaged = IndexedBackup.objects.filter(verification="damaged").order_by()[: COUNTED + 1].count()
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
        "damaged": damaged,
        "kinds": IndexedBackup.Kind.choices,
        "proofs": PROOFS.items(),
        "marks": MARKS.items(),
        "sets": sorted({*configuration().sets, *(name for name, _ in recent), *([wanted.set] if wanted.set else [])}),
        "hosts": sorted({host for _, host in recent if host}),
        "repositories": list(configuration().repositories) if len(configuration().repositories) > 1 else [],
        "since": minute_of(wanted.since),
        "until": minute_of(wanted.until),
        "zone": timezone.get_current_timezone_name(),
        "may": _rights(request),
    }
    return render(request, "backups/backups.html", "Backups", context)


def _matches(wanted: BackupFilter, part: Part[IndexedBackup], request: HttpRequest) -> int | None:
    """How many match, up to a bound; None where only reading every row would tell."""
    if not (part.older or part.newer or request.GET.get("older") or request.GET.get("newer")):
        return len(part.rows)
    if wanted.text or wanted.host or wanted.mark:
        return None
    return wanted.rows().order_by()[: COUNTED + 1].count()


def _rights(request: HttpRequest) -> dict[str, bool]:
    names = ("verify", "hold", "download", "restore", "delete", "create")
    return {name: request.user.has_perm(f"backups.{name}_backup") for name in names}


def _demand(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


@page("backups.view_backup", methods=("POST",))
def act_on_chosen(request: HttpRequest) -> HttpResponse:
    """Verify, hold or delete the backups that were ticked."""
    rows = _chosen(request.POST.getlist("id"))
    back = _back(request, reverse("backups:backups"))
    what = request.POST.get("do", "")
    if not rows:
        say(request, "Nothing was done: no backup is ticked.", level=messages.WARNING)
        return HttpResponseRedirect(back)
    ids = [row.backup_id for row in rows]
    if what == "delete":
        _demand(request, "backups.delete_backup")
        return HttpResponseRedirect(f"{reverse('backups:delete')}?{urlencode({'id': ids, 'back': back}, doseq=True)}")
    if what in ("verify", "verify_restore"):
        _demand(request, "backups.verify_backup")
        depth = Depth.RESTORE if what == "verify_restore" else Depth.HASHES
        for repository in sorted({row.repository for row in rows}):
            mine = [row.backup_id for row in rows if row.repository == repository]
            job = submit.verify(actor_of(request), backup_ids=mine, depth=depth.value, repository=repository)
            _say_queued(request, f"{_count(len(mine))} will be verified", job)
    elif what == "hold":
        _demand(request, "backups.hold_backup")
        _hold_all(request, rows)
    else:
        raise UsageError(f"There is nothing called {what!r} to do with backups.", hint="Nothing was done.")
    return HttpResponseRedirect(back)


def _hold_all(request: HttpRequest, rows: list[IndexedBackup]) -> None:
    note = request.POST.get("note", "").strip()
    held, refused = 0, []
    for row in rows:
        try:
            holds.hold(actor_of(request), row.backup_id, note, repository=row.repository)
            held += 1
        except EngineError as problem:
            refused.append(f"{row.backup_id}: {problem.message}")
    if held:
        say(request, f"{_count(held)} {'is' if held == 1 else 'are'} held now{f': {note}' if note else ''}.")
    if refused:
        say(request, "Not held: " + "; ".join(refused), level=messages.WARNING)


def _chosen(ids: list[str]) -> list[IndexedBackup]:
    known = IndexedBackup.objects.filter(repository__in=list(configuration().repositories), backup_id__in=ids[:_MOST_CHOSEN])
    return sorted(known.order_by(), key=lambda row: (row.time, row.backup_id), reverse=True)


def _count(number: int) -> str:
    return f"{number:,} backup{'' if number == 1 else 's'}"


def _back(request: HttpRequest, otherwise: str) -> str:
    """Where a form says that it came from, if that is one of our pages."""
    given = request.POST.get("back") or request.GET.get("back") or ""
    return given if given.startswith("/") and url_has_allowed_host_and_scheme(given, allowed_hosts=None) else otherwise


def _say_queued(request: HttpRequest, what: str, job: Job) -> None:
    say(request, format_html('{}: <a href="{}">watch the job</a>.', what, job.get_absolute_url()))


# Deleting


@dataclass(slots=True)
class Fate:
    """Whether a backup can be deleted with the others that were chosen, and why not."""

    row: IndexedBackup
    why: str = ""
    needed_by: list[str] = field(default_factory=list)


def fates(rows: list[IndexedBackup]) -> list[Fate]:
    """Which of *rows* can go together: none that is held, and none that a backup needs which stays."""
    found = {row.backup_id: Fate(row) for row in rows}
    stays = {backup_id for backup_id, fate in found.items() if fate.row.held}
    for backup_id in stays:
        note = found[backup_id].row.hold_note
        found[backup_id].why = f"It is held{f': {note}' if note else ''}."
    for row in sorted(rows, key=lambda row: row.backup_id, reverse=True):
        needing = [one.backup_id for one in lineage(row).dependents]
        blocking = [one for one in needing if one not in found or one in stays]
        if blocking:
            found[row.backup_id].needed_by = blocking
            stays.add(row.backup_id)
            if not found[row.backup_id].why:
                found[
                    row.backup_id
                ].why = f"{_count(len(blocking))} that would stay {'needs' if len(blocking) == 1 else 'need'} it."
    return [found[row.backup_id] for row in rows]


@page("backups.delete_backup", methods=("GET", "POST"))
def delete(request: HttpRequest) -> HttpResponse:
    """Say what would go and what cannot, and queue the deletion once that is confirmed."""
    values = request.POST if request.method == "POST" else request.GET
    rows = _chosen(values.getlist("id"))
    back = _back(request, reverse("backups:backups"))
    if not rows:
        say(request, "Nothing was done: no backup is chosen, or they are gone already.", level=messages.WARNING)
        return HttpResponseRedirect(back)
    decided = fates(rows)
    going = [fate.row for fate in decided if not fate.why]
    if request.method == "POST":
        if not going:
            raise UsageError("None of these backups can be deleted.", hint="Nothing was deleted.")
        for repository in sorted({row.repository for row in going}):
            mine = [row.backup_id for row in going if row.repository == repository]
            job = submit.delete(actor_of(request), mine, repository=repository)
            _say_queued(request, f"{_count(len(mine))} will be deleted", job)
        return HttpResponseRedirect(reverse("backups:backups"))
    context = {
        "going": going,
        "staying": [fate for fate in decided if fate.why],
        "bytes": sum(row.bytes_stored for row in going),
        "last_proven": _sets_without_proof(going),
        "back": back,
        "zone": timezone.get_current_timezone_name(),
    }
    title = "Delete this backup?" if len(rows) == 1 else f"Delete {len(rows)} backups?"
    return render(request, "backups/backup_delete.html", title, context)


def _sets_without_proof(going: list[IndexedBackup]) -> list[str]:
    """The sets that would have no proven backup left."""
    found = []
    ids = [row.backup_id for row in going]
    for repository, name in sorted({(row.repository, row.set) for row in going if not row.safety}):
        proven = IndexedBackup.objects.filter(
            repository=repository, set=name, verification__in=("hashes", "restore"), safety=False
        )
        if not proven.exclude(backup_id__in=ids).exists():
            found.append(name)
    return found


# One backup


@page("backups.view_backup")
def backup(request: HttpRequest, backup_id: str) -> HttpResponse:
    """All about one backup."""
    row = holds.indexed(backup_id, request.GET.get("repository", ""))
    family = lineage(row)
    stored: Backup | None = None
    unreadable: EngineError | None = None
    try:
        _, stored = holds.stored(row)
    except EngineError as problem:
        unreadable = problem
    whose = shares(row) if stored is not None else None
    proofs = list(reversed(stored.proofs)) if stored else []
    about = list(jobs_about(row.backup_id)[:12])
    made_by = next((job for job in about if str(job.pk) == row.job), None)
    if made_by is None and row.job:
        made_by = _job(row.job)
    context = {
        "row": row,
        "stored": stored,
        "unreadable": unreadable,
        "verdict": _verdict(row, stored, len(family.ancestors), unreadable),
        "family": family,
        "picture": draw(row, family, whose),
        "own_share": _own_share(row, whose),
        "sources": [_source(record, proofs, about) for record in stored.manifest.sources] if stored else [],
        "proofs": [_proof(proof) for proof in proofs],
        "jobs": about,
        "busy": [job for job in about if not job.has_ended],
        "made_by": made_by,
        "may": _rights(request),
        "delete": fates([row])[0],
        "also": [one.backup_id for one in family.ancestors[:20]],
        "files": [DATA, MANIFEST, SUMS],
        "restorable": row.set not in configuration().kept_apart,
        "better": _better(row) if row.damaged else None,
        "zone": timezone.get_current_timezone_name(),
        "saved": 1 - row.bytes_stored / row.bytes_source if row.bytes_source else None,
    }
    return render(request, "backups/backup.html", "Backup", context)


def jobs_about(backup_id: str) -> QuerySet[Job]:
    """The jobs that made a backup or were about it, newest first; asked as the index of them is defined."""
    return Job.objects.filter(backup_id=backup_id).exclude(backup_id="").order_by("-created")


def _job(number: str) -> Job | None:
    try:
        return Job.objects.filter(pk=number).first()
    except ValueError:
        return None  # whoever made it called the run something else


def _verdict(row: IndexedBackup, stored: Backup | None, needs: int, unreadable: EngineError | None) -> dict[str, str]:
    """What a backup is and whether it is proven, in two sentences."""
    if unreadable is not None:
        return {"state": "bad", "proof": "It cannot be read.", "more": unreadable.message}
    if row.damaged:
        return {"state": "bad", "proof": "It is damaged and must not be relied on.", "more": row.problem}
    if row.verification == "restore":
        proof = "It is proven: it was restored, opened, and compared with what the stores held."
        return {"state": "good", "proof": proof, "more": ""}
    if row.verification == "hashes":
        more = "Restoring it proves more: the stores are opened and compared record by record."
        return {"state": "good", "proof": "Every byte that was checked is as it was written.", "more": more}
    return {"state": "warn", "proof": "It is not proven yet.", "more": "Verify it before you rely on it."}


def _better(row: IndexedBackup) -> IndexedBackup | None:
    """The backup of the same set to take instead of a damaged one: the newest sound one at or before it, else the next."""
    sound = IndexedBackup.objects.filter(repository=row.repository, set=row.set, safety=False)
    sound = sound.exclude(verification="damaged").exclude(kind="snapshot").exclude(pk=row.pk)
    before = sound.filter(time__lte=row.time).order_by("-time")[:1].first()
    return before or sound.filter(time__gt=row.time).order_by("time")[:1].first()


def _own_share(row: IndexedBackup, whose: dict[str, int] | None) -> float | None:
    if not whose or not sum(whose.values()):
        return None
    return whose.get(row.backup_id, 0) / sum(whose.values())


def _source(record: SourceRecord, proofs: list[Proof], about: list[Job]) -> dict[str, Any]:
    """A store as the backup holds it; tables with their rows where somebody has looked."""
    told: dict[str, Any] = {
        "record": record,
        "kind": {"sqlite": "SQLite", "chroma": "Chroma", "files": "Files"}[record.kind],
        "how": _HOW[record.method],
        "collections": [
            {"name": one.name, "count": one.digest.count, "dimension": one.dimension, "space": one.space}
            for one in record.collections
        ],
        "vectors": sum(one.digest.count for one in record.collections),
        "tables": None,
    }
    if record.kind is SourceKind.SQLITE:
        tables, told["tables_from"] = _tables(record, proofs, about)
        if tables is not None:
            told["rows"] = sum(tables.values())
            told["table_count"] = len(tables)
            ordered = sorted(tables.items(), key=lambda table: (-table[1], table[0]))
            told["tables"] = ordered[:_MOST_TABLES]
            told["largest"] = max(tables.values(), default=0)
    return told


_MOST_LISTED = 20
_HOW = {
    "pinned": "read in place while its writers went on",
    "online": "copied through SQLite's backup API",
    "cut": "copied under its lock",
    "walked": "walked file by file",
    "raw": "the raw bytes of a broken store",
    "unchanged": "nothing had changed since the parent",
}


def _tables(record: SourceRecord, proofs: list[Proof], about: list[Job]) -> tuple[dict[str, int] | None, datetime | None]:
    """Rows a table: from the newest proof that restored it, else from the newest look at what a restore would change."""
    for proof in proofs:
        found = proof.checks.get(record.prefix)
        if isinstance(found, dict) and isinstance(found.get("tables"), dict):
            return {str(name): int(rows) for name, rows in found["tables"].items()}, proof.time
    for job in about:
        if job.kind == types.PREVIEW.name and job.result:
            for store in job.result.get("sqlite", ()):
                if store["store"] == record.prefix:
                    return {one["name"]: one["after"] for one in store["tables"] if one["after"] is not None}, job.finished
    return None, None


def _proof(proof: Proof) -> dict[str, Any]:
    depth = "Restored and compared" if proof.depth is Depth.RESTORE else "Every byte read"
    if proof.depth is Depth.HASHES and proof.scope == "written":
        depth = "What it stores itself, every byte"
    return {
        "proof": proof,
        "depth": depth,
        "rate": proof.bytes / proof.seconds if proof.seconds else None,
        "restore_seconds": proof.checks.get("restore_seconds"),
        "application": _application(proof.checks.get("application")),
    }


def _application(told: Any) -> dict[str, Any] | None:
    """What the application said of its restored stores (`engine.application_check`), as far as it is in the known shape."""
    if not isinstance(told, dict):
        return None
    answer = told.get("answer")
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or "findings" not in answer:
        said = error.get("message") if isinstance(error, dict) else told.get("said")
        return {"failed": str(said or "It gave no answer."), "findings": 0}
    kinds, listed = answer.get("kinds"), answer.get("listed")
    return {
        "findings": answer["findings"],
        "records": answer.get("records"),
        "kinds": [(str(kind).replace("_", " ").capitalize(), number) for kind, number in sorted((kinds or {}).items())],
        "listed": [one for one in listed or () if isinstance(one, dict)][:_MOST_LISTED],
        "seconds": told.get("seconds"),
    }


@page("backups.view_backup", methods=("POST",))
def act(request: HttpRequest, backup_id: str) -> HttpResponse:
    """Do one thing with one backup: verify, drill, hold, release."""
    row = holds.indexed(backup_id, request.POST.get("repository", ""))
    what = request.POST.get("do", "")
    actor, where = actor_of(request), {"repository": row.repository}
    if what in ("hashes", "restore"):
        _demand(request, "backups.verify_backup")
        _say_queued(request, "It will be verified", submit.verify(actor, backup_ids=[row.backup_id], depth=what, **where))
    elif what == "drill":
        _demand(request, "backups.verify_backup")
        job = submit.drill(actor, backup_id=row.backup_id, set=row.set, **where)
        _say_queued(request, "A test restore is queued", job)
    elif what == "hold":
        _demand(request, "backups.hold_backup")
        note = request.POST.get("note", "").strip()
        holds.hold(actor, row.backup_id, note, **where)
        say(request, f"It is held{f': {note}' if note else ''}. Retention leaves it alone until it is released.")
    elif what == "release":
        _demand(request, "backups.hold_backup")
        holds.release(actor, row.backup_id, **where)
        say(request, "It is released. Retention decides again how long it stays.")
    else:
        raise UsageError(f"There is nothing called {what!r} to do with a backup.", hint="Nothing was done.")
    return HttpResponseRedirect(row.get_absolute_url())


@page("backups.download_backup")
def download(request: HttpRequest, backup_id: str, name: str) -> HttpResponseBase:
    """One of the backup's files, or a part of it."""
    row = holds.indexed(backup_id, request.GET.get("repository", ""))
    return downloads.answer(request, row, name, actor_of(request))


urlpatterns: list[URLPattern] = [
    path("backups/", overview, name="backups"),
    path("backups/chosen/", act_on_chosen, name="chosen"),
    path("backups/delete/", delete, name="delete"),
    path("backups/<str:backup_id>/", backup, name="backup"),
    path("backups/<str:backup_id>/do/", act, name="backup_act"),
    path("backups/<str:backup_id>/<str:name>", download, name="download"),
]
