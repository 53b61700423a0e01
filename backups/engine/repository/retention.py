"""Retention: which backups a policy keeps, which it removes, and why.

All functions are pure: they take the backups of one set, a policy and the current time, and return decisions with reasons.
Nothing is read or deleted, and no clock is read.

Words
-----
sound
    A backup that counts: it is not damaged, everything that it needs exists, and it is either verified or needs nothing that
    is damaged. (A verified backup on a damaged one is sound because an incremental may have replaced exactly the bytes that
    are bad, and its own verification has read the ones that it uses.) An unsound backup takes no slot of any rule.
whole
    A backup of all stores: a full or an incremental one. A snapshot holds SQLite alone.
incomplete
    A backup without some files that belong into it, because they could not be read. It is sound, and may be all that there is
    for as long as they cannot be read, so it takes slots; but it never displaces the last complete one.

Rules, any one of which keeps a backup
--------------------------------------
1. A hold keeps it, whatever its state.
2. A time after *now* keeps it, because a clock was wrong and it is unknown which. Such a backup takes no slot and does not
   move the window, so it cannot push out others. The rules below apply to the rest.
3. ``keep_last`` keeps that many of the newest sound backups, snapshots included.
4. ``keep_within`` keeps the sound backups whose time is at most that long before the newest sound one (not before *now*: a
   machine that was off for a month loses nothing), snapshots included.
5. ``keep_hourly`` to ``keep_yearly`` keep the newest sound whole backup of each of the newest N periods that have one (UTC;
   weeks are ISO weeks). Snapshots take no calendar slot, not even in a period without any other backup: the period would count
   against N, and push out an older one that holds all stores. Complete backups come first in their period.
6. The newest sound backup stays, and so does the newest sound whole one; likewise of the complete ones.
7. The ``verified_floor`` newest sound and verified backups stay, and as many whole ones; likewise of the complete ones.
8. An unsound backup stays while it is newer than every sound one, for it may be the only trace of the newest state; a whole
   one while it is newer than every sound whole one. Otherwise it goes, since a newer good one exists.
9. What a kept backup needs is kept.

Raising a number of a policy, or lengthening its window, never removes more: each rule only adds to what is kept.
"""

import enum
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Kind = Literal["full", "incremental", "snapshot"]

_UNITS = {
    "y": timedelta(days=366),
    "m": timedelta(days=31),
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
}
_DURATION_PART = re.compile(r"([0-9]+)([a-z])")
_COUNTS = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
_NO_RULE = "no rule keeps it"


class Rule(enum.StrEnum):
    """What keeps a backup, by the name that people see."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    LAST = "last"
    WITHIN = "within"
    HOLD = "held"
    NEEDED = "needed by others"
    SAFETY = "for safety"
    """Rules 2 and 6 to 8 of the module's docstring."""


_Reasons = defaultdict[str, list[tuple[Rule, str]]]


class PolicyError(ValueError):
    """The retention policy is not valid."""


