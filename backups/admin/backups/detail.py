"""One backup: its contents, proofs, lineage and jobs, the actions on it, and its downloads."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.utils import timezone

from backups.catalog import downloads, holds
from backups.catalog.lineage import draw, lineage, shares
from backups.catalog.losses import loss_of, unconfirmed
from backups.conf import REPOSITORY_AWAY, configuration
from backups.engine.check_stores import unchecked, unchecked_in
from backups.engine.encryption.chain import ENVELOPE
from backups.engine.errors import BackupNotFound, EngineError, UsageError
from backups.engine.names import BACKUP_ID, DATA, MANIFEST, SEALED_DATA, SUMS
from backups.engine.progress import clock
from backups.engine.repository.soundness import results
from backups.engine.types import Backup, Depth, Proof, SourceKind, SourceRecord
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.identity.step_up import always
from backups.jobs import submit, types
from backups.models import AuditEntry, IndexedBackup, Job
from backups.monitoring.stored import unavailable

from ..frame import page, render, require, say, say_queued
from ..step_up import dangerous
from .delete import deletions
from .holding import warn_of_unsigned
from .selection import jobs_about, permissions_of

_MOST_TABLES = 200


@page("backups.view_backup")
def backup(request: HttpRequest, backup_id: str) -> HttpResponse:
    """One backup."""
    try:
        row = _row(request.GET, backup_id)
    except BackupNotFound:
        return _gone(request, backup_id)
    about = list(jobs_about(row.backup_id)[:12])
    busy = [job for job in about if not job.has_ended]
    if "busy" in request.GET:  # the page asks whether what it shows as running has ended
        return HttpResponse(status=204, headers={} if busy else {"HX-Refresh": "true"})
    family = lineage(row)
    stored: Backup | None = None
    unreadable: EngineError | None = None
    try:
        _, stored = holds.stored(row)
    except EngineError as problem:
        unreadable = problem
    away = unavailable(configuration()) & {row.repository}
    whose = shares(row) if stored is not None else None
    proofs = list(reversed(results(stored))) if stored else []
    made_by = next((job for job in about if str(job.pk) == row.job), None)
    if made_by is None and row.job:
        made_by = _job(row.job)
    locked = stored is not None and stored.manifest.locked
    context = {
        "row": row,
        "stored": stored,
        "unreadable": unreadable,
        "verdict": _verdict(
            row,
            unreadable,
            unchecked(stored) if stored else [],
            away=bool(away),
            locked=locked,
        ),
        "away": away,
        "usable": not row.missing and not away,
        "family": family,
        "picture": draw(row, family, whose),
        "own_share": _own_share(row, whose),
        "sources": [_source(record, proofs, about) for record in stored.manifest.sources] if stored else [],
        "proofs": [_proof(proof) for proof in proofs],
        "jobs": about,
        "busy": busy,
        "made_by": made_by,
        "may": permissions_of(request),
        "delete": deletions([row])[0],
        "files": _files(row) if downloads.permitted(request.user, row) else [],
        "better": _better(row) if row.damaged else None,
        "saved": 1 - row.bytes_stored / row.bytes_source if row.bytes_source else None,
    }
    return render(request, "backups/backup.html", "Backup", context)


def _files(row: IndexedBackup) -> list[str]:
    """The names of the files to download, the archive first."""
    envelope = [ENVELOPE] if row.encrypted and not row.parent_id else []
    return [SEALED_DATA if row.encrypted else DATA, MANIFEST, *envelope, SUMS]


def _row(given: Mapping[str, str], backup_id: str) -> IndexedBackup:
    return holds.indexed(backup_id, given.get("repository", ""), given.get("set", ""))


def _gone(request: HttpRequest, backup_id: str) -> HttpResponse:
    """What is known of a backup that jobs and reports still name. Raises `BackupNotFound` if none does."""
    jobs = list(jobs_about(backup_id)[:12]) if BACKUP_ID.fullmatch(backup_id) else []
    if not jobs and not AuditEntry.objects.filter(target=f"backup:{backup_id}").exists():
        raise BackupNotFound(f"There is no backup {backup_id}.", hint="See the list of backups.")
    return render(request, "backups/backup_gone.html", "Backup", {"backup_id": backup_id, "jobs": jobs}, status=410)


def _job(number: str) -> Job | None:
    try:
        return Job.objects.filter(pk=number).first()
    except ValueError:
        return None  # another scheduler made the backup and gave the run an id of its own


def _verdict(
    row: IndexedBackup, unreadable: EngineError | None, parts: list[str], *, away: bool, locked: bool
) -> dict[str, str]:
    """Whether a backup can be relied on, in two sentences."""
    if away:
        return {"state": "bad", "proof": "Unknown: its repository is not available.", "more": REPOSITORY_AWAY}
    if row.missing:
        return {"state": "bad", "proof": "It is missing from its repository.", "more": row.problem}
    if unreadable is not None:
        return {"state": "bad", "proof": "Its manifest cannot be read.", "more": unreadable.message}
    if locked:
        more = "Name a recipient's key in BACKUP_ENCRYPTION_KEY to restore it."
        return {"state": "warn", "proof": "It is encrypted, and no key here opens it.", "more": more}
    if row.damaged:
        return {"state": "bad", "proof": "It is damaged. Do not rely on it.", "more": row.problem}
    if row.check_failed_at is not None:
        earlier = f"It was verified on {_moment(row.verified_at)}. " if row.verified_at else ""
        return {
            "state": "warn",
            "proof": f"The last verification failed on {_moment(row.check_failed_at)} without a result.",
            "more": f"{row.check_failed} {earlier}Until a later verification succeeds, it does not count as verified.",
        }
    if row.incomplete:
        more = "What is missing from it is listed below. Everything else can be restored."
        return {"state": "warn", "proof": "It is incomplete.", "more": more}
    loss = loss_of(row, unconfirmed())
    if loss is not None:
        return {"state": "warn", "proof": f"It is {row.get_verification_display().lower()}, but shrunk.", "more": ""}
    if row.verification == "restore":
        if parts:
            proof = "It is restore-tested, but not all of it could be checked."
            return {"state": "good", "proof": proof, "more": f"{'; '.join(parts)}."}
        more = ""
        proof = "It is restore-tested: it was restored, opened, and compared with the source."
        return {"state": "good", "proof": proof, "more": more}
    if row.verification == "hashes":
        more = "A restore test proves more: it opens the stores and compares every record."
        return {"state": "good", "proof": "Its hashes are verified.", "more": more}
    return {"state": "warn", "proof": "It is not verified yet.", "more": "Verify it before you rely on it."}


def _moment(time: datetime) -> str:
    return clock(timezone.localtime(time))


def _better(row: IndexedBackup) -> IndexedBackup | None:
    """The backup of the same set to use instead of a damaged one: the newest sound one before it, else the next one."""
    sound = IndexedBackup.objects.filter(repository=row.repository, set=row.set, safety=False)
    sound = sound.exclude(verification__in=IndexedBackup.UNUSABLE).exclude(kind="snapshot").exclude(pk=row.pk)
    before = sound.filter(time__lte=row.time).order_by("-time")[:1].first()
    return before or sound.filter(time__gt=row.time).order_by("time")[:1].first()


def _own_share(row: IndexedBackup, whose: dict[str, int] | None) -> float | None:
    if not whose or not sum(whose.values()):
        return None
    return whose.get(row.backup_id, 0) / sum(whose.values())


def _source(record: SourceRecord, proofs: list[Proof], about: list[Job]) -> dict[str, Any]:
    """A store in the backup, with the rows of its tables if a restore test or a preview has counted them."""
    facts: dict[str, Any] = {
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
        tables, facts["tables_from"] = _tables(record, proofs, about)
        if tables is not None:
            facts["rows"] = sum(tables.values())
            facts["table_count"] = len(tables)
            ordered = sorted(tables.items(), key=lambda table: (-table[1], table[0]))
            facts["tables"] = ordered[:_MOST_TABLES]
            facts["largest"] = max(tables.values(), default=0)
    return facts


_MOST_LISTED = 20


_HOW = {
    "pinned": "read in place while writers continued",
    "online": "copied through SQLite's backup API",
    "cut": "copied under its lock",
    "walked": "walked file by file",
    "raw": "raw bytes of a broken store",
    "unchanged": "unchanged since the parent",
}


def _tables(record: SourceRecord, proofs: list[Proof], about: list[Job]) -> tuple[dict[str, int] | None, datetime | None]:
    """Rows of each table, and when they were counted: by the newest restore test, else by the newest preview of a restore."""
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
    depth = "Restore test" if proof.depth is Depth.RESTORE else "Hashes of every block"
    if proof.depth is Depth.HASHES and proof.scope == "written":
        depth = "Hashes of the blocks it stores itself"
    return {
        "proof": proof,
        "depth": depth,
        "unchecked": unchecked_in(proof),
        "rate": proof.bytes / proof.seconds if proof.seconds else None,
        "restore_seconds": proof.checks.get("restore_seconds"),
        "application": _application(proof.checks.get("application")),
    }


def _application(reported: Any) -> dict[str, Any] | None:
    """The report of the application's own check of its restored stores; None if it is not in the expected shape."""
    if not isinstance(reported, dict):
        return None
    answer = reported.get("answer")
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or "findings" not in answer:
        message = error.get("message") if isinstance(error, dict) else reported.get("said")
        return {"failed": str(message or "The check gave no answer."), "findings": 0}
    kinds, listed = answer.get("kinds"), answer.get("listed")
    return {
        "findings": answer["findings"],
        "records": answer.get("records"),
        "kinds": [(str(kind).replace("_", " ").capitalize(), number) for kind, number in sorted((kinds or {}).items())],
        "listed": [one for one in listed or () if isinstance(one, dict)][:_MOST_LISTED],
        "seconds": reported.get("seconds"),
    }


