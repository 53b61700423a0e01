"""Whatever dies, and whenever: each job ends in a true state, and nothing runs twice. Real workers, real kills."""

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
    """Somebody is in the middle of a transaction: a backup waits for its instant meanwhile."""
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        writer.close()


def descendants(pid: int) -> list[int]:
    return [found for child in children_of(pid) for found in (child, *descendants(child))]


def test_a_killed_worker_in_mid_backup_leaves_a_job_that_is_tried_again_and_a_clean_repository(yard):
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


def test_everything_killed_in_mid_backup_is_cleared_by_whoever_looks_next(yard):
    with busy(settings.REFSERVER_DATABASE):
        job = yard.begun(submit.back_up(yard.site.actor, backup="full", only=["sqlite"]))
        until(lambda: any(yard.site.repository.staging.iterdir()) if yard.site.repository.staging.exists() else False)
        for pid in (pid_of(job.worker), pid_of(job.child), *descendants(pid_of(job.child))):
            kill(pid)
    assert yard.ended(job, 15).state == Job.State.INTERRUPTED
    assert yard.clean()
    lifecycle.cancel(Job.objects.get(again_after=job), yard.site.actor)


def test_a_task_that_is_delivered_many_times_is_done_once(yard):
    job = yard.ask(seconds=0.5)
    for _ in range(5):
        queue.wake(HOST)
    last = OrmQ.objects.order_by("-pk").first()
    if last is not None:  # the very same message again, as after Django-Q's `retry`
        OrmQ.objects.bulk_create([OrmQ(key=last.key, payload=last.payload, lock=timezone.now()) for _ in range(10)])
    assert yard.ended(job).state == Job.State.SUCCEEDED
    until(lambda: not OrmQ.objects.filter(lock__lte=timezone.now()).exists())
    assert yard.runs(job) == 1


def test_killed_idle_workers_are_replaced_with_pipes_that_work(yard):
    """One of them has the queue's lock in hand while it waits: nobody else could read from it any more."""
    for _ in range(2):
        old = yard.workers()
        for pid in old:
            kill(pid)
        assert yard.ended(yard.ask(), 20).state == Job.State.SUCCEEDED
        until(lambda: len(yard.workers()) == ALL)
        assert not set(old) & set(yard.workers())


def test_one_killed_worker_takes_no_running_job_with_it(yard):
    job = yard.begun(yard.ask(seconds=3.0))
    for pid in yard.workers():
        if pid != pid_of(job.worker):
            kill(pid)
    other = yard.ended(yard.ask())
    job.refresh_from_db()
    assert (other.state, job.state) == (Job.State.SUCCEEDED, Job.State.RUNNING)
    assert yard.ended(job).state == Job.State.SUCCEEDED
    assert yard.runs(job) == 1


def test_a_killed_guard_leaves_nobody_behind_but_a_job_that_finishes(yard):
    job = yard.begun(yard.ask(seconds=3.0))
    waiting = [yard.ask(seconds=3.0) for _ in range(2)]  # one of them runs beside it
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
    assert pid_of(job.worker) == worker  # by the worker that had begun it
    until(lambda: not processes.identity(worker), 5)
    assert len(yard.workers()) == ALL


def test_a_machine_that_was_switched_off_finds_its_jobs_again(yard):
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


def test_a_locked_control_database_stops_no_work_and_loses_no_line(yard):
    job = yard.begun(yard.ask(seconds=3.0, lines=200))
    lock = sqlite3.connect(settings.REFSERVER_CONTROL_DATABASE, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    until(lambda: not processes.of_job(str(job.pk)), 15)  # it ends while nobody can write that it did
    time.sleep(max(0.0, 6.0 - (time.monotonic() - began)))  # the settings of these workers wait for 2 s
    lock.close()
    assert yard.ended(job).state == Job.State.SUCCEEDED
    lines = list(job.log.order_by("id").values_list("line", flat=True))
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(200)]
    told = [float(line.split()[1]) for line in lines if line.startswith("after ")]
    assert told == sorted(told) and told[-1] > 2.8 and len(told) > 100
    assert yard.runs(job) == 1


def test_a_restore_in_place_whose_worker_is_killed_is_asked_to_end_and_leaves_all_as_it_was(yard):
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
    assert job.log.filter(line__contains="refbackup doctor").exists()
    assert not processes.identity(child)
    assert not list(database.parent.glob(".refbackup-restore.*"))
    with sqlite3.connect(database) as reader:
        assert reader.execute("SELECT count(*) FROM auth_group WHERE name = 'made after the backup'").fetchone() == (1,)
    reader.close()


def test_the_audit_is_whole_after_all_of_this(yard):
    assert audit.verify_chain()[1] is None
