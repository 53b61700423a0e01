"""Conditions of workers, their hosts' clocks, and their jobs."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from backups.conf import WORKER, called
from backups.engine.progress import duration
from backups.models import Severity
from backups.monitoring.facts import Facts

from .condition import Observation, condition

SILENT_MINUTES = 2.0
"""A worker without a heartbeat for longer is silent. Workers send one every 60 to 90 seconds."""

JOB_SILENT_MINUTES = 5.0
"""A running job without a heartbeat for longer is silent. It sends two a second, unless the database is busy."""

AWAY_MINUTES = 5.0
"""A past silence of a worker is worth telling from this length on; to restart one takes less."""

RETIRED_AFTER = timedelta(days=7)
"""A host silent for longer than this was taken out of service."""

CLOCK_JUMP_SECONDS = 120.0
"""Clocks that are set by a time service move by less."""

REMEMBERED = timedelta(hours=1)
"""For how long a past event (a clock jump, a worker's absence) counts as present."""

SLOW_TIMES_USUAL = 4.0
"""A job is slow when it runs this many times as long as such jobs usually do ..."""

LEAST_SLOW_SECONDS = 300.0
"""... and for at least this long."""

WAITING_HOURS = 6.0
"""Longer than any job normally runs."""

_START = f"Start it with `{called(WORKER)}`, or read its output to see why it stopped."


def is_silent(heartbeat: datetime | None, now: datetime) -> bool:
    """Whether a worker with this last *heartbeat* no longer runs, or never did."""
    return heartbeat is None or now - heartbeat > timedelta(minutes=SILENT_MINUTES)


@condition(
    "worker_silent",
    "A worker does not report",
    code="worker",
    todo=_START,
    link="backups:jobs",
    query="state=queued",
    unit="minutes",
    phrase="for {:g} min",
    default=SILENT_MINUTES,
    before_first_backup=True,
)
def worker_silent(facts: Facts, threshold: float) -> Iterator[Observation]:
    silent_hosts = set()
    for worker in facts.workers:
        silent = facts.now - worker.beat if worker.beat is not None else None
        if silent is None or silent <= timedelta(minutes=threshold):
            continue
        if worker.host != facts.host and silent > RETIRED_AFTER:
            continue
        silent_hosts.add(worker.host)
        text = f"The worker on {worker.host} has not reported for {duration(silent.total_seconds())}; no jobs run there."
        yield Observation(subject=worker.host, text=text)
    for clock in facts.clocks:  # while it lasted, nothing could report it
        if clock.host in silent_hosts or clock.silent_from is None or clock.silent_until is None:
            continue
        gap = clock.silent_until - clock.silent_from
        if gap > timedelta(minutes=max(threshold, AWAY_MINUTES)) and abs(facts.now - clock.silent_until) < REMEMBERED:
            until = f"{clock.silent_until:%Y-%m-%d %H:%M} UTC"
            yield Observation(
                code="worker_was_away",
                subject=clock.host,
                text=f"The worker on {clock.host} did not run for {duration(gap.total_seconds())}, until {until}.",
                todo="Check why it stopped. A dead man's switch reports this while it lasts.",
                link="backups:jobs",
            )


@condition(
    "worker_never_started",
    "The worker has never run",
    code="worker",
    todo=_START,
    link="backups:jobs",
    query="state=queued",
    before_first_backup=True,
)
def worker_never_started(facts: Facts, threshold: float) -> Iterator[Observation]:
    if not any(worker.host == facts.host and worker.beat is not None for worker in facts.workers):
        text = f"The worker on {facts.host} has never reported; no jobs run there."
        yield Observation(subject=facts.host, text=text)


@condition(
    "clock_jumped",
    "A clock jumped",
    todo="Check its time service; ages and retention depend on the clock. Backups dated in the future are kept.",
    link="backups:dashboard",
    unit="seconds",
    phrase="by more than {:g} seconds",
    default=CLOCK_JUMP_SECONDS,
    severity=Severity.INFO,
)
def clock_jumped(facts: Facts, threshold: float) -> Iterator[Observation]:
    for clock in facts.clocks:
        if clock.jumped is None or abs(facts.now - clock.jumped) >= REMEMBERED or abs(clock.jumped_by) <= threshold:
            continue
        direction = "forward" if clock.jumped_by > 0 else "back"
        text = f"The clock of {clock.host} jumped {direction} by {duration(abs(clock.jumped_by))}."
        yield Observation(subject=clock.host, text=text)


@condition(
    "job_slow",
    "A job runs far longer than usual",
    todo="Check its phase and its log; cancel it if it hangs.",
    link="backups:job",
    unit="times the usual time",
    phrase="longer than {:g} times the usual duration",
    default=SLOW_TIMES_USUAL,
    severity=Severity.INFO,
    check="jobs",
)
def job_slow(facts: Facts, threshold: float) -> Iterator[Observation]:
    for job in facts.running:
        if job.usual is not None and job.seconds > max(LEAST_SLOW_SECONDS, threshold * job.usual):
            kind = job.kind.replace("_", " ")
            text = f"A {kind} job has run for {duration(job.seconds)}; usual: {duration(job.usual)}."
            yield Observation(subject=job.id, text=text, arguments=(job.id,))


@condition(
    "stale_job",
    "A job does not report",
    todo="Its worker is gone or hangs; the job is closed when a worker runs on its host again.",
    link="backups:job",
    unit="minutes",
    phrase="for {:g} min",
    default=JOB_SILENT_MINUTES,
    check="jobs",
)
def job_silent(facts: Facts, threshold: float) -> Iterator[Observation]:
    for job in facts.running:
        if job.heartbeat is not None and facts.now - job.heartbeat > timedelta(minutes=threshold):
            text = f"Job {job.kind} {job.id[:8]} has not reported since {job.heartbeat:%Y-%m-%d %H:%M} UTC."
            yield Observation(subject=job.id, text=text, arguments=(job.id,))


@condition(
    "waiting_jobs",
    "Jobs wait too long",
    todo="Check what is running, and whether the worker of their host runs.",
    link="backups:jobs",
    query="state=queued",
    unit="hours",
    phrase="for more than {:g} hours",
    default=WAITING_HOURS,
    check="jobs",
)
def jobs_waiting(facts: Facts, threshold: float) -> Iterator[Observation]:
    late = sum(facts.now - due > timedelta(hours=threshold) for due in facts.waiting_since)
    if late:
        jobs = "1 job has" if late == 1 else f"{late:,} jobs have"
        yield Observation(subject="", text=f"{jobs} been queued for more than {duration(threshold * 3600)}.")
