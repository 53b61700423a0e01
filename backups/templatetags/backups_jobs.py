"""Titles and states of jobs."""

from django import template

from backups.engine.errors import UsageError
from backups.engine.progress import counted
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
    "blocks": "Verify hashes",
    "restore": "Restore",
    "write": "Write",
    "stage": "Stage",
    "exchange": "Exchange",
}


@register.filter
def tone(job: Job) -> str:
    """The class of a job's state: ``good``, ``warn``, ``bad``, ``busy`` or none."""
    return "warn" if job.warning is not None else TONES[Job.State(job.state)]


@register.filter
def kind_title(name: str) -> str:
    """The title of a job type, or its name if the project no longer has it."""
    try:
        return job_type(name).title
    except UsageError:
        return name


@register.filter
def job_title(job: Job) -> str:
    """What a job does, in a few words: ``Full backup``, ``Verify all backups``."""
    arguments = job.arguments
    if job.kind == "backup":
        title = {"full": "Full backup", "incremental": "Incremental backup", "snapshot": "Snapshot"}.get(
            str(arguments.get("backup", "full")), "Backup"
        )
        return title + (f" of {', '.join(arguments['only'])}" if arguments.get("only") else "")
    if job.kind == "verify":
        count = len(arguments.get("backup_ids") or ())
        named = counted(count, "backup") if count else "the latest backup"
        return "Verify all backups" if arguments.get("everything") else f"Verify {named}"
    if job.kind == "drill":
        return "Drill"
    if job.kind == "restore" and arguments.get("folder"):
        return f"Restore into {arguments['folder']}"
    if job.kind == "delete":
        count = len(arguments.get("backup_ids") or ())
        return f"Delete {counted(count, 'backup')}"
    if job.kind == "prune" and arguments.get("dry_run"):
        return "Prune (dry run)"
    return kind_title(job.kind)


@register.filter
def phase_label(name: str) -> str:
    """The label of a phase: ``check sqlite/app.sqlite3`` is ``Check app.sqlite3``."""
    if name in _PHASES:
        return _PHASES[name]
    verb, _, of = name.partition(" ")
    return f"{verb.capitalize()} {of.rpartition('/')[2]}".strip()
