"""Conditions of a set's backups: their age, their proof, damage, and jobs that fail."""

import itertools
from collections.abc import Iterator

from backups.engine.progress import duration
from backups.models import IndexedBackup, Severity
from backups.monitoring.facts import BackupFact, EndedJob, Facts, SetFact

from .condition import Observation, condition, of

NO_BACKUP = "nothing"
"""Code of the observation that a set has no backup at all."""

OVERDUE_TIMES_RPO = 1.25
"""A proven backup older than this many times the RPO is too old: a backup that starts on time is proven a little later."""

LONG_OVERDUE_TIMES_RPO, LONG_OVERDUE_SECONDS = 3.0, 86_400.0
"""Older than this many times the RPO, and than a day, it no longer counts as protection."""

LEAST_GRACE_SECONDS = 300.0
"""Age allowed beyond the RPO however short the RPO is."""

UNPROVEN_MINUTES = 90.0
"""Verification normally follows a backup within minutes."""

AHEAD_SECONDS = 300.0
"""A backup dated further in the future than this was made with a wrong clock, or this machine's clock is wrong."""

FAILURES_IN_A_ROW = 2.0
"""So many failed backup jobs in a row put protection at risk; one alone is worth knowing."""

_MOST_NAMED = 3
"""Backups that a sentence names; the others are counted."""

_FIRST_SECONDS, _FIRST_RATE = 8.0, 60e6
"""To estimate the first backup: seconds that every backup takes, and bytes a second."""

_TODO_BY_ERROR = {
    "no_space": "Free space, or keep fewer backups.",
    "no_repository": "Mount the repository's disk, or correct its path in the settings.",
    "permission": "Let the worker's account read the stores and write to the repository.",
}


def _failures(one: SetFact) -> list[EndedJob]:
    """The jobs that failed since the last success and the newest backup, newest first."""

    def counts(job: EndedJob) -> bool:
        return not job.ok and (one.newest is None or one.newest.time <= job.finished)

    return list(itertools.takewhile(counts, one.jobs))


