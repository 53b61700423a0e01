"""Reads the facts from the control database, the repositories' disks and the worker's heartbeat file.

Most queries are answered from an index and cost hardly more with more backups and jobs. The number of queries grows with plans,
running jobs, channels, sets and repositories only.
"""

import contextlib
import itertools
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

from django.db.models import CharField, Count, F, Q
from django.db.models.functions import Cast, Substr
from django.utils import timezone

from backups.catalog.losses import shrunk_since, unconfirmed
from backups.catalog.notices import noticed
from backups.conf import Configuration, configuration
from backups.engine.runtime import folders
from backups.engine.types import SourceKind
from backups.identity import audit, four_eyes
from backups.jobs.heartbeat import heartbeat_file
from backups.jobs.types import BACKUP, HEALTH, INCOMPLETE
from backups.models import AlertChannel, AlertDelivery, AlertLook, Approval, AuditEntry, IndexedBackup, Job, Plan, Worker
from backups.plans import cron
from backups.plans.missed import Missed, missed_lately

from . import facts
from .conditions import gather_more
from .recoveries import drills, last_of, possible_since, restores
from .stored import absent_sources, damaged_backups, damaged_rows, missing_backups, present_backups, repository_fact

_WINDOW = timedelta(days=30)
_RECENT_JOBS = 10
_MOST_PLANS = 200
_MOST_APPROVALS = 100
_LONGEST_WALK = 0.02
_MOST_RUNS = 50
"""How many runs of a plan are read to count failures in a row."""

_LIKE, _FEWEST_LIKE = 20, 3
"""Jobs of the same kind from which the usual duration is taken, at most and at least."""

_GIVEN_UP_WITHIN = timedelta(days=2)
_PROBED, _FIELDS = ("sources", "repositories"), ("check", "code", "message", "hint")
_PROBES_HOLD = timedelta(hours=3)
"""The hourly health check's findings about stores count for so long."""


def gather(now: datetime, probed: tuple[facts.Probed, ...] | None = None) -> facts.Facts:
    """Read the facts at *now*. Without *probed*, what the last health check found in stores and repositories is used."""
    config = configuration()
    more, broken = gather_more(now)
    names = [name for name in config.sets if name not in config.kept_apart] or list(config.sets)
    unfinished = list(Job.objects.filter(state__in=(Job.State.RUNNING, Job.State.QUEUED)).order_by())
    running = [job for job in unfinished if job.state == Job.State.RUNNING]
    counts = _counts(running=len(running), waiting=len(unfinished) - len(running))
    missing = missing_backups() if counts.missing else []
    jobs = _ended_jobs()
    newest = {name: _newest_backups(config, name) for name in names}
    held = unconfirmed()
    shrunk = shrunk_since(held)
    proven = {name: _newest_backups(config, name, *_PROVEN, before=shrunk) for name in names}
    sets = tuple(
        facts.SetFact(
            name=name,
            newest=max(newest[name], key=lambda one: one.time, default=None),
            proven=max(proven[name], key=lambda one: one.time, default=None),
            jobs=tuple(job for job in jobs if job.set == name),
            missing=sum(one.set == name for one in missing),
        )
        for name in names
    )
    repositories = tuple(
        repository_fact(name, path, [one for one in missing if one.repository == name], now)
        for name, path in config.repositories.items()
    )
    plans = list(Plan.objects.order_by("name")[:_MOST_PLANS])
    missed = missed_lately(plans, now) if plans else {}
    return facts.Facts(
        now=now,
        host=config.host,
        promised_point=config.promised_rpo_minutes * 60.0,
        promised_time=config.promised_rto_minutes * 60.0,
        sets=sets,
        repositories=repositories,
        plans=tuple(_plan(plan, config, missed.get(plan.name, Missed()), now) for plan in plans),
        workers=_workers(config),
        clocks=_clocks(),
        running=tuple(_running(job, now) for job in sorted(running, key=lambda job: job.created, reverse=True)),
        waiting_since=tuple(job.not_before for job in unfinished if job.state == Job.State.QUEUED and job.not_before < now),
        restores=restores(itertools.chain.from_iterable(proven.values())),
        drills=drills(possible_since(repositories, plans)),
        damaged=damaged_backups() if counts.damaged else (),
        losses=tuple(facts.LossFact(id=one.backup_id, set=one.set, losses=one.losses) for one in held),
        days=_days(now),
        counts=counts,
        bytes_to_back_up=_source_bytes(config) if all(one.newest is None for one in sets) else None,
        failing_channels=tuple(_failing_channels(now)),
        audit_break=_audit_break(),
        approvals=tuple(_approvals(now)),
        noticed=tuple(_notices(config)),
        probed=(*absent_sources(config, sets), *(_last_probed(now) if probed is None else probed)),
        more=more,
        broken=broken,
    )


