"""The verdict: decided by a table of facts, and read from a real site."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.jobs import submit
from backups.models import IndexedBackup, Job, Plan, Worker
from backups.monitoring import verdict as status
from backups.monitoring.conditions import Level
from backups.monitoring.facts import (
    BackupFact,
    Counts,
    Day,
    EndedJob,
    Facts,
    PlanFact,
    RepositoryFact,
    RestoreFact,
    SetFact,
    WorkerFact,
)
from backups.monitoring.verdict import verdict
from tests.control.many import many, unindexed

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
GB = 10**9


def ago(**since) -> datetime:
    return NOW - timedelta(**since)


def backup(*, proof: str = "restore", **since) -> BackupFact:
    return BackupFact(
        id="20261121T110000Z-full-3f9c2a", kind="full", time=ago(**since), bytes_stored=2_300_000, verification=proof
    )


def failed(code: str, message: str, **since) -> EndedJob:
    return EndedJob(id=f"{since}", set="default", ok=False, finished=ago(**since), code=code, message=message, hint="Do this.")


HOURLY = PlanFact(name="hourly", title="Hourly incremental", kind="backup", set="default", next=NOW + timedelta(minutes=20))
FINE = Facts(
    now=NOW,
    host="here",
    sets=(SetFact(name="default", newest=backup(minutes=14), proven=backup(minutes=14)),),
    repositories=(RepositoryFact(name="main", used=4 * GB, free=500 * GB, size=1000 * GB, grown_a_day=2.5 * GB),),
    plans=(HOURLY,),
    workers=(WorkerFact(host="here", beat=ago(seconds=30)),),
    restores=(RestoreFact(seconds=8.1, time=ago(minutes=13)),),
    days=(Day(day=date(2026, 11, 20), done=24, failed=1), Day(day=date(2026, 11, 21), done=12)),
    counts=Counts(backups=40, proven=40),
)


def with_set(**facts) -> Facts:
    return replace(FINE, sets=(SetFact(**{"name": "default", **facts}),))


def test_fresh_and_proven():
    found = verdict(FINE)
    assert (found.level, found.reasons) == (Level.PROTECTED, ())
    assert found.text == "Protected. Newest proven backup: 14 min ago (full, 2.3 MB). A restore takes about 8.1 s."
    assert (found.recovery_point.seconds, found.recovery_point.kept) == (14 * 60, True)
    assert (found.recovery_time.seconds, found.recovery_time.promised, found.recovery_time.kept) == (8.1, 300, True)
    assert found.space.full_in_days == 200
    assert (found.success.done, found.success.failed, round(found.success.rate, 3)) == (36, 1, 0.973)
    assert [run.title for run in found.next] == ["Hourly incremental"]


NO_SPACE = failed("no_space", "The disk is full. Nothing was published.", minutes=5)
TABLE = {
    "nothing yet": (
        replace(with_set(), bytes_to_back_up=720_000_000),
        "unprotected: nothing",
        "Unprotected: No backup yet.",
    ),
    "nothing yet, and the first one failed": (
        with_set(jobs=(NO_SPACE,)),
        "unprotected: nothing failing",
        "Unprotected: No backup yet. The last backup failed: The disk is full.",
    ),
    "too old": (
        with_set(newest=backup(hours=3), proven=backup(hours=3)),
        "at_risk: too_old",
        "At risk: No proven backup for 3 h (target: 1 h).",
    ),
    "within the grace of the next one": (with_set(newest=backup(minutes=63), proven=backup(minutes=63)), "protected:", ""),
    "much too old": (
        with_set(newest=backup(days=4), proven=backup(days=4)),
        "unprotected: too_old",
        "Unprotected: No proven backup for 4 days (target: 1 h).",
    ),
    "newest not proven, and the proven one too old": (
        with_set(newest=backup(minutes=10, proof="none"), proven=backup(hours=3)),
        "at_risk: too_old",
        "At risk: No proven backup for 3 h (target: 1 h). The newest, 10 min old, is not proven.",
    ),
    "newest not proven yet, the one before fresh": (
        with_set(newest=backup(minutes=1, proof="none"), proven=backup(minutes=40)),
        "protected:",
        "",
    ),
    "none proven": (with_set(newest=backup(minutes=10, proof="none")), "at_risk: unproven", "At risk: No proven backup."),
    "the last two failed": (
        with_set(
            newest=backup(hours=3),
            proven=backup(hours=3),
            jobs=(NO_SPACE, failed("no_space", "The disk is full.", hours=1), replace(NO_SPACE, ok=True)),
        ),
        "at_risk: failing too_old",
        "At risk: The last two backups failed: The disk is full. No proven backup for 3 h (target: 1 h).",
    ),
    "the last one failed": (
        with_set(newest=backup(minutes=14), proven=backup(minutes=14), jobs=(NO_SPACE,)),
        "protected: failing",
        "",
    ),
    "failed before the newest": (
        with_set(newest=backup(minutes=1), proven=backup(minutes=1), jobs=(NO_SPACE,)),
        "protected:",
        "",
    ),
    "newest damaged": (
        with_set(
            newest=replace(backup(minutes=5, proof="damaged"), problem="A block is not what was written."),
            proven=backup(minutes=50),
        ),
        "at_risk: damaged",
        "At risk: The newest backup is damaged: A block is not what was written.",
    ),
    "all damaged": (
        with_set(newest=backup(minutes=5, proof="damaged")),
        "unprotected: unproven damaged",
        "Unprotected: No proven backup. The newest backup is damaged: verification failed.",
    ),
    "dated in the future": (
        with_set(newest=backup(hours=-5), proven=backup(hours=-5)),
        "at_risk: clock",
        "At risk: The newest backup is dated 5 h in the future.",
    ),
    "worker without a heartbeat": (
        replace(FINE, workers=(WorkerFact(host="here", beat=ago(minutes=12)),)),
        "at_risk: worker",
        "At risk: The worker on here has not reported for 12 min; no jobs run there.",
    ),
    "worker never seen": (
        replace(FINE, workers=()),
        "at_risk: worker",
        "At risk: The worker on here has never reported; no jobs run there.",
    ),
    "another host silent": (
        replace(FINE, workers=(*FINE.workers, WorkerFact(host="there", beat=ago(hours=2)))),
        "at_risk: worker",
        "At risk: The worker on there has not reported for 2 h; no jobs run there.",
    ),
    "another host taken out of service": (
        replace(FINE, workers=(*FINE.workers, WorkerFact(host="there", beat=ago(days=20)))),
        "protected:",
        "",
    ),
    "plan paused, none left": (
        replace(FINE, plans=(replace(HOURLY, enabled=False, paused_by="ada", next=None),)),
        "at_risk: plans",
        "At risk: Hourly incremental is paused by ada. No active plan makes backups.",
    ),
    "plan paused, the next too late": (
        replace(
            FINE,
            plans=(replace(HOURLY, enabled=False, next=None), replace(HOURLY, name="daily", next=NOW + timedelta(hours=15))),
        ),
        "at_risk: plans",
        "At risk: Hourly incremental is paused. The next backup is due in 15 h.",
    ),
    "plan paused, another runs often enough": (
        replace(FINE, plans=(replace(HOURLY, enabled=False, next=None), replace(HOURLY, name="other"))),
        "protected:",
        "",
    ),
    "disk nearly full": (
        replace(FINE, repositories=(RepositoryFact(name="main", free=20 * GB, size=1000 * GB),)),
        "at_risk: space",
        "At risk: The disk of the repository is nearly full: 20.0 GB of 1.00 TB free.",
    ),
    "disk soon full": (
        replace(FINE, repositories=(RepositoryFact(name="main", free=150 * GB, size=1000 * GB, grown_a_day=30 * GB),)),
        "at_risk: space",
        "At risk: The disk of the repository will be full in about 5 days.",
    ),
    "repository gone": (
        replace(FINE, repositories=(RepositoryFact(name="main", there=False),)),
        "unprotected: repository_missing",
        "Unprotected: The repository is not available.",
    ),
    "restores too slow": (
        replace(FINE, restores=(*FINE.restores, RestoreFact(seconds=420, time=ago(minutes=1), real=True))),
        "at_risk: slow_restore",
        "At risk: A restore takes about 7 min (target: 5 min).",
    ),
    "an old one damaged": (
        replace(FINE, counts=Counts(backups=40, damaged=1)),
        "at_risk: damaged_some",
        "At risk: 1 backup is damaged.",
    ),
}


@pytest.mark.parametrize("facts, expected, text", TABLE.values(), ids=TABLE)
def test_the_verdict(facts, expected, text):
    found = verdict(facts)
    assert f"{found.level.value}: {' '.join(reason.code for reason in found.reasons)}".strip() == expected
    assert found.text.startswith(text or "Protected. Newest proven backup: ")
    for reason in found.reasons:
        assert reason.todo.endswith(".") and reason.text.endswith(".")
        assert reason.address.startswith("/admin/backup/")
    assert found.as_json()["level"] == expected.partition(":")[0]


def test_the_first_backup_has_an_estimate():
    (reason,) = verdict(replace(with_set(), bytes_to_back_up=720_000_000)).reasons
    assert reason.todo == "Make the first backup: about 20 s."


def test_two_sets_are_named_and_the_worse_one_decides():
    sets = (*FINE.sets, SetFact(name="other", newest=backup(hours=5), proven=backup(hours=5)))
    found = verdict(replace(FINE, sets=sets))
    assert (found.level, found.reasons[0].text) == (Level.AT_RISK, "No proven backup of other for 5 h (target: 1 h).")
    assert found.recovery_point.seconds == 5 * 3600


@pytest.mark.slow
def test_a_real_site_from_nothing_to_protected_to_damaged(site):
    found = status.now()
    assert [reason.code for reason in found.reasons] == ["nothing", "worker"]
    Worker.objects.create(host="test-host")
    job = site.done(submit.back_up(site.actor, backup="full"))
    assert job.state == Job.State.SUCCEEDED, job.error
    found = status.now()
    assert (found.level, found.newest.id) == (Level.PROTECTED, job.backup_id)
    assert found.recovery_time.seconds and found.space.used and found.space.free
    assert (found.success.done, found.success.days[-1].done + found.success.days[-2].done) == (1, 1)
    assert (found.counts.backups, found.counts.proven) == (1, 1)
    IndexedBackup.objects.update(verification="damaged", problem="A block is missing.")
    assert status.now().level is Level.UNPROTECTED
    site.repository.folder.rename(site.places.root / "aside")
    assert "repository_missing" in [reason.code for reason in status.now().reasons]


@pytest.mark.slow
def test_a_new_installation_on_an_old_repository_has_no_overdue_drill(site):
    Worker.objects.create(host="test-host")
    site.done(submit.back_up(site.actor, backup="full"))
    Plan.objects.create(name="hourly", kind="backup", cron="*/30 * * * *")
    old = {"repository": "main", "set": "default", "kind": "full", "verification": "restore"}
    long_ago = timezone.now() - timedelta(days=30)
    IndexedBackup.objects.create(backup_id="20261021T030000Z-full-3f9c2a", time=long_ago, finished=long_ago, **old)
    assert [reason.code for reason in status.now().reasons] == ["drill_overdue"]
    Plan.objects.create(name="drill", kind="drill", cron="0 4 * * 0")
    assert status.now().level is Level.PROTECTED


@pytest.mark.slow
def test_safety_backups_and_snapshots_do_not_protect_a_set(site):
    row = {"repository": "main", "set": "default", "kind": "snapshot", "finished": timezone.now(), "time": timezone.now()}
    IndexedBackup.objects.create(backup_id="20261121T030000Z-snapshot-3f9c2a", safety=True, verification="restore", **row)
    IndexedBackup.objects.create(backup_id="20261121T030000Z-snapshot-3f9c2b", verification="restore", **row)  # SQLite alone
    assert status.now().reasons[0].code == "nothing"


@pytest.mark.slow
def test_a_plan_with_an_invalid_time_does_not_count(site):
    Worker.objects.create(host="test-host")
    site.done(submit.back_up(site.actor, backup="full"))
    Plan.objects.create(name="odd", kind="backup", cron="99 * * * *")
    assert [reason.code for reason in status.now().reasons] == ["plans", "plan_never_due"]


def test_the_heartbeat_file_counts_before_the_first_row(site):
    site.work()
    assert "worker" not in [reason.code for reason in status.now().reasons]
    old = (timezone.now() - timedelta(minutes=10)).timestamp()
    os.utime(site.places.root / "run" / "worker.heartbeat", (old, old))
    assert "worker" in [reason.code for reason in status.now().reasons]


@pytest.mark.slow
def test_a_hundred_thousand_backups_are_read_by_index(empty_site):
    many(backups=100_000, jobs=100_000)
    with CaptureQueriesContext(
        connections["control"],
    ) as captured:
        found = status.now()
    assert found.counts.backups == 100_000 and found.success.done > 5000 and found.space.full_in_days
    assert len(captured) <= 30
    assert unindexed(captured) == []
