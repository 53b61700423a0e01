"""Killed workers and processes: each job ends in the correct state, and nothing runs twice. Real workers, real kills."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone
from django_q.models import OrmQ

from backups.engine.runtime import processes
from backups.identity import audit
from backups.jobs import lifecycle, queue, submit
from backups.models import Job
from tests.control.conftest import HOST
from tests.control.workers import ALL, children_of, kill, module_yard, pid_of, running_in, until, yard

__all__ = ["module_yard", "yard"]

pytestmark = pytest.mark.slow


@contextmanager
def busy(path: Path):
    """Another connection holds a transaction open, so that a backup waits for its cut."""
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        writer.close()


def descendants(pid: int) -> list[int]:
    return [found for child in children_of(pid) for found in (child, *descendants(child))]


def test_backup_of_a_killed_worker_is_retried_and_the_repository_is_clean(yard):
    with busy(settings.REFSERVER_DATABASE):
        job = yard.begun(submit.back_up(yard.site.actor, backup="full", only=["sqlite"]))
        until(lambda: len(descendants(pid_of(job.child))) >= 1)  # holder and packer
        family = [pid_of(job.child), *descendants(pid_of(job.child))]
        kill(pid_of(job.worker))
        yard.ended(job, 15)
        assert (job.state, job.error["code"]) == (Job.State.INTERRUPTED, "interrupted")
        assert not [pid for pid in family if processes.identity(pid)]
        again = yard.retried(job)
        yard.begun(again)
    assert yard.ended(again).state == Job.State.SUCCEEDED, again.error
    assert (again.attempt, again.again_after_id) == (2, job.pk)
    assert yard.clean()
    assert [backup.manifest.job for backup in yard.site.repository.backups()].count(str(again.pk)) == 1
    assert not [backup for backup in yard.site.repository.backups() if backup.manifest.job == str(job.pk)]


def test_backup_whose_processes_were_all_killed_is_reconciled(yard):
    with busy(settings.REFSERVER_DATABASE):
        job = yard.begun(submit.back_up(yard.site.actor, backup="full", only=["sqlite"]))
        until(lambda: any(yard.site.repository.staging.iterdir()) if yard.site.repository.staging.exists() else False)
        for pid in (pid_of(job.worker), pid_of(job.child), *descendants(pid_of(job.child))):
            kill(pid)
    assert yard.ended(job, 15).state == Job.State.INTERRUPTED
    assert yard.clean()
    lifecycle.cancel(Job.objects.get(again_after=job), yard.site.actor)


def test_task_delivered_many_times_runs_once(yard):
    job = yard.ask(seconds=0.5)
    for _ in range(5):
        queue.wake(HOST)
    last = OrmQ.objects.order_by("-pk").first()
    if last is not None:  # the same message again, as after Django-Q's `retry`
        OrmQ.objects.bulk_create([OrmQ(key=last.key, payload=last.payload, lock=timezone.now()) for _ in range(10)])
    assert yard.ended(job).state == Job.State.SUCCEEDED
    until(lambda: not OrmQ.objects.filter(lock__lte=timezone.now()).exists())
    assert yard.runs(job) == 1


def test_killed_idle_workers_are_replaced_with_working_pipes(yard):
    """One of them holds the queue's lock while it waits; when killed, it would block all others."""
    for _ in range(2):
        old = yard.workers()
        for pid in old:
            kill(pid)
        assert yard.ended(yard.ask(), 20).state == Job.State.SUCCEEDED
        until(lambda: len(yard.workers()) == ALL)
        assert not set(old) & set(yard.workers())


def test_killed_worker_does_not_end_jobs_of_others(yard):
    job = yard.begun(yard.ask(seconds=3.0))
    for pid in yard.workers():
        if pid != pid_of(job.worker):
            kill(pid)
    other = yard.ended(yard.ask())
    job.refresh_from_db()
    assert (other.state, job.state) == (Job.State.SUCCEEDED, Job.State.RUNNING)
    assert yard.ended(job).state == Job.State.SUCCEEDED
    assert yard.runs(job) == 1


