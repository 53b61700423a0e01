"""A job's row while it runs, how the job is stopped, and what it leaves on disk."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from backups.engine.repository.folder import Repository
from backups.engine.restore.partial import PARTIAL, partial_folder
from backups.engine.runtime import processes
from backups.jobs import child_output, completion, lifecycle, runner, submit
from backups.jobs.reconcile import reconcile
from backups.jobs.types import job_type
from backups.models import AuditEntry, IndexedBackup, Job, Worker
from backups.worker import tasks
from tests.control.chore_settings import KINDS
from tests.control.conftest import HOST
from tests.control.workers import kill, module_yard, pid_of, until, yard

__all__ = ["module_yard", "yard"]

MB = 1_000_000


@pytest.fixture
def chores(empty_site):
    """A site with the job types of `chores`, whose jobs run in this process."""
    Path(settings.BACKUPS["RUN_FOLDER"]).mkdir(exist_ok=True)
    with override_settings(BACKUPS={**settings.BACKUPS, "KINDS": KINDS}):
        yield empty_site


def ask(site, kind: str = "chore", limit: int | None = None, **arguments) -> Job:
    return lifecycle.enqueue(job_type(kind), arguments, site.actor, limit=limit)


def grown(folder: Path, size: int) -> None:
    """A file that takes a while to store: it cannot be compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "large.bin").open("wb") as large:
        for _ in range(size // (8 * MB)):
            large.write(os.urandom(8 * MB))


# Progress


@pytest.mark.slow
def test_backup_reports_progress_at_least_every_second(chores):
    for size in (480, 1500, 4000):  # a fast machine stores more, so that it takes a while
        grown(settings.REFSERVER_FILES, size * MB)
        job, running = watched(chores)
        if running[-1][0] - running[0][0] > 2.5:
            break
    assert max(moment - row.heartbeat.timestamp() for moment, row in running) < 1.2
    told = [(row.phase, row.done) for _, row in running if row.phase]
    changes = [moment for (moment, before), (_, after) in itertools.pairwise(running) if before.done != after.done]
    assert len(set(told)) >= 3
    assert all(later - earlier < 1.6 for earlier, later in itertools.pairwise(changes))
    stored = [row for _, row in running if row.phase == "store" and 0 < row.done < (row.total or 0)]
    assert stored and all(row.rate > 0 and row.left is not None for row in stored)
    assert [phase["name"] for phase in job.phases] == list(dict.fromkeys(phase["name"] for phase in job.phases))


def watched(chores) -> tuple[Job, list[tuple[float, Job]]]:
    """A backup of the files, and its row ten times a second while it ran."""
    job = submit.back_up(chores.actor, backup="full", only=["files"], verify="hashes")
    seen: list[tuple[float, Job]] = []
    stop = threading.Event()

    def watch():
        from django.db import connections

        while not stop.wait(0.1):
            seen.append((time.time(), Job.objects.get(pk=job.pk)))
        connections.close_all()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        job = chores.done(job)
    finally:
        stop.set()
        watcher.join()
    assert job.state == Job.State.SUCCEEDED, job.error
    return job, [(moment, row) for moment, row in seen if row.state == Job.State.RUNNING]


def test_values_that_databases_refuse_are_replaced(chores):
    job = chores.done(ask(chores, odd=True))
    assert job.state == Job.State.SUCCEEDED, job.error
    assert job.result == {"name": "nul \ufffd and half ?", "number": None}
    assert any("nul \ufffd and half" in line for line in job.log.values_list("line", flat=True))


def test_log_lines_over_the_limit_are_dropped(chores, monkeypatch):
    monkeypatch.setattr(child_output, "MOST_LINES", 50)
    job = chores.done(ask(chores, lines=500))
    lines = list(job.log.values_list("line", flat=True))[2:-1]  # without those of its request, start and end
    assert job.state == Job.State.SUCCEEDED and len(lines) == 50 and lines[-1].startswith("The log is full at 50 lines")


# Stopped on request


@pytest.mark.parametrize("how", [{}, {"stubborn": True, "grandchild": True}])
@pytest.mark.slow
def test_cancel_ends_job_and_children_at_once(yard, how):
    job = yard.begun(yard.ask(seconds=50.0, **how))
    time.sleep(0.3)
    began = time.monotonic()
    lifecycle.cancel(job, yard.site.actor)
    yard.ended(job, 20)
    took = time.monotonic() - began
    assert (job.state, job.cancel_by) == (Job.State.CANCELLED, "tester")
    assert not processes.of_job(str(job.pk))
    assert took < 15, "the job itself would take 50 s"
    assert not hasattr(job, "tried_again")


@pytest.mark.slow
def test_cancel_leaves_no_files_of_backup_verification_and_restore(yard):
    grown(settings.REFSERVER_FILES, 400 * MB)
    site = yard.site
    backup = yard.ended(submit.back_up(site.actor, backup="full", only=["files"], verify="none"))
    assert backup.state == Job.State.SUCCEEDED, backup.error
    for ask in (
        lambda: submit.back_up(site.actor, backup="full", only=["files"], verify="restore"),
        lambda: submit.verify(site.actor, backup_ids=[backup.backup_id], depth="restore"),
        lambda: submit.restore_to_folder(site.actor, backup_id=backup.backup_id, folder="back"),
    ):
        job = yard.begun(ask())
        until(lambda: not yard.clean(), 10)  # it has partial files
        lifecycle.cancel(job, site.actor)
        yard.ended(job, 15)
        assert job.state == Job.State.CANCELLED, (job.kind, job.error)
        assert yard.clean() and not processes.of_job(str(job.pk))
    assert not (site.places.root / "restored" / "back").exists()
    assert [found.id for found in site.repository.backups()] == [backup.backup_id]
    (Path(settings.REFSERVER_FILES) / "large.bin").unlink()


@pytest.mark.slow
def test_leftovers_of_killed_restore_are_removed_but_not_those_of_another_restore(empty_site):
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="none"))
    job = submit.restore_to_folder(empty_site.actor, backup_id=made.backup_id, folder="back")
    assert lifecycle.claim(HOST, "gone:1:1") == job
    around = empty_site.places.root / "restored"
    left = around / f"{PARTIAL}abc123"
    left.mkdir(parents=True)
    with partial_folder(around, lambda: "def456") as running:
        assert reconcile(HOST) == [job]
        assert running.exists() and not left.exists()
    job.refresh_from_db()
    assert job.state == Job.State.INTERRUPTED