class EmptyPolicyError(PolicyError):
    """The retention policy has no rule and would remove all but the verified floor."""

    def __init__(self) -> None:
        super().__init__(
            "the retention policy has no rule: give at least one of keep-last, keep-hourly, keep-daily, keep-weekly, "
            "keep-monthly, keep-yearly and keep-within"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A backup as retention sees it.

    ``needs`` holds ids of backups without which it cannot be restored: the direct ones do, the whole chain may be given as
    well. ``hold`` is the text of a hold ("" for one without a text), None without a hold. ``damaged`` says that damage was
    found in it and stands. ``verified`` says that its newest verification read every byte that it uses, those in other backups
    included, and found them good: clear it when damage is found in bytes that it shares. Raises ValueError for a time without
    a zone.
    """

    id: str
    time: datetime
    kind: Kind
    needs: frozenset[str] = frozenset()
    hold: str | None = None
    damaged: bool = False
    verified: bool = False
    incomplete: bool = False

    def __post_init__(self) -> None:
        if self.time.utcoffset() is None:
            raise ValueError(f"backup {self.id}: its time has no time zone")

    @property
    def is_whole(self) -> bool:
        """Whether it holds all stores and not SQLite alone."""
        return self.kind != "snapshot"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What to keep. A count of 0 and a window of None switch a rule off.

    Raises `PolicyError` for a negative count, or a window that is not positive.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: timedelta | None = None
    verified_floor: int = 2

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "verified_floor"):
            if getattr(self, name) < 0:
                raise PolicyError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        if self.keep_within is not None and self.keep_within <= timedelta(0):
            raise PolicyError("keep_within must be positive; omit it for no window")

    @property
    def is_empty(self) -> bool:
        """Whether it has no rule at all. The verified floor is a safety net and not a rule."""
        return self.keep_within is None and not any(getattr(self, name) for name in _COUNTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What happens to one backup, with at least one reason, each a short sentence for people.

    ``rules`` keep it; a backup that is removed has none.
    """

    id: str
    keep: bool
    reasons: tuple[str, ...]
    rules: frozenset[Rule] = frozenset()


def parse_duration(text: str) -> timedelta:
    """Read a duration such as ``14d``, ``6h``, ``2w`` or ``1y6m``: numbers with a unit each, no unit twice.

    Units are y, m (months), w, d and h. A year is taken as 366 days and a month as 31, so that no window is shorter than the
    calendar would make it. Raises `PolicyError` for anything else, and for a duration of nothing.
    """
    compact = text.strip()
    parts = _DURATION_PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise PolicyError(f"{text!r} is not a duration: write numbers with a unit each, such as 14d or 1y6m")
    total = timedelta(0)
    seen: set[str] = set()
    for number, unit in parts:
        if unit not in _UNITS:
            raise PolicyError(f"{text!r} has the unknown unit {unit!r}: use y, m (months), w, d or h")
        if unit in seen:
            raise PolicyError(f"{text!r} names the unit {unit!r} twice")
        seen.add(unit)
        try:
            total += int(number) * _UNITS[unit]
        except (OverflowError, ValueError):
            raise PolicyError(f"{text[:40]!r} is too long a duration") from None
    if not total:
        raise PolicyError(f"{text!r} is a duration of zero: omit the rule instead")
    return total


def format_duration(duration: timedelta) -> str:
    """A duration for people: ``14 days``, ``1 day 6 hours``; minutes as a fraction of an hour."""
    days = duration.days
    hours = (duration - timedelta(days=days)) / timedelta(hours=1)
    parts = []
    if days:
        parts.append(f"{days} day" + "s" * (days != 1))
    if hours or not days:
        parts.append(f"{hours:.4g} hour" + "s" * (hours != 1))
    return " ".join(parts)


def decide(candidates: Iterable[Candidate], policy: Policy, now: datetime) -> tuple[Decision, ...]:
    """Decide for each of *candidates*, all backups of one set, whether *policy* keeps it at the moment *now*.

    Returns one decision a backup, newest first; backups of the same moment go by id. The rules are in the module's docstring.
    Raises `EmptyPolicyError` for a policy without a rule, ValueError for an id that occurs twice and for a *now* without a
    time zone.
    """
    if policy.is_empty:
        raise EmptyPolicyError
    if now.utcoffset() is None:
        raise ValueError("the present moment has no time zone")
    backups = sorted(candidates, key=lambda backup: (backup.time, backup.id), reverse=True)
    if len({backup.id for backup in backups}) != len(backups):
        raise ValueError("two backups have the same id")

    faults = _faults(backups)
    present = [backup for backup in backups if backup.time <= now]
    sound = [backup for backup in present if backup.id not in faults]
    whole = [backup for backup in sound if backup.is_whole]

    reasons: _Reasons = defaultdict(list)
    for backup in backups:
        if backup.hold is not None:
            reasons[backup.id].append((Rule.HOLD, f"hold: {backup.hold}" if backup.hold else "hold"))
        if backup.time > now:
            text = f"in the future: {backup.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            reasons[backup.id].append((Rule.SAFETY, text))
    _keep_newest(sound, policy, reasons)
    _keep_calendar(whole, policy, reasons)
    _keep_safe(sound, whole, policy, reasons)
    replaced = _keep_newer_than_good(present, sound, whole, faults, reasons)
    _keep_needed(backups, reasons)
    return tuple(
        _kept(backup.id, reasons[backup.id])
        if backup.id in reasons
        else Decision(id=backup.id, keep=False, reasons=(replaced.get(backup.id, _NO_RULE),))
        for backup in backups
    )


def _kept(id_: str, reasons: Sequence[tuple[Rule, str]]) -> Decision:
    rules, texts = zip(*reasons, strict=True)
    return Decision(id=id_, keep=True, reasons=texts, rules=frozenset(rules))


def removal_order(candidates: Iterable[Candidate], decisions: Iterable[Decision]) -> tuple[str, ...]:
    """Order the ids that *decisions* remove so that each comes before everything that it needs.

    So a removal that stops half-way leaves no backup without what it needs. Chains go one after the other, the one with the
    oldest last link first. Backups that need each other in a circle, which nothing can restore, come last.
    """
    removed = {decision.id for decision in decisions if not decision.keep}
    backups = sorted((backup for backup in candidates if backup.id in removed), key=lambda backup: (backup.time, backup.id))
    needs = {backup.id: (backup.needs & removed) - {backup.id} for backup in backups}
    waiting_for = dict.fromkeys(needs, 0)
    for needed in needs.values():
        for id_ in needed:
            waiting_for[id_] += 1
    order: dict[str, None] = {}
    for backup in backups:
        ready = [] if waiting_for[backup.id] or backup.id in order else [backup.id]
        while ready:
            id_ = ready.pop()
            order[id_] = None
            for other in sorted(needs[id_]):
                waiting_for[other] -= 1
                if not waiting_for[other]:
                    ready.append(other)
    order.update(dict.fromkeys(needs))
    return tuple(order)


def _faults(backups: Sequence[Candidate]) -> dict[str, str]:
    """Map the id of each unsound backup to what is wrong with it."""
    known = {backup.id for backup in backups}
    dependents: dict[str, list[Candidate]] = defaultdict(list)
    for backup in backups:
        for needed in sorted(backup.needs - {backup.id}):
            dependents[needed].append(backup)
    damaged = [backup.id for backup in backups if backup.damaged]
    verified = {backup.id for backup in backups if backup.verified}
    on_damaged = _reach(damaged, dependents)
    on_missing = _reach(sorted(dependents.keys() - known), dependents)
    return {
        **{id_: f"needs {root}, which is damaged" for id_, root in on_damaged.items() if id_ not in verified},
        **{id_: f"needs {root}, which is missing" for id_, root in on_missing.items()},
        **dict.fromkeys(damaged, "damaged"),
    }


def _reach(roots: Iterable[str], dependents: Mapping[str, Sequence[Candidate]]) -> dict[str, str]:
    """Map each backup that needs one of *roots*, directly or not, to the first such root."""
    found: dict[str, str] = {}
    for root in roots:
        pending = [root]
        while pending:
            for backup in dependents.get(pending.pop(), ()):
                if backup.id not in found:
                    found[backup.id] = root
                    pending.append(backup.id)
    return found


def _keep_newest(sound: Sequence[Candidate], policy: Policy, reasons: _Reasons) -> None:
    for backup in sound[: policy.keep_last]:
        reasons[backup.id].append((Rule.LAST, f"last {policy.keep_last}"))
    if policy.keep_within is not None:
        for backup in sound:
            if sound[0].time - backup.time <= policy.keep_within:
                reasons[backup.id].append((Rule.WITHIN, f"within {format_duration(policy.keep_within)}"))


def _iso_week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year}-W{week:02}"