_BACKUP_FIELDS = (
    *("repository", "backup_id", "kind", "time", "bytes_source", "bytes_stored"),
    *("seconds", "verification", "verified_at", "restore_seconds", "problem", "sources"),
    *("check_failed_at", "check_failed"),
)
_PROVEN = (IndexedBackup.Verification.RESTORE, IndexedBackup.Verification.HASHES)


def _newest_backups(
    config: Configuration, name: str, *verifications: str, before: Mapping[tuple[str, str], str] | None = None
) -> list[facts.BackupFact]:
    """The newest backup of the whole set in each repository, or there by each of *verifications*.

    Safety backups do not count and, if the set has stores other than SQLite, snapshots neither. *before* has the id, for a
    repository and a set, from which on backups do not count.
    """
    partial = any(source.kind is not SourceKind.SQLITE for source in config.sources(name))
    backups = []
    for repository in config.repositories:
        rows = present_backups(repository).filter(set=name, safety=False).order_by("-time")
        rows = rows.exclude(kind=IndexedBackup.Kind.SNAPSHOT) if partial else rows
        if (end := (before or {}).get((repository, name))) is not None:
            rows = rows.filter(backup_id__lt=end)
        for chosen in [rows.filter(verification=one) for one in verifications] or [rows]:
            for row in chosen.values(*_BACKUP_FIELDS)[:1]:
                sources = row.pop("sources")
                backups.append(
                    facts.BackupFact(
                        id=row.pop("backup_id"),
                        stores=tuple(f"{one['kind']}/{one['name']}" for one in sources),
                        missing=sum(one.get("missing", 0) for one in sources),
                        first_missing=next(filter(None, (one.get("first_missing") for one in sources)), ""),
                        **row,
                    )
                )
    return backups


def _ended_jobs() -> list[facts.EndedJob]:
    ended = []
    for state in (Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED):
        rows = Job.objects.filter(kind=BACKUP.name, state=state, finished__isnull=False).order_by("-finished")
        for pk, set_name, finished, error in rows.values_list("pk", "set", "finished", "error")[:_RECENT_JOBS]:
            assert finished is not None
            error = error or {}
            ended.append(
                facts.EndedJob(
                    id=str(pk),
                    set=set_name,
                    ok=state == Job.State.SUCCEEDED or error.get("code") == INCOMPLETE,  # of an older version
                    finished=finished,
                    code=str(error.get("code", "")),
                    message=str(error.get("message", "")),
                    hint=str(error.get("hint", "")),
                )
            )
    return sorted(ended, key=lambda job: job.finished, reverse=True)


def _plan(plan: Plan, config: Configuration, missed: Missed, now: datetime) -> facts.PlanFact:
    problem = (cron.check(plan.cron, plan.time_zone) or "") if plan.enabled else ""
    due = next(iter(cron.slots_after(plan.cron, plan.time_zone, now, 1)), None) if plan.enabled and not problem else None
    failed = _failed_runs(plan)
    last, error = failed[0] if failed else ("", {})
    code = str(error.get("code", ""))
    if code and plan.kind == HEALTH.name:
        code = _code_of_check(last) or code
    return facts.PlanFact(
        name=plan.name,
        title=plan.title,
        kind=plan.kind,
        # A backup of some stores does not protect the set
        set="" if plan.arguments.get("only") else str(plan.arguments.get("set") or config.default_set),
        enabled=plan.enabled,
        paused_by=plan.paused_by,
        next=due,
        cron_problem=problem,
        refused=_refused(plan) if plan.enabled else "",
        failed_in_a_row=len(failed),
        missed=missed.count,
        missed_open=missed.open,
        last_job=last,
        code=code,
        message=str(error.get("message", "")),
        hint=str(error.get("hint", "")),
        alert_after=plan.alert_after,
        alert_to=tuple(str(address) for address in plan.alert_to),
    )