@pytest.mark.slow
def test_restored_folder_counts_as_success_without_a_reported_end(empty_site):
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="none"))
    job = submit.restore_to_folder(empty_site.actor, backup_id=made.backup_id, folder="back")
    assert lifecycle.claim(HOST, "gone:1:1") == job
    time.sleep(0.05)
    (empty_site.places.root / "restored" / "back").mkdir(parents=True)
    reconcile(HOST)
    job.refresh_from_db()
    assert (job.state, job.result["to"]) == (Job.State.SUCCEEDED, str(empty_site.places.root / "restored" / "back"))


@pytest.mark.slow
def test_reconciler_completes_restore_in_place_of_dead_worker(empty_site):
    """The worker dies between the end of its process and that of the job; groups and audit must still be completed."""
    empty_site.person("mallory", superuser=True)
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="none"))
    User.objects.get(username="mallory").delete()
    Group.objects.get(name="operator").permissions.clear()
    job = submit.restore_in_place(empty_site.actor, backup_id=made.backup_id, typed=made.backup_id, only="sqlite")
    dying = (
        "import os, signal, django; django.setup()\n"
        "from backups.jobs import completion, lifecycle, runner\n"
        "from backups.engine.runtime import processes\n"
        "completion.complete = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"runner.run(lifecycle.claim({HOST!r}, processes.current()))"
    )
    connections.close_all()
    worker = empty_site.places.python("-c", dying)
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    Group.objects.get(name="operator").permissions.clear()
    job.refresh_from_db()
    assert job.state == Job.State.RUNNING and User.objects.filter(username="mallory").exists()
    assert reconcile(HOST) == [job]
    job.refresh_from_db()
    assert job.state == Job.State.INTERRUPTED
    assert Group.objects.get(name="operator").permissions.filter(codename="create_backup").exists(), "groups are remade"
    entry = AuditEntry.objects.get(action="restore_in_place.accounts")
    assert (entry.target, entry.who, entry.after["backup"]) == (f"job:{job.pk}", empty_site.actor.name, made.backup_id)
    assert entry.after["appear"] == ["mallory"] and entry.after["counts"]["appear"] == 1
    assert IndexedBackup.objects.filter(safety=True).exists(), "the safety backup is in the index"
    assert not list(Path(settings.BACKUPS["RUN_FOLDER"]).glob("accounts-*"))


@pytest.mark.slow
def test_remembered_accounts_are_private_and_removed_when_job_is_given_up(empty_site):
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="none"))
    submit.restore_in_place(empty_site.actor, backup_id=made.backup_id, typed=made.backup_id, only="sqlite")
    job = lifecycle.claim(HOST, "gone:1:1")
    completion.prepare(job)
    kept = Path(settings.BACKUPS["RUN_FOLDER"]) / f"accounts-{job.pk}.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    partial = kept.with_name(f".{kept.name}.0123.tmp")
    partial.touch()
    tasks.remove_old_records(timezone.now())
    assert kept.exists() and partial.exists()
    assert lifecycle.end(job, Job.State.INTERRUPTED, by_claim=False)
    tasks.remove_old_records(timezone.now())
    assert not kept.exists() and not partial.exists()