_CALENDAR: tuple[tuple[Rule, Callable[[Policy], int], Callable[[datetime], str]], ...] = (
    (Rule.HOURLY, lambda policy: policy.keep_hourly, lambda time: f"{time:%Y-%m-%d %H}:00"),
    (Rule.DAILY, lambda policy: policy.keep_daily, lambda time: f"{time:%Y-%m-%d}"),
    (Rule.WEEKLY, lambda policy: policy.keep_weekly, _iso_week),
    (Rule.MONTHLY, lambda policy: policy.keep_monthly, lambda time: f"{time:%Y-%m}"),
    (Rule.YEARLY, lambda policy: policy.keep_yearly, lambda time: f"{time:%Y}"),
)


def _keep_calendar(whole: Sequence[Candidate], policy: Policy, reasons: _Reasons) -> None:
    for rule, count, period_of in _CALENDAR:
        chosen: dict[str, Candidate] = {}
        for backup in whole:
            period = period_of(backup.time.astimezone(UTC))
            if period not in chosen and len(chosen) == count(policy):
                break
            if period not in chosen or (chosen[period].incomplete and not backup.incomplete):
                chosen[period] = backup
        for period, backup in chosen.items():
            reasons[backup.id].append((rule, f"{rule} {period}"))


def _keep_safe(sound: Sequence[Candidate], whole: Sequence[Candidate], policy: Policy, reasons: _Reasons) -> None:
    groups = {
        "newest good backup": sound,
        "newest good backup of all stores": whole,
        "newest complete backup": [backup for backup in sound if not backup.incomplete],
        "newest complete backup of all stores": [backup for backup in whole if not backup.incomplete],
    }
    newest, floor = dict[str, str](), dict[str, str]()
    for text, group in groups.items():
        for backup in group[:1]:
            newest.setdefault(backup.id, text)
        for backup in [backup for backup in group if backup.verified][: policy.verified_floor]:
            floor[backup.id] = "verified floor"
    for id_, text in (*newest.items(), *floor.items()):
        reasons[id_].append((Rule.SAFETY, text))


