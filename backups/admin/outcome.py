"""The state and result of a job: a sentence, and tables."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from backups import moments
from backups.catalog.losses import loss_of, unconfirmed
from backups.conf import WORKER, called
from backups.engine.check_stores import NO_CLIENT, without_client
from backups.engine.progress import counted, duration, human_bytes
from backups.jobs.types import BACKUP, job_types
from backups.models import IndexedBackup, Job
from backups.monitoring.conditions.workers import is_silent
from backups.monitoring.gathering import worker_beat
from backups.templatetags.backups_format import ago
from backups.templatetags.backups_jobs import job_title, phase_label
from backups.templatetags.backups_jobs import tone as tone_of


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """The state of a job: a word and the sentence that continues it, its tone (``good``, ``warn``, ``bad``, ``busy``); hint."""

    tone: str
    word: str
    sentence: str
    hint: str = ""


def summarize(job: Job) -> JobSummary:
    """The state of a job in a sentence."""
    tone, word = tone_of(job), job.get_state_display()
    if job.state == Job.State.QUEUED:
        return _waiting(job)
    if job.state == Job.State.RUNNING:
        if job.cancel_asked is not None:
            return JobSummary(
                tone=tone, word="Cancelling", sentence=f"(requested by {job.cancel_by})." if job.cancel_by else "…"
            )
        phase = phase_label(job.phase) if job.phase else "starting"
        share = f", {job.fraction * 100:.0f} %" if job.fraction is not None else ""
        return JobSummary(tone=tone, word=f"{word}:", sentence=f"{phase}{share}.")
    if job.state == Job.State.SUCCEEDED:
        about = IndexedBackup.objects.filter(repository=job.repository, backup_id=job.backup_id)
        row = (about.filter(set=job.set).first() or about.first()) if job.backup_id else None
        loss = loss_of(row, unconfirmed()) if row is not None and job.kind == BACKUP.name else None
        if loss is not None:
            hint = f"The complete backup {loss.complete.backup_id} is held until the loss is confirmed."
            return JobSummary(tone="warn", word=word, sentence=f"{_done(job)} {loss.text}", hint=hint)
        if job.warning is not None:
            hint = str(job.warning.get("hint") or "")
            return JobSummary(tone=tone, word=word, sentence=f"{_done(job)} {job.warning['message']}", hint=hint)
        return JobSummary(tone=tone, word=word, sentence=_done(job))
    error = job.error or {}
    message = str(error.get("message") or "no details are known.")
    return JobSummary(tone=tone, word=f"{word}:", sentence=message, hint=str(error.get("hint") or ""))


def _waiting(job: Job) -> JobSummary:
    now, word = moments.now(), job.get_state_display()
    beat = worker_beat(job.host)
    if is_silent(beat, now):
        silence = f"has not reported for {duration((now - beat).total_seconds())}" if beat else "has not started yet"
        return JobSummary(
            tone="warn",
            word=f"{word}:",
            sentence=f"the worker {silence}.",
            hint=f"Start it with `{called(WORKER)}`, or read its output to see why it stopped.",
        )
    if job.not_before > now + timedelta(seconds=1):
        return JobSummary(tone="", word=word, sentence=f"for attempt {job.attempt} of {job.attempts}, {ago(job.not_before)}.")
    if job.writes:
        writer = Job.objects.filter(state=Job.State.RUNNING, writes=True, repository=job.repository).first()
        if writer is not None:
            return JobSummary(
                tone="", word=word, sentence=f"until {job_title(writer)} has finished writing to the same repository."
            )
    return JobSummary(tone="", word=word, sentence="for a free worker.")


def _done(job: Job) -> str:
    found: dict[str, Any] = job.result or {}
    took = f"in {duration(job.took.total_seconds())}" if job.took is not None else ""
    try:
        kind = job_types().get(job.kind)
        sentence = _SENTENCES.get(job.kind) or (kind.sentence if kind else None)
        more = sentence(found) if sentence and found else ""
    except (KeyError, TypeError, ValueError):
        more = ""  # the result was written by an older version, or by the reconciler, which knows less
    return f"{took}. {more}".strip()


def _backup(found: dict[str, Any]) -> str:
    proof = IndexedBackup.Verification(found.get("verification") or "none").label.lower()
    pause = max((float(value) for value in found["pause_ms"].values()), default=0.0)
    size = f"{human_bytes(found['bytes_source'])}, stored in {human_bytes(found['bytes_stored'])}"
    return f"{size}, {proof}. Writers were paused for {duration(pause / 1000)}."


def _verified(found: dict[str, Any]) -> str:
    results = found["results"]
    depth = "restore-tested" if all(one["depth"] == "restore" for one in results) else "verified by hashes"
    return f"{counted(len(results), 'backup')} sound, {depth}."


def _restored(found: dict[str, Any]) -> str:
    if found.get("dry_run"):
        return "Dry run: nothing was written."
    return f"{human_bytes(found['bytes'])} restored to {found['to']}."


def _pruned(found: dict[str, Any]) -> str:
    removed, kept = len(found["removed"]), len(found["kept"])
    would = "would be removed" if found.get("dry_run") else "removed"
    return f"{counted(removed, 'backup') if removed else 'No backups'} {would}, {kept} kept."


def _indexed(found: dict[str, Any]) -> str:
    read = sum(one["read"] for one in found["repositories"].values())
    found_backups = sum(one["found"] for one in found["repositories"].values())
    return f"{counted(found_backups, 'backup')} in the repository, {read} read."


_SENTENCES = {
    "backup": _backup,
    "verify": _verified,
    "drill": _verified,
    "restore": _restored,
    "restore_in_place": _restored,
    "prune": _pruned,
    "reindex": _indexed,
}


# The result, rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A result: the template for its job type, empty if there is none, its data, and all of it as JSON."""

    template: str
    found: dict[str, Any]
    text: str


