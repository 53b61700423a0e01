"""Dead man's switches: addresses called when a plan's job starts and ends. A monitor elsewhere reports a missing call.

The calls follow the convention of healthchecks.io: the address itself after a success, with ``/start`` or ``/fail`` appended
otherwise, and the run in ``rid``. They are written in the transaction that changes the job's state.
"""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.dispatch import receiver

from backups import moments
from backups.engine.progress import duration, human_bytes
from backups.jobs.lifecycle import job_ended, job_started
from backups.models import AlertChannel, Job

from . import outbox


@receiver(job_started)
def started(job: Job, **_: Any) -> None:
    """Write the calls for a job that starts, inside the transaction that starts it."""
    _call(job, "start", f"{_name(job)} started.")


@receiver(job_ended)
def ended(job: Job, *, retried: bool, **_: Any) -> None:
    """Write the calls for a job that ended; a failure that is retried is not reported yet."""
    if job.state == Job.State.SUCCEEDED:
        warning = f" {job.warning['message']}" if job.warning else ""
        _call(job, "success", f"{_name(job)} succeeded. {_outcome(job)}{warning}")
    elif not retried:
        error = job.error or {}
        _call(job, "fail", f"{_name(job)}: {job.get_state_display().lower()}. {error.get('message', '')}".strip())


def beat(now: datetime) -> None:
    """Call the switches that watch the worker itself, at their interval."""
    for channel in AlertChannel.objects.filter(kind=AlertChannel.Kind.PING, enabled=True, beat_minutes__gt=0):
        # Half a minute early, because the tick is less exact than the monitor
        due = now - timedelta(minutes=channel.beat_minutes, seconds=-30)
        mine = AlertChannel.objects.filter(Q(beaten=None) | Q(beaten__lte=due) | Q(beaten__gt=now), pk=channel.pk)
        if mine.update(beaten=now):
            _write(channel, "success", "The worker is running.", now, thread=f"beat:{channel.pk}", run="")


def _call(job: Job, event: str, text: str) -> None:
    if job.plan_id is None:
        return
    for channel in AlertChannel.objects.filter(kind=AlertChannel.Kind.PING, enabled=True, plans=job.plan_id):
        _write(channel, event, text, moments.now(), thread=f"ping:{channel.pk}:{job.plan_id}", run=str(job.pk))


def _write(channel: AlertChannel, event: str, text: str, now: datetime, *, thread: str, run: str) -> None:
    message: dict[str, Any] = {"text": text, "run": run, "at": now.isoformat()}
    outbox.write(event, f"channel:{channel.pk}", channel.name, message, now, thread=thread)


def _name(job: Job) -> str:
    return f"{job.plan.name if job.plan else job.kind} on {job.host}"


def _outcome(job: Job) -> str:
    result = job.result or {}
    parts = [job.backup_id] if job.backup_id else []
    if isinstance(result.get("bytes_stored"), int):
        parts.append(f"{human_bytes(result['bytes_stored'])} stored")
    if result.get("verification") not in (None, "none"):
        parts.append(f"proven by {result['verification']}")
    if job.took is not None:
        parts.append(f"in {duration(job.took.total_seconds())}")
    return (", ".join(parts) + ".") if parts else ""
