"""How pages name jobs and their states."""

from __future__ import annotations

from django import template

from backups.engine.errors import UsageError
from backups.jobs.types import job_type
from backups.models import Job

register = template.Library()

TONES = {
    Job.State.QUEUED: "",
    Job.State.RUNNING: "busy",
    Job.State.SUCCEEDED: "good",
    Job.State.FAILED: "bad",
    Job.State.CANCELLED: "warn",
    Job.State.INTERRUPTED: "warn",
}
_PHASES = {
    "cut": "Cut",
    "store": "Store",
    "blocks": "Read every byte",
    "restore": "Restore",
    "write": "Write",
    "stage": "Stage",
    "exchange": "Exchange",
}


@register.filter
def tone(job: Job) -> str:
    """The class of a job's state: ``good``, ``warn``, ``bad``, ``busy`` or none."""
    return TONES[Job.State(job.state)]


@register.filter
def kind_title(name: str) -> str:
    """What a kind of job is called; a kind that this project no longer has, by its name."""
    try:
        return job_type(name).title
    except UsageError:
        return name


@register.filter
def job_title(job: Job) -> str:
    """What a job does, in a few words: ``Full backup``, ``Verify every backup``."""
    told = job.arguments
    if job.kind == "backup":
        title = {"full": "Full backup", "incremental": "Incremental backup", "snapshot": "Snapshot"}.get(
            str(told.get("backup", "full")), "Backup"
        )
        return title + (f" of {', '.join(told['only'])}" if told.get("only") else "")
    if job.kind == "verify":
        count = len(told.get("backup_ids") or ())
        named = "a backup" if count == 1 else f"{count} backups" if count else "the latest backup"
        return "Verify every backup" if told.get("everything") else f"Verify {named}"
    if job.kind == "drill":
        return "Test restore"
    if job.kind == "restore" and told.get("folder"):
        return f"Restore into the folder {told['folder']}"
    if job.kind == "delete":
        count = len(told.get("backup_ids") or ())
        return "Delete a backup" if count == 1 else f"Delete {count} backups"
    if job.kind == "prune" and told.get("dry_run"):
        return "Prune, dry run"
    return kind_title(job.kind)


@register.filter
def phase_label(name: str) -> str:
    """A phase for people: ``check sqlite/app.sqlite3`` is ``Check app.sqlite3``."""
    if name in _PHASES:
        return _PHASES[name]
    verb, _, of = name.partition(" ")
    return f"{verb.capitalize()} {of.rpartition('/')[2]}".strip()
