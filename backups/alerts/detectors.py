"""What can be the case: detectors, each a pure function from facts and a threshold to what it found.

A project adds its own with ``BACKUPS["ALERT_DETECTORS"]``, a list of import paths to `Detector` objects::

    def find(facts, threshold):
        if facts.more["papers_unread"] > threshold:
            yield Detection(subject="", text="Papers pile up.", todo="Read one.", link="library:papers")

    DETECTOR = Detector(
        name="papers_unread", title="Unread papers", unit="papers", default=100, find=find, gather=lambda now: count_papers()
    )
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.module_loading import import_string

from backups.conf import configuration
from backups.engine.progress import duration, human_bytes
from backups.monitoring.facts import RepositoryFact, SetFact

from .facts import Facts
from .transitions import Detection

REMEMBERED = timedelta(hours=1)
"""How long a jump of the clock, or a time without a worker, counts as being the case."""

FORGOTTEN = timedelta(days=7)
"""A host that is silent for longer was taken out of service."""

SHORTEST = 300.0
"""Seconds below which no job is called slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """What may be the case, how its threshold reads, and how it is found.

    ``find`` takes the facts and the threshold and reads nothing else; ``gather`` reads what it needs beyond `Facts`, once a
    minute and quickly: its answer is ``facts.more[name]``. What either raises is told as an alert of its own.
    """

    name: str
    title: str
    find: Callable[[Facts, float], Iterable[Detection]]
    unit: str = ""
    """Of the threshold, for people; empty: it has none."""
    phrase: str = ""
    """How a rule reads, with the threshold in it: ``less than {:g} % free``."""
    default: float = 0.0
    gather: Callable[[datetime], Any] | None = None
    severity: str = "warning"
    """Of the rule that a new installation gets, for a detector of the project."""


def _of(one: SetFact, facts: Facts) -> str:
    return f" of {one.name}" if len(facts.verdict.sets) > 1 else ""


def _plan_failed(facts: Facts, threshold: float) -> Iterator[Detection]:
    for plan in facts.plans:
        if plan.failed_in_a_row < max(1.0, threshold, plan.alert_after):
            continue
        times = "" if plan.failed_in_a_row == 1 else f" {plan.failed_in_a_row} times in a row"
        yield Detection(
            subject=plan.name,
            text=f"{plan.title} failed{times}: {plan.message or 'it gave no answer.'}",
            todo=plan.hint or "Look at the job's log.",
            link="backups:job",
            arguments=(plan.last_job,),
            also=plan.alert_to,
        )


def _no_proven_backup(facts: Facts, threshold: float) -> Iterator[Detection]:
    promised = facts.verdict.promised_point
    for one in facts.verdict.sets:
        if one.proven is None:
            text = f"There is no proven backup{_of(one, facts)}."
        else:
            age = (facts.now - one.proven.time).total_seconds()
            if age <= promised * threshold:
                continue
            text = f"No proven backup{_of(one, facts)} for {duration(age)}; {duration(promised)} are promised."
        yield Detection(subject=one.name, text=text, todo="Back up now, and look why plans did not.", link="backups:dashboard")


def _unproven(facts: Facts, threshold: float) -> Iterator[Detection]:
    for one in facts.verdict.sets:
        if one.newest is None or one.newest.verification != "none":
            continue
        age = (facts.now - one.newest.time).total_seconds()
        if age > threshold * 60:
            yield Detection(
                subject=one.name,
                text=f"The last backup{_of(one, facts)}, {duration(age)} old, is not proven.",
                todo="Verify it.",
                link="backups:backup",
                arguments=(one.newest.id,),
            )


def _damage(facts: Facts, threshold: float) -> Iterator[Detection]:
    for one in facts.damaged:
        yield Detection(
            subject=one.id,
            text=f"Backup {one.id} is damaged: {one.problem or 'its proof failed.'}",
            todo="Make a full backup now, then look at the disk, and at what the proof found.",
            link="backups:backup",
            arguments=(one.id,),
        )
    rest = facts.damaged_count - len(facts.damaged)
    if rest > 0:
        yield Detection(
            subject="", text=f"{rest:,} more backups are damaged.", todo="Look at the disk.", link="backups:backups"
        )