def test_killed_guard_leaves_only_a_job_that_finishes(yard):
    job = yard.begun(yard.ask(seconds=3.0))
    waiting = [yard.ask(seconds=3.0) for _ in range(2)]  # one of them runs at the same time
    worker, guard = pid_of(job.worker), yard.guard.pid
    kill(guard)
    yard.guard.wait()
    until(lambda: len([pid for pid in running_in(yard.site.places.root) if not processes.of_job(str(job.pk))]) <= 4, 5)
    new = yard.start()
    assert new.pid != guard and worker not in children_of(new.pid)
    for each in (job, *waiting):
        assert yard.ended(each).state == Job.State.SUCCEEDED
        assert yard.runs(each) == 1
    job.refresh_from_db()
    assert pid_of(job.worker) == worker  # by the worker that began it
    until(lambda: not processes.identity(worker), 5)
    assert len(yard.workers()) == ALL


def test_jobs_of_a_previous_boot_are_reconciled(yard):
    yard.stop()
    lost = yard.ask(seconds=0.1)
    waiting = yard.ask(seconds=0.1)
    assert lifecycle.claim(HOST, "0000-another-start-of-the-machine:77:12345") == lost
    Job.objects.filter(pk=lost.pk).update(child="0000-another-start-of-the-machine:78:12346")
    OrmQ.objects.all().delete()
    yard.start()
    assert yard.ended(lost).state == Job.State.INTERRUPTED
    assert yard.ended(waiting).state == Job.State.SUCCEEDED
    again = yard.retried(lost)
    assert yard.ended(again).state == Job.State.SUCCEEDED
    assert (yard.runs(lost), yard.runs(waiting), yard.runs(again)) == (0, 1, 1)


def test_locked_control_database_stops_no_work_and_loses_no_line(yard):
    job = yard.begun(yard.ask(seconds=3.0, lines=200))
    lock = sqlite3.connect(settings.REFSERVER_CONTROL_DATABASE, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    until(lambda: not processes.of_job(str(job.pk)), 15)  # it ends while its end cannot be saved
    time.sleep(max(0.0, 6.0 - (time.monotonic() - began)))  # the settings of these workers wait for 2 s
    lock.close()
    assert yard.ended(job).state == Job.State.SUCCEEDED
    lines = list(job.log.order_by("id").values_list("line", flat=True))
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(200)]
    told = [float(line.split()[1]) for line in lines if line.startswith("after ")]
    assert told == sorted(told) and told[-1] > 2.8 and len(told) > 100
    assert yard.runs(job) == 1


def test_restore_in_place_of_a_killed_worker_gets_sigterm_and_changes_nothing(yard):
    database = Path(settings.REFSERVER_DATABASE)
    made = yard.ended(submit.back_up(yard.site.actor, backup="full", only=["sqlite"], verify="none"))
    with sqlite3.connect(database) as writer:
        writer.execute("INSERT INTO auth_group (name) VALUES ('made after the backup')")
    writer.close()
    with busy(database):  # it waits for the writer
        job = submit.restore_in_place(yard.site.actor, backup_id=made.backup_id, typed=made.backup_id, only="sqlite")
        child = pid_of(yard.begun(job).child)
        until(lambda: list(database.parent.glob(".refbackup-restore.*")))
        kill(pid_of(job.worker))
        yard.ended(job, 40)
    assert job.state == Job.State.INTERRUPTED and not hasattr(job, "tried_again")
    assert job.log.filter(line__contains="refbackup doctor").exists(), list(job.log.values_list("line", flat=True))
    assert not processes.identity(child)
    assert not list(database.parent.glob(".refbackup-restore.*"))
    with sqlite3.connect(database) as reader:
        assert reader.execute("SELECT count(*) FROM auth_group WHERE name = 'made after the backup'").fetchone() == (1,)
    reader.close()


def test_audit_is_intact_after_all_faults(yard):
    assert audit.verify_chain()[1] is None