_TEMPLATES = {
    "backup": ("backups/outcome/backup.html", ("id", "sources", "bytes_source", "bytes_stored", "pause_ms")),
    "verify": ("backups/outcome/verify.html", ("results",)),
    "drill": ("backups/outcome/verify.html", ("results",)),
    "restore": ("backups/outcome/restore.html", ("id", "to", "bytes", "checks")),
    "restore_in_place": ("backups/outcome/restore.html", ("id", "to", "bytes", "checks")),
    "prune": ("backups/outcome/prune.html", ("kept", "removed")),
    "reindex": ("backups/outcome/reindex.html", ("repositories",)),
}
_LONGEST_TEXT = 200_000


def result(job: Job) -> Result | None:
    """How the result of a job is shown; None if it has none."""
    found = job.result
    if not found:
        return None
    kind = job_types().get(job.kind)
    template, wanted = _TEMPLATES.get(job.kind, (kind.template if kind else "", ()))
    if any(name not in found for name in wanted):
        template = ""
    text = json.dumps(found, indent=2, ensure_ascii=False)
    shown = dict(found)
    if "results" in found:
        shown["results"] = [{**one, "stores": list(_stores(one.get("checks") or {}))} for one in found["results"]]
    elif isinstance(found.get("checks"), dict):
        shown["stores"] = list(_stores(found["checks"]))
    return Result(template=template, found=shown, text=text[:_LONGEST_TEXT])


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A restored store that was opened, with the rows of each table or the records of each collection."""

    name: str
    kind: str
    checks: str
    counts: tuple[tuple[str, int], ...]


def _stores(checks: dict[str, Any]) -> Iterable[Store]:
    for name, found in checks.items():
        if not isinstance(found, dict):
            continue
        kind, _, rest = name.partition("/")
        if isinstance(found.get("tables"), dict):
            broken = found.get("foreign_key_check") or 0
            text = f"integrity check: {found.get('integrity_check', 'not run')}, {counted(int(broken), 'broken foreign key')}"
            text = "; ".join([text, *found.get("findings", [])])
            yield Store(name=rest, kind=kind, checks=text, counts=tuple(sorted(found["tables"].items())))
        elif isinstance(found.get("collections"), dict):
            opened = f"opened and searched with Chroma {found.get('chromadb', '')}".strip()
            counts = tuple((key, int(value.get("count", 0))) for key, value in sorted(found["collections"].items()))
            yield Store(
                name=rest,
                kind=kind,
                checks=f"records compared, but {NO_CLIENT}: {found.get('not_opened', '')}" if without_client(found) else opened,
                counts=counts,
            )