def _worker_silent(facts: Facts, threshold: float) -> Iterator[Detection]:
    told = set()
    for worker in facts.verdict.workers:
        silent = facts.now - worker.beat if worker.beat is not None else None
        if silent is None or not timedelta(minutes=threshold) < silent <= FORGOTTEN:
            continue
        told.add(worker.host)
        yield Detection(
            subject=worker.host,
            text=f"The worker of {worker.host} has been silent for {duration(silent.total_seconds())}: nothing runs there.",
            todo="Start it with `manage.py serve`, or read in its output why it stopped.",
            link="backups:jobs",
        )
    for clock in facts.clocks:  # nobody could tell while it lasted
        if clock.host in told or clock.silent_from is None or clock.silent_until is None:
            continue
        gap = clock.silent_until - clock.silent_from
        if gap > timedelta(minutes=threshold) and abs(facts.now - clock.silent_until) < REMEMBERED:
            yield Detection(
                subject=clock.host,
                text=f"The worker of {clock.host} did nothing for {duration(gap.total_seconds())}, until "
                f"{clock.silent_until:%Y-%m-%d %H:%M} UTC.",
                todo="Look why it stopped. A dead man's switch tells while it lasts.",
                link="backups:jobs",
            )


def _job_slow(facts: Facts, threshold: float) -> Iterator[Detection]:
    for job in facts.running:
        if job.usual is not None and job.seconds > max(SHORTEST, threshold * job.usual):
            yield Detection(
                subject=job.id,
                text=f"A job ({job.kind.replace('_', ' ')}) has run for {duration(job.seconds)}; "
                f"{duration(job.usual)} are usual.",
                todo="Look at its phase and its log; cancel it when it hangs.",
                link="backups:job",
                arguments=(job.id,),
            )


def _name(one: RepositoryFact, facts: Facts) -> str:
    return f"repository {one.name}" if len(facts.verdict.repositories) > 1 else "repository"


def _repository_away(facts: Facts, threshold: float) -> Iterator[Detection]:
    for one in facts.verdict.repositories:
        if not one.there:
            yield Detection(
                subject=one.name,
                text=f"The {_name(one, facts)} is not there.",
                todo="Mount its disk, or correct its path in the settings.",
                link="backups:dashboard",
            )


def _space(facts: Facts, threshold: float) -> Iterator[Detection]:
    for one in facts.verdict.repositories:
        if one.size and one.free < one.size * threshold / 100:
            yield Detection(
                subject=one.name,
                text=f"The disk of the {_name(one, facts)} has {human_bytes(one.free)} of {human_bytes(one.size)} free.",
                todo="Free space, or keep fewer backups.",
                link="backups:plans",
            )


def _full_soon(facts: Facts, threshold: float) -> Iterator[Detection]:
    for one in facts.verdict.repositories:
        if one.size and one.grown_a_day and one.free / one.grown_a_day < threshold:
            left = duration(one.free / one.grown_a_day * 86_400)
            yield Detection(
                subject=one.name,
                text=f"The disk of the {_name(one, facts)} will be full in about {left}.",
                todo="Free space, or keep fewer backups.",
                link="backups:plans",
            )


def _drill_overdue(facts: Facts, threshold: float) -> Iterator[Detection]:
    last, could = facts.drills.last_good, facts.drills.could_be_since
    since = last or could
    if since is None or facts.now - since <= timedelta(days=threshold):
        return
    said = (
        f"The last test restore was {duration((facts.now - last).total_seconds())} ago."
        if last
        else "No restore was ever tested."
    )
    yield Detection(subject="", text=said, todo="Run the plan of test restores, or start one.", link="backups:plans")