def _releases(request: HttpRequest, backup_id: str) -> bool:
    return request.POST.get("do") == "release"


@page("backups.view_backup", methods=("POST",))
@dangerous(_releases, second=four_eyes.RELEASE)
def act(request: HttpRequest, backup_id: str) -> HttpResponse:
    """Verify, drill, hold or release one backup."""
    row = _row(request.POST, backup_id)
    what = request.POST.get("do", "")
    actor, where = actor_of(request), row.home
    if what == "hashes":
        require(request, "backups.verify_backup")
        say_queued(request, "Verification queued", submit.verify(actor, backup_ids=[row.backup_id], depth=what, **where))
    elif what == "drill":
        require(request, "backups.verify_backup")
        job = submit.drill(actor, backup_id=row.backup_id, **where)
        say_queued(request, "Drill queued", job)
    elif what == "hold":
        require(request, "backups.hold_backup")
        note = request.POST.get("note", "").strip()
        held = holds.hold(actor, row, note)
        say(request, f"The backup is held{f': {note}' if note else ''}. Prune keeps it until it is released.")
        warn_of_unsigned(request, [held])
    elif what == "release":
        require(request, "backups.hold_backup")
        released = holds.release(actor, row)
        say(request, "The backup is released. The retention rules apply to it again.")
        warn_of_unsigned(request, [released])
    else:
        raise UsageError(f"Unknown action {what!r}.", hint="Nothing was changed.")
    return HttpResponseRedirect(row.get_absolute_url())


@page("backups.download_backup")
@dangerous(always)
def download(request: HttpRequest, backup_id: str, name: str) -> HttpResponseBase:
    """One of the backup's files, or a range of it."""
    row = _row(request.GET, backup_id)
    return downloads.answer(request, row, name, actor_of(request))
