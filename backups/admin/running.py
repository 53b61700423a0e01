"""A queued or running job on the pages: its steps, its phases, and the pause of writers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backups import moments
from backups.jobs.types import BACKUP, DRILL, RESTORE, RESTORE_IN_PLACE, VERIFY
from backups.models import Job
from backups.templatetags.backups_jobs import phase_label

_MOST_WAITING = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a job; ``state`` is ``done``, ``now``, or empty for a later step."""

    label: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A phase of an ended or running job on a common axis; ``x`` and ``width`` in percent of the job's time."""

    label: str
    x: float
    width: float
    seconds: float | None
    done: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A queued or running job as the pages show it."""

    job: Job
    steps: tuple[Step, ...]
    pause: float | None
    counts_bytes: bool

    @property
    def phase(self) -> str:
        return phase_label(self.job.phase) if self.job.phase else ""


def active() -> list[Live]:
    """Running jobs, then queued jobs, oldest first."""
    found = [
        job
        for state in (Job.State.RUNNING, Job.State.QUEUED)
        for job in Job.objects.filter(state=state).select_related("plan").order_by("created", "id")[:_MOST_WAITING]
    ]
    return [live(job) for job in found]


def live(job: Job) -> Live:
    """One queued or running job as the pages show it."""
    return Live(
        job=job,
        steps=steps(job),
        pause=longest_pause(job),
        counts_bytes=job.kind in (BACKUP.name, VERIFY.name, DRILL.name, RESTORE.name, RESTORE_IN_PLACE.name),
    )


def steps(job: Job) -> tuple[Step, ...]:
    """The steps of a job, including later ones if they are known."""
    names = [str(phase["name"]) for phase in job.phases]
    seen = list(dict.fromkeys(_step_of(job.kind, name, names[:number]) for number, name in enumerate(names)))
    planned = [*_planned(job)]
    labels = list(dict.fromkeys([*seen, *planned])) if not set(seen) <= set(planned) else planned
    now = seen[-1] if seen and job.state == Job.State.RUNNING else None
    return tuple(Step(label=label, state="now" if label == now else "done" if label in seen else "") for label in labels)


def _planned(job: Job) -> Sequence[str]:
    if job.kind == BACKUP.name:
        return ("Cut", "Store", "Prove") if job.arguments.get("verify") != "none" else ("Cut", "Store")
    if job.kind == VERIFY.name and job.arguments.get("depth") != "restore":
        return ("Read",)
    if job.kind in (VERIFY.name, DRILL.name):
        return ("Restore", "Check", "Compare")
    if job.kind == RESTORE.name:
        return ("Write", "Check", "Compare") if job.arguments.get("check", True) else ("Write",)
    if job.kind == RESTORE_IN_PLACE.name:
        return ("Stage", "Check", "Safety backup", "Exchange", "Check again")
    return ()


def _step_of(kind: str, phase: str, before: Sequence[str]) -> str:
    verb = phase.partition(" ")[0]
    if kind == BACKUP.name:
        return {"cut": "Cut", "store": "Store"}.get(verb, "Prove")
    if kind == RESTORE_IN_PLACE.name:
        if verb in ("stage", "exchange"):
            return verb.capitalize()
        if "exchange" in before:
            return "Check again"
        return "Safety backup" if "cut" in (verb, *before) else "Check"
    if kind in (VERIFY.name, DRILL.name, RESTORE.name):
        return "Read" if verb == "blocks" else verb.capitalize()
    return phase_label(phase)


def bars(job: Job) -> list[Bar]:
    """The phases of a job as bars on a common axis, from its start to its end or now."""
    if not job.phases or job.started is None:
        return []
    end = job.finished or moments.now()
    begin = min(job.started, datetime.fromisoformat(job.phases[0]["started"]))
    whole = max((end - begin).total_seconds(), 0.001)
    drawn = []
    for number, phase in enumerate(job.phases):
        started = datetime.fromisoformat(phase["started"])
        seconds = phase.get("seconds")
        last = number == len(job.phases) - 1
        lasted = seconds if seconds is not None else max(0.0, (end - started).total_seconds()) if last else 0.0
        x = min(100.0, max(0.0, (started - begin).total_seconds() / whole * 100))
        unfinished = "now" if job.state == Job.State.RUNNING and last else "bad"
        drawn.append(
            Bar(
                label=phase_label(str(phase["name"])),
                x=round(min(x, 99.5), 2),
                width=round(max(0.5, min(lasted / whole * 100, 100 - x)), 2),
                seconds=seconds if seconds is not None else lasted,
                done=int(phase.get("done") or 0),
                state="done" if seconds is not None else unfinished,
            )
        )
    return drawn


def longest_pause(job: Job) -> float | None:
    """The longest pause of writers in a backup, in milliseconds; None if not known yet."""
    if job.kind not in (BACKUP.name, RESTORE_IN_PLACE.name):
        return None
    reports = [job.result or {}, *job.phases]
    return max((float(ms) for report in reports for ms in (report.get("pause_ms") or {}).values()), default=None)