def _drill_failed(facts: Facts, threshold: float) -> Iterator[Detection]:
    if facts.drills.failed_job:
        yield Detection(
            subject="",
            text=f"The last test restore failed: {facts.drills.message or 'it gave no answer.'}",
            todo="A restore may fail too. Look at what it found, and make a full backup.",
            link="backups:job",
            arguments=(facts.drills.failed_job,),
        )


def _clock_jumped(facts: Facts, threshold: float) -> Iterator[Detection]:
    for clock in facts.clocks:
        if clock.jumped is None or abs(facts.now - clock.jumped) >= REMEMBERED or abs(clock.jumped_by) <= threshold:
            continue
        way = "forward" if clock.jumped_by > 0 else "back"
        yield Detection(
            subject=clock.host,
            text=f"The clock of {clock.host} jumped {way} by {duration(abs(clock.jumped_by))}.",
            todo="Look at its time service: ages and retention rest on the clock. Backups dated in the future are kept.",
            link="backups:dashboard",
        )


def _channel_unheard(facts: Facts, threshold: float) -> Iterator[Detection]:
    for channel in facts.unheard:
        if channel.count >= max(1.0, threshold):
            yield Detection(
                subject=channel.name,
                text=f"{channel.name} takes no messages: {channel.answer or 'no answer.'}",
                todo="Send a test, and correct its address.",
                link="backups:alert_channel",
                arguments=(str(channel.id),),
            )


def _detector_broken(facts: Facts, threshold: float) -> Iterator[Detection]:
    for name, why in facts.broken.items():
        yield Detection(
            subject=name,
            text=f"The detector {name} could not look: {why}",
            todo="Until it can, its alerts neither begin nor end. The worker's log has the whole error.",
        )


_OWN = (
    Detector(
        name="plan_failed", title="A plan failed in a row", unit="times", phrase="{:g} in a row", default=1, find=_plan_failed
    ),
    Detector(
        name="no_proven_backup",
        title="No proven backup for longer than promised",
        unit="times the promised recovery point",
        phrase="older than {:g} times what is promised",
        default=1.25,
        find=_no_proven_backup,
    ),
    Detector(
        name="unproven",
        title="The last backup is not proven",
        unit="minutes old",
        phrase="{:g} minutes old",
        default=90,
        find=_unproven,
    ),
    Detector(name="damage", title="A verification found damage", find=_damage),
    Detector(
        name="worker_silent",
        title="A worker is silent",
        unit="minutes",
        phrase="for {:g} minutes",
        default=5,
        find=_worker_silent,
    ),
    Detector(
        name="job_slow",
        title="A job runs far beyond its usual time",
        unit="times the usual time",
        phrase="longer than {:g} times",
        default=4,
        find=_job_slow,
    ),
    Detector(name="repository_away", title="A repository is not there", find=_repository_away),
    Detector(
        name="space",
        title="A repository has little space",
        unit="% free",
        phrase="less than {:g} % free",
        default=10,
        find=_space,
    ),
    Detector(
        name="full_soon",
        title="A repository will be full soon",
        unit="days",
        phrase="within {:g} days",
        default=14,
        find=_full_soon,
    ),
    Detector(
        name="drill_overdue",
        title="A test restore is overdue",
        unit="days",
        phrase="none for {:g} days",
        default=8,
        find=_drill_overdue,
    ),
    Detector(name="drill_failed", title="A test restore failed", find=_drill_failed),
    Detector(
        name="clock_jumped",
        title="A clock jumped",
        unit="seconds",
        phrase="by more than {:g} seconds",
        default=120,
        find=_clock_jumped,
    ),
    Detector(
        name="channel_unheard",
        title="A channel takes no messages",
        unit="messages",
        phrase="{:g} given up",
        default=1,
        find=_channel_unheard,
    ),
    Detector(name="detector_broken", title="A detector could not look", find=_detector_broken),
)


@functools.cache
def _all(paths: tuple[str, ...]) -> dict[str, Detector]:
    return {detector.name: detector for detector in (*_OWN, *(import_string(path) for path in paths))}


def detectors() -> dict[str, Detector]:
    """Every detector by its name, the project's own included."""
    return _all(configuration().alert_detectors)