@pytest.mark.slow
def test_unknown_accounts_are_reported_as_not_compared(empty_site):
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="none"))
    job = submit.restore_in_place(empty_site.actor, backup_id=made.backup_id, typed=made.backup_id, only="sqlite")
    assert lifecycle.claim(HOST, "gone:1:1") == job
    assert reconcile(HOST) == [job] and not reconcile(HOST)
    assert AuditEntry.objects.get(action="restore_in_place.accounts").after == {"backup": made.backup_id, "compared": False}


@pytest.mark.slow
def test_time_limit_ends_job_and_children(chores):
    began = time.monotonic()
    job = chores.done(ask(chores, limit=1, seconds=50.0, stubborn=True, grandchild=True))
    assert time.monotonic() - began < 25, "the job itself would take 50 s"
    assert (job.state, job.error["code"]) == (Job.State.FAILED, "limit")
    assert "what had been staged was removed" in job.error["message"]
    assert not processes.of_job(str(job.pk)) and not hasattr(job, "tried_again")


@pytest.mark.slow
def test_unkillable_job_only_gets_sigterm_and_may_succeed(chores):
    job = chores.done(ask(chores, "sacred_chore", limit=1, seconds=3.5, stubborn=True))
    assert job.state == Job.State.SUCCEEDED and job.took.total_seconds() > 3.4


def test_cancelling_a_job_of_a_silent_host_gives_it_up(chores):
    job = ask(chores)
    assert lifecycle.claim(HOST, "gone:1:1") == job
    assert lifecycle.cancel(job, chores.actor).state == Job.State.RUNNING
    Worker.objects.create(host=HOST, beat=timezone.now() - lifecycle.SILENT_AFTER)
    job = lifecycle.cancel(job, chores.actor)
    assert (job.state, job.error["code"]) == (Job.State.INTERRUPTED, "interrupted")


def test_job_cancelled_before_its_worker_died_is_cancelled(chores):
    job = ask(chores)
    assert lifecycle.claim(HOST, "gone:1:1") == job
    lifecycle.cancel(job, chores.actor)
    reconcile(HOST)
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED and not hasattr(job, "tried_again")


# Processes that die


@pytest.mark.slow
def test_backup_published_by_a_dead_process_counts_and_is_verified_later(empty_site, monkeypatch):
    monkeypatch.setenv("REFBACKUP_FAULT", "published:kill")
    job = submit.back_up(empty_site.actor, backup="full", only=["sqlite"])
    assert lifecycle.claim(HOST, processes.current()) == job
    runner.run(Job.objects.get(pk=job.pk))
    job.refresh_from_db()
    assert (job.state, job.exit_code) == (Job.State.SUCCEEDED, -9), job.error
    assert IndexedBackup.objects.get(backup_id=job.backup_id).job == str(job.pk)
    assert not hasattr(job, "tried_again")
    monkeypatch.delenv("REFBACKUP_FAULT")
    proof = empty_site.done(Job.objects.get(kind="verify"))
    assert proof.state == Job.State.SUCCEEDED, proof.error
    assert empty_site.repository.find(job.backup_id, None).verification == "restore"


@pytest.mark.parametrize("step", ["publish:kill", "write:kill", "sync:full"])
@pytest.mark.slow
def test_backup_that_fails_at_a_step_leaves_no_files_and_is_retried_if_useful(empty_site, monkeypatch, step):
    monkeypatch.setenv("REFBACKUP_FAULT", step)
    job = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"]))
    assert (job.state, job.error["code"]) == (Job.State.FAILED, "no_space" if step == "sync:full" else "no_answer")
    assert hasattr(job, "tried_again") == (step != "sync:full")
    assert not left_in(empty_site.repository)


def left_in(repository: Repository) -> list[Path]:
    return [*repository.staging.glob("*"), *repository.scratch.glob("*")]


@pytest.mark.slow
def test_saving_the_end_is_retried(chores, monkeypatch):
    job = ask(chores, lines=3)
    refusals = iter([True, True])
    real = lifecycle.end

    def refuse(*given, **more):
        from django.db import OperationalError

        if next(refusals, False):
            raise OperationalError("database is locked")
        return real(*given, **more)

    monkeypatch.setattr(lifecycle, "end", refuse)
    job = chores.done(job)
    assert job.state == Job.State.SUCCEEDED
    lines = [line for line in job.log.values_list("line", flat=True) if line.startswith("line ")]
    assert lines == ["line 0", "line 1", "line 2"]


@pytest.mark.slow
def test_process_killed_from_outside_is_reported(yard):
    job = yard.begun(yard.ask(seconds=30.0))
    kill(pid_of(job.child))
    yard.ended(job)
    assert (job.state, job.error["code"], job.exit_code) == (Job.State.FAILED, "no_answer", -9)
    assert "SIGKILL" in job.error["message"] and hasattr(job, "tried_again")