@condition(
    "failing",
    "The last backups failed",
    todo="Read the job's log.",
    unit="failed in a row",
    phrase="{:g} or more in a row",
    default=FAILURES_IN_A_ROW,
    before_first_backup=True,
)
def failing(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.sets:
        failed = _failures(one)
        if not failed:
            continue
        last = failed[0]
        backups = f"{_number(len(failed))} backups" if len(failed) > 1 else "backup"
        no_space = last.code == "no_space"
        yield Observation(
            subject=one.name,
            text=f"The last {backups}{of(one.name, facts.sets)} failed: {_first_sentence(last.message) or 'no message.'}",
            todo=_TODO_BY_ERROR.get(last.code, last.hint),
            link="backups:plans" if no_space else "backups:job",
            arguments=() if no_space else (last.id,),
            severity=Severity.WARNING if len(failed) >= threshold or one.newest is None else Severity.INFO,
        )


@condition(
    "no_proven_backup",
    "No proven backup within the target",
    todo="Back up now, and check why the plans did not.",
    link="backups:dashboard",
    unit="times the RPO",
    phrase="older than {:g} times the RPO",
    default=OVERDUE_TIMES_RPO,
    severity=Severity.CRITICAL,
    unprotected=True,
    before_first_backup=True,
)
def no_proven_backup(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.sets:
        which = of(one.name, facts.sets)
        if one.proven is not None:
            yield from _too_old(one.proven, one, facts, threshold)
        elif one.newest is None and one.missing:
            text = f"No backup{which} is left: {'the only one is' if one.missing == 1 else f'all {one.missing:,} are'} missing."
            yield Observation(code="all_missing", subject=one.name, text=text, link="backups:backups", query="proof=missing")
        elif one.newest is None:
            seconds = _FIRST_SECONDS + (facts.bytes_to_back_up or 0) / _FIRST_RATE
            todo = f"Make the first backup: about {duration(seconds)}."
            yield Observation(code=NO_BACKUP, subject=one.name, text=f"No backup{which} yet.", todo=todo)
        else:
            untested = one.newest.verification == IndexedBackup.Verification.NONE
            yield Observation(
                code="unproven",
                subject=one.name,
                text=f"No proven backup{which}.",
                todo="Verify the newest one by restoring it." if untested else "Back up now, and check the disk.",
                link="backups:backup" if untested else "backups:dashboard",
                arguments=(one.newest.id,) if untested else (),
                severity=Severity.WARNING if untested else "",
            )


def _too_old(proven: BackupFact, one: SetFact, facts: Facts, threshold: float) -> Iterator[Observation]:
    age, rpo, newest = proven.age(facts.now), facts.promised_point, one.newest
    if age <= max(rpo * threshold, rpo + LEAST_GRACE_SECONDS):
        return
    text = f"No proven backup{of(one.name, facts.sets)} for {duration(age)} (target: {duration(rpo)})."
    unproven = None
    if newest and newest.verification == IndexedBackup.Verification.NONE and newest.time > proven.time:
        unproven = newest
        text += f" The newest, {duration(newest.age(facts.now))} old, is not proven."
    yield Observation(
        code="too_old",
        subject=one.name,
        text=text,
        todo="Verify the newest one." if unproven else "",
        link="backups:backup" if unproven else "",
        arguments=(unproven.id,) if unproven else (),
        severity="" if age > max(LONG_OVERDUE_TIMES_RPO * rpo, LONG_OVERDUE_SECONDS) else Severity.WARNING,
    )


def _newest(facts: Facts) -> Iterator[tuple[BackupFact, str, str]]:
    """The newest backup of each set that has one, the set's name, and how a sentence names it."""
    for one in facts.sets:
        if one.newest is not None:
            yield one.newest, one.name, f"The newest backup{of(one.name, facts.sets)}"


@condition(
    "dated_ahead",
    "A backup is dated in the future",
    code="clock",
    todo="Correct this machine's clock; ages and retention are unreliable until then.",
    link="backups:backup",
    unit="seconds",
    phrase="by more than {:g} seconds",
    default=AHEAD_SECONDS,
)
def dated_ahead(facts: Facts, threshold: float) -> Iterator[Observation]:
    for newest, name, which in _newest(facts):
        ahead = (newest.time - facts.now).total_seconds()
        if ahead > threshold:
            text = f"{which} is dated {duration(ahead)} in the future."
            yield Observation(subject=name, text=text, arguments=(newest.id,))


@condition(
    "newest_damaged",
    "The newest backup is damaged",
    code="damaged",
    todo="Make a full backup, then read what verification found.",
    link="backups:backup",
    severity=Severity.CRITICAL,
)
def newest_damaged(facts: Facts, threshold: float) -> Iterator[Observation]:
    for newest, name, which in _newest(facts):
        if newest.verification == IndexedBackup.Verification.DAMAGED:
            text = f"{which} is damaged: {newest.problem or 'verification failed.'}"
            yield Observation(subject=name, text=text, arguments=(newest.id,))


@condition(
    "incomplete",
    "The newest backup is incomplete",
    todo="Let the worker's account read what is missing, or exclude it (BACKUP_EXCLUDE), and back up again.",
    link="backups:backup",
)
def newest_incomplete(facts: Facts, threshold: float) -> Iterator[Observation]:
    for newest, name, which in _newest(facts):
        if newest.missing:
            many = newest.missing > 1
            text = f"{newest.missing:,} {'files or folders are' if many else 'file or folder is'} missing from it."
            if newest.first_missing:
                text = f"{text} The first: {newest.first_missing}." if many else f"{newest.first_missing}."
            yield Observation(subject=name, text=f"{which} is incomplete: {text}", arguments=(newest.id,))


@condition(
    "unproven",
    "The newest backup is not proven",
    code="newest_unproven",
    todo="Verify it.",
    link="backups:backup",
    unit="minutes old",
    phrase="{:g} minutes old",
    default=UNPROVEN_MINUTES,
    severity=Severity.INFO,
)
def newest_unproven(facts: Facts, threshold: float) -> Iterator[Observation]:
    """Worth knowing only, unless a verification failed: `no_proven_backup` holds once the newest proven backup is too old."""
    for newest, name, which in _newest(facts):
        age = newest.age(facts.now)
        if newest.check_failed_at is not None and newest.verification == IndexedBackup.Verification.NONE:
            when = f"{newest.check_failed_at:%Y-%m-%d %H:%M} UTC"
            text = f"{which} is not proven: its last verification failed at {when} without a result. {newest.check_failed}"
            yield Observation(code="check_failed", subject=name, text=text, arguments=(newest.id,), severity=Severity.WARNING)
        elif newest.verification == IndexedBackup.Verification.NONE and age > threshold * 60:
            text = f"{which}, {duration(age)} old, is not proven."
            yield Observation(subject=name, text=text, arguments=(newest.id,))


@condition(
    "content_lost",
    "A store lost most of its content",
    todo="Check its disk and its application. If it was intended, release the held backup; otherwise restore it.",
    link="backups:backup",
)
def content_lost(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.losses:
        first, *more = one.losses.splitlines()
        rest = f", and {_number(len(more)) if len(more) > 1 else 'one'} more" if more else ""
        text = f"{first}{rest}. Backup {one.id} is held until the loss is confirmed."
        yield Observation(subject=one.id, text=text, arguments=(one.id,))


@condition(
    "damage",
    "A backup is damaged",
    code="damaged_some",
    todo="Make a full backup, check the disk, and delete damaged backups when newer ones are proven.",
    link="backups:backups",
    query="proof=damaged",
    summarize=lambda facts: _all_damaged(facts),
)
def damage(facts: Facts, threshold: float) -> Iterator[Observation]:
    told = 0
    for one in facts.damaged:
        told += len(one.affected) + one.itself
        named = ", ".join(one.affected[:_MOST_NAMED])
        more = len(one.affected) - _MOST_NAMED
        named += f" and {more:,} more" if more > 0 else ""
        problem = one.problem or "verification failed."
        if one.itself:
            also = f" {_damaged_too(len(one.affected))}: {named}." if one.affected else ""
            text = f"Backup {one.id} is damaged: {problem}{also}"
        else:
            needed = "a backup needs it" if len(one.affected) == 1 else "others need it"
            text = f"Backup {one.id} is missing or damaged, and {needed}: {named}. {problem}"
        page = one.id if one.itself else one.affected[0]
        yield Observation(subject=one.id, text=text, link="backups:backup", arguments=(page,))
    rest = facts.counts.damaged - told
    if rest > 0:
        yield _damaged_backups(rest, " more" if facts.damaged else "")


def _all_damaged(facts: Facts) -> Observation | None:
    """In one sentence; None if only the newest backup is damaged, which is a condition of its own."""
    newest = {one.newest.id for one in facts.sets if one.newest is not None}
    if facts.counts.damaged == 1 and any(one.id in newest for one in facts.damaged):
        return None
    return _damaged_backups(facts.counts.damaged)


def _damaged_too(count: int) -> str:
    return "Another backup is damaged by it" if count == 1 else f"{count:,} other backups are damaged by it"


def _damaged_backups(count: int, more: str = "") -> Observation:
    return Observation(
        subject="", text=f"1{more} backup is damaged." if count == 1 else f"{count:,}{more} backups are damaged."
    )


def _number(count: int) -> str:
    words = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count - 2] if count - 2 < len(words) else str(count)


def _first_sentence(message: str) -> str:
    first = message.strip().split(". ")[0]
    return first if not first or first.endswith(".") else f"{first}."