def _failed_runs(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """Id and error of the runs that failed since the last success, newest first."""
    ended = plan.jobs.filter(state__in=(Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED), tried_again=None)
    rows = ended.order_by("-created").values_list("pk", "state", "error")[:_MOST_RUNS]
    return [(str(pk), error or {}) for pk, state, error in itertools.takewhile(lambda row: row[1] != Job.State.SUCCEEDED, rows)]


def _code_of_check(job: str) -> str:
    """`CONDITIONS_FOUND` if a health check failed because of conditions only; otherwise empty."""
    result = Job.objects.filter(pk=job).values_list("result", flat=True).first() or {}
    problems = result.get("problems", ())
    return facts.CONDITIONS_FOUND if problems and all(one["code"] != facts.CHECK_FAILED for one in problems) else ""


def _refused(plan: Plan) -> str:
    """Why the plan's last run could not be queued; empty if it was, or the plan has been changed since."""
    refused = AuditEntry.objects.filter(target=f"plan:{plan.name}", action="plan.refused").order_by("-number").first()
    if refused is None or refused.time <= plan.changed or plan.jobs.filter(created__gt=refused.time).exists():
        return ""
    return str((refused.after or {}).get("error"))


def worker_beat(host: str) -> datetime | None:
    """The last heartbeat of a host's workers; None if they never ran."""
    return _with_file(host, Worker.objects.filter(host=host).values_list("beat", flat=True).first())


def _with_file(host: str, beat: datetime | None) -> datetime | None:
    """For this host the heartbeat file counts too: it is written before the row."""
    if host == configuration().host:
        with contextlib.suppress(OSError):  # no worker has run yet
            written = datetime.fromtimestamp(heartbeat_file().stat().st_mtime, UTC)
            return max(beat, written) if beat is not None else written
    return beat


def _workers(config: Configuration) -> tuple[facts.WorkerFact, ...]:
    beats: dict[str, datetime | None] = {config.host: None, **dict(Worker.objects.values_list("host", "beat"))}
    return tuple(facts.WorkerFact(host=host, beat=_with_file(host, beat)) for host, beat in beats.items())


def _clocks() -> tuple[facts.Clock, ...]:
    rows = AlertLook.objects.exclude(host="").values("host", "jumped", "jumped_by", "silent_from", "silent_until")
    return tuple(facts.Clock(**row) for row in rows)


def _running(job: Job, now: datetime) -> facts.RunningJob:
    like = Job.objects.filter(kind=job.kind, state=Job.State.SUCCEEDED, set=job.set, started__isnull=False)
    took = [
        (finished - started).total_seconds()
        for started, finished, arguments in like.order_by("-finished").values_list("started", "finished", "arguments")[:_LIKE]
        if started and finished and arguments.get("backup") == job.arguments.get("backup")
    ]
    return facts.RunningJob(
        id=str(job.pk),
        kind=job.kind,
        set=job.set,
        seconds=(now - (job.started or now)).total_seconds(),
        usual=median(took) if len(took) >= _FEWEST_LIKE else None,
        heartbeat=job.heartbeat,
    )


def _failing_channels(now: datetime) -> list[facts.FailingChannel]:
    """Channels that gave up a message in the last two days and have delivered none since."""
    failing = []
    for channel in AlertChannel.objects.filter(enabled=True):
        own = AlertDelivery.objects.filter(recipient=f"channel:{channel.pk}").order_by("-id")
        last = own.filter(state__in=(AlertDelivery.State.DELIVERED, AlertDelivery.State.GIVEN_UP)).first()
        if last is None or last.state != AlertDelivery.State.GIVEN_UP or last.created < now - _GIVEN_UP_WITHIN:
            continue
        lost = own.filter(state=AlertDelivery.State.GIVEN_UP, created__gt=now - _GIVEN_UP_WITHIN).count()
        failing.append(facts.FailingChannel(name=channel.name, id=channel.pk, count=lost, answer=last.answer[:200]))
    return failing


def _approvals(now: datetime) -> Iterator[facts.OpenApproval]:
    """The open requests, the ones carried out in the last hour, and the emergencies of the last day."""
    lately = Q(state__in=Approval.OPEN, expires__gt=now) | Q(used__gt=now - timedelta(hours=1))
    rows = Approval.objects.filter(lately | Q(emergency__gt=now - timedelta(days=1))).order_by()
    for row in sorted(rows[:_MOST_APPROVALS], key=lambda one: (one.asked, one.pk)):
        yield facts.OpenApproval(
            id=str(row.pk),
            title=four_eyes.SUBJECTS[row.subject].title,
            by=row.username,
            reason=row.reason,
            decided_by=row.decided_by if row.state in (Approval.State.APPROVED, Approval.State.USED) else "",
            emergency=row.emergency is not None,
            used=row.state == Approval.State.USED,
        )


def _audit_break() -> facts.AuditBreak | None:
    """What the last verification of the audit found."""
    verified = audit.verified()
    broken = (verified.after or {}).get("broken") if verified is not None else None
    return facts.AuditBreak(entry=broken["number"], why=str(broken["why"])) if broken else None


def _notices(config: Configuration) -> Iterator[facts.NoticeFact]:
    for name, notices in noticed(config.repositories).items():
        for one in notices:
            yield facts.NoticeFact(repository=name, code=one.code, set=one.set, backup=one.backup, text=one.text)


def _last_probed(now: datetime) -> tuple[facts.Probed, ...]:
    """The last health check's problems of stores and repositories; whether a repository is available is read afresh."""
    recent = Job.objects.filter(kind=HEALTH.name, finished__gt=now - _PROBES_HOLD)
    last = last_of(recent, Job.State.SUCCEEDED, Job.State.FAILED)
    problems = (last.result or {}).get("problems", ()) if last else ()
    seen = [one for one in problems if one["check"] in _PROBED and one["code"] not in ("no_repository", "read_only")]
    # A message begins with what it is about: the path of the store, or the name of the repository
    return tuple(
        facts.Probed(subject=one["message"].partition(": ")[0], **{name: one[name] for name in _FIELDS}) for one in seen
    )


def _days(now: datetime) -> tuple[facts.Day, ...]:
    """The backup jobs of the last 30 days, a day each. If the zone is not UTC, hours are counted and added up here."""
    zone = timezone.get_current_timezone()
    by_day = all(moment.astimezone(zone).utcoffset() == timedelta(0) for moment in (now, now - _WINDOW))
    today = now.astimezone(zone).date()
    first = today - timedelta(days=29)
    begin = datetime(first.year, first.month, first.day, tzinfo=zone)
    counted: dict[date, list[int]] = {first + timedelta(days=number): [0, 0] for number in range(30)}
    rows = (
        Job.objects.filter(
            kind=BACKUP.name, state__in=(Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED), finished__gte=begin
        )
        .order_by()
        .annotate(part=Substr(Cast(F("finished"), CharField()), 1, 10 if by_day else 13))
        .values_list("state", "part")
        .annotate(count=Count("pk"))
    )
    for state, part, count in rows:
        day = date.fromisoformat(part) if by_day else datetime.fromisoformat(f"{part}:00+00:00").astimezone(zone).date()
        if day in counted:
            counted[day][0 if state == Job.State.SUCCEEDED else 1] += count
    return tuple(facts.Day(day=day, done=done, failed=failed) for day, (done, failed) in counted.items())


def _counts(*, running: int, waiting: int) -> facts.Counts:
    by_proof = dict(IndexedBackup.objects.order_by().values_list("verification").annotate(count=Count("pk")))
    return facts.Counts(
        backups=sum(by_proof.values()) - by_proof.get(IndexedBackup.Verification.MISSING, 0),
        missing=by_proof.get(IndexedBackup.Verification.MISSING, 0),
        proven=sum(by_proof.get(verification, 0) for verification in _PROVEN),
        damaged=damaged_rows().count() if by_proof.get(IndexedBackup.Verification.DAMAGED) else 0,
        running=running,
        waiting=waiting,
    )


def _source_bytes(config: Configuration) -> int:
    """Roughly how many bytes the first set's stores hold. For an estimate, so the walk ends after a fiftieth of a second."""
    until = time.monotonic() + _LONGEST_WALK
    total = 0
    for source in config.sources(config.default_set):
        try:
            if source.kind is SourceKind.SQLITE:
                total += source.path.stat().st_size
                continue
            for _, status in folders.below(source.path):
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
                if time.monotonic() > until:
                    return total
        except OSError:
            continue  # does not exist yet, or is removed meanwhile
    return total
