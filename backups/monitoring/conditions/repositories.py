"""Conditions of repositories and their disks, and of the stores that are backed up."""

from collections.abc import Iterator

from backups.engine.progress import duration, human_bytes
from backups.models import Severity
from backups.monitoring.facts import Facts, RepositoryFact

from .condition import Condition, Observation, condition

NEARLY_FULL_PERCENT = 10.0
"""A repository is nearly full when less than this share of its disk is free."""

HARDLY_ANY_PERCENT = 3.0
"""Less than this is critical."""

FULL_SOON_DAYS = 14.0
"""A repository will be full soon when its growth fills the disk within this time."""


def _name(one: RepositoryFact, facts: Facts) -> str:
    return f"repository {one.name}" if len(facts.repositories) > 1 else "repository"


@condition(
    "repository_away",
    "A repository is not available",
    code="repository_missing",
    todo="Mount its disk, or correct its path in the settings.",
    link="backups:dashboard",
    severity=Severity.CRITICAL,
    before_first_backup=True,
)
def repository_missing(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.repositories:
        if not one.there:
            holds_newest = any(each.proven is None or each.proven.repository in ("", one.name) for each in facts.sets)
            text = f"The {_name(one, facts)} is not available."
            if one.problem:
                text = f"The {_name(one, facts)} cannot be opened: {one.problem}"
            # Created on the mount point of a disk that is not mounted, an empty repository would hide the one with the backups
            known = one.first is not None or one.missing
            todo = (
                one.hint
                if one.hint or known
                else "Mount its disk, correct its path in the settings, or create it with `refbackup init`."
            )
            yield Observation(subject=one.name, text=text, todo=todo, unprotected=holds_newest or not facts.sets)


@condition(
    "backups_missing",
    "Backups are missing",
    todo="Bring the repository's disk or folder back. If they are lost, acknowledge it; until then they stay listed.",
    link="backups:backups",
    query="proof=missing",
    severity=Severity.CRITICAL,
    before_first_backup=True,
)
def backups_missing(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.repositories:
        if one.there and one.missing:
            rest = one.missing - len(one.missing_named)
            named = ", ".join(one.missing_named) + (f" and {rest:,} more" if rest > 0 else "")
            held = f", {one.missing_held:,} of them held" if one.missing_held else ""
            what = "1 backup is" if one.missing == 1 else f"{one.missing:,} backups are"
            text = f"{what} missing from the {_name(one, facts)}{held}: {named}."
            yield Observation(subject=one.name, text=text)


@condition(
    "read_only",
    "A repository is read-only",
    todo="Mount it for writing, and let the worker's account write there.",
    link="backups:dashboard",
    severity=Severity.CRITICAL,
    check="repositories",
    before_first_backup=True,
)
def read_only(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.repositories:
        if one.there and not one.writable:
            yield Observation(subject=one.name, text=f"The {_name(one, facts)} is read-only.")


@condition(
    "space",
    "A repository is nearly full",
    todo="Free space, or keep fewer backups.",
    link="backups:plans",
    unit="% free",
    phrase="less than {:g} % free",
    default=NEARLY_FULL_PERCENT,
    before_first_backup=True,
)
def nearly_full(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.repositories:
        if one.there and one.size and one.free < one.size * threshold / 100:
            free = f"{human_bytes(one.free)} of {human_bytes(one.size)} free"
            yield Observation(subject=one.name, text=f"The disk of the {_name(one, facts)} is nearly full: {free}.")


@condition(
    "full_soon",
    "A repository will be full soon",
    code="space",
    todo="Free space, or keep fewer backups.",
    link="backups:plans",
    unit="days",
    phrase="within {:g} days",
    default=FULL_SOON_DAYS,
    before_first_backup=True,
)
def full_soon(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.repositories:
        if one.there and one.full_in_days is not None and one.full_in_days < threshold:
            days = duration(one.full_in_days * 86_400)
            yield Observation(subject=one.name, text=f"The disk of the {_name(one, facts)} will be full in about {days}.")


def _probed(check: str, facts: Facts) -> Iterator[Observation]:
    for one in facts.probed:
        if one.check == check:
            yield Observation(code=one.code, subject=one.subject, text=one.message, todo=one.hint)


UNREADABLE = Condition(
    name="repository_unreadable",
    title="A repository cannot be read",
    link="backups:jobs",
    find=lambda facts, threshold: _probed("repositories", facts),
    severity=Severity.CRITICAL,
    unprotected=True,
    check="repositories",
    before_first_backup=True,
)
SOURCE_BROKEN = Condition(
    name="source_broken",
    title="A store is damaged or missing",
    link="backups:jobs",
    find=lambda facts, threshold: _probed("sources", facts),
    severity=Severity.CRITICAL,
    check="sources",
    before_first_backup=True,
)