def _keep_newer_than_good(
    present: Sequence[Candidate],
    sound: Sequence[Candidate],
    whole: Sequence[Candidate],
    faults: Mapping[str, str],
    reasons: _Reasons,
) -> dict[str, str]:
    """Keep the unsound backups that no good one replaces; return for the others why they may go."""
    replaced: dict[str, str] = {}
    for backup in present:
        if backup.id not in faults:
            continue
        good = next(iter(whole if backup.is_whole else sound), None)
        if good is None or (backup.time, backup.id) > (good.time, good.id):
            reasons[backup.id].append((Rule.SAFETY, f"{faults[backup.id]}, but no good backup is newer"))
        else:
            replaced[backup.id] = f"{faults[backup.id]}, and a newer good backup exists: {good.id}"
    return replaced


def _keep_needed(backups: Collection[Candidate], reasons: _Reasons) -> None:
    """Keep what the kept ones need, and say by which of them each is needed."""
    by_id = {backup.id: backup for backup in backups}
    kept = set(reasons)
    pending = sorted(kept)
    while pending:
        for needed in by_id[pending.pop()].needs:
            if needed in by_id and needed not in kept:
                kept.add(needed)
                pending.append(needed)
    needed_by: dict[str, list[str]] = defaultdict(list)
    for backup in backups:
        if backup.id in kept:
            for needed in (backup.needs - {backup.id}) & by_id.keys():
                needed_by[needed].append(backup.id)
    for id_, users in needed_by.items():
        others = len(users) - 1
        more = f" and {others} other" + "s" * (others != 1) if others else ""
        reasons[id_].append((Rule.NEEDED, f"needed by {users[0]}{more}"))
