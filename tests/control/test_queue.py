"""The queue only wakes workers: when it does, what it may lose, and exclusive claims under real concurrency."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule, Task
from django_q.scheduler import scheduler

from backups.engine.runtime.environment import Environment
from backups.jobs import database_broker, lifecycle, queue
from backups.jobs.types import job_type
from backups.models import Job, JobLog, Worker
from backups.worker import cluster, tasks
from refserver import databases
from tests.control.chore_settings import KINDS
from tests.control.conftest import HOST
from tests.library.places import ROOT

CLAIM = """
import sys, json, time
from backups.engine.runtime import processes
from backups.jobs import lifecycle
claimed = []
time.sleep(max(0, float(sys.argv[1]) - time.time()))
while (job := lifecycle.claim("test-host", processes.current())) is not None:
    claimed.append(str(job.pk))
    from backups.models import Job
    at_once = Job.objects.filter(state="running", host="test-host").count()
    writing = Job.objects.filter(state="running", writes=True).count()
    claimed.append([at_once, writing])
    if len(sys.argv) > 2:
        time.sleep(0.005)
        lifecycle.end(job, Job.State.SUCCEEDED)
print(json.dumps(claimed))
"""


@pytest.fixture
def chores(empty_site):
    from django.conf import settings

    with override_settings(BACKUPS={**settings.BACKUPS, "KINDS": KINDS}):
        yield empty_site


def ask(site, kind: str = "chore") -> Job:
    return lifecycle.enqueue(job_type(kind), {}, site.actor)


def claim_in(processes: int, environment: dict[str, str], *more: str) -> list[list]:
    """The claims of that many processes that begin at the same time."""
    begin = str(time.time() + 2.5)
    command = [sys.executable, "-c", f"import django; django.setup()\n{CLAIM}", begin, *more]
    started = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    answers = [process.communicate(timeout=60) for process in started]
    assert not any(process.returncode for process in started), [error for _, error in answers]
    return [json.loads(said) for said, _ in answers]


def check_claims(found: list[list], at_once: int) -> list[str]:
    """The claimed ids, after checking the rules: none twice, not too many at once, one writer."""
    ids = [item for claimed in found for item in claimed if isinstance(item, str)]
    assert len(ids) == len(set(ids)), "a job was claimed twice"
    for running, writing in (item for claimed in found for item in claimed if isinstance(item, list)):
        assert running <= at_once and writing <= 1
    return ids


@pytest.mark.slow
def test_concurrent_claims_respect_the_limit_and_one_writer(chores):
    from tests.control.conftest import environment_of

    environment = environment_of(chores.places) | {"DJANGO_SETTINGS_MODULE": "tests.control.chore_settings"}
    for number in range(10):
        ask(chores, "writing_chore" if number % 2 else "chore")
    ids = check_claims(claim_in(3, environment, "end"), at_once=2)
    assert len(ids) >= 8  # a writer may be left when all processes have stopped claiming
    Job.objects.filter(state="queued").delete()
    for _ in range(4):
        ask(chores)
    assert len(check_claims(claim_in(3, environment), at_once=2)) == 2


# Waking workers


def test_workers_are_woken_after_commit(chores):
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="control"):
        ask(chores)
        assert not OrmQ.objects.exists()
        raise ZeroDivisionError
    assert not OrmQ.objects.exists() and not Job.objects.exists()
    with transaction.atomic(using="control"):
        ask(chores)
        assert not OrmQ.objects.exists()
    assert OrmQ.objects.get().key == HOST


def test_unreachable_queue_loses_no_job(chores, monkeypatch, caplog):
    monkeypatch.setattr("backups.jobs.queue.send", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("Redis is away")))
    job = ask(chores)
    assert job.state == Job.State.QUEUED and not OrmQ.objects.exists()
    monkeypatch.undo()
    tasks.tick(HOST)
    assert OrmQ.objects.filter(key=HOST).count() == 1  # the next tick wakes a worker


def test_waking_inside_an_application_transaction_keeps_its_writes(chores):
    """Django-Q's own broker closes the connection in the middle of it."""
    with transaction.atomic(using="default"):
        get_user_model().objects.create_user("inside", password=None)
        queue.wake(HOST)
    assert get_user_model().objects.filter(username="inside").exists()
    assert OrmQ.objects.count() == 1


def as_in_a_worker(monkeypatch):
    for name, value in cluster.values().items():
        monkeypatch.setattr(Conf, name, value)


def test_schedule_fires_once_whatever_database_the_application_uses(chores, monkeypatch):
    as_in_a_worker(monkeypatch)
    assert queue.install_tick(HOST) and not queue.install_tick(HOST)
    Schedule.objects.update(next_run=timezone.now() - timedelta(hours=5))  # nothing ran for hours
    for _ in range(3):
        scheduler(database_broker.DatabaseBroker(HOST))
    assert OrmQ.objects.count() == 1
    assert timezone.now() < Schedule.objects.get().next_run <= timezone.now() + timedelta(minutes=1)


def test_each_host_runs_only_its_own_tick(chores, monkeypatch):
    for host in (HOST, "other"):
        queue.install_tick(host)
    Schedule.objects.update(next_run=timezone.now() - timedelta(hours=5))
    as_in_a_worker(monkeypatch)
    scheduler(database_broker.DatabaseBroker(HOST))
    assert [row.key for row in OrmQ.objects.all()] == [HOST]
    tasks.tick("other")  # if it is delivered here by mistake
    assert not Worker.objects.exists()
    tasks.tick(HOST)
    assert Worker.objects.get().host == HOST


def test_tick_continues_after_a_failed_step(chores, monkeypatch, caplog):
    waiting = ask(chores)
    OrmQ.objects.all().delete()
    monkeypatch.setattr(tasks, "reconcile", lambda host: (_ for _ in ()).throw(OSError("the disk is gone")))
    tasks.tick(HOST)
    assert "Could not end jobs without a worker this minute: the disk is gone" in caplog.text
    assert OrmQ.objects.count() == 1 and waiting.state == Job.State.QUEUED
    monkeypatch.setattr(tasks, "reconcile", lambda host: 1 / 0)
    with pytest.raises(ExceptionGroup, match="tick of test-host"):
        tasks.tick(HOST)


def test_only_messages_taken_by_dead_workers_are_forgotten(chores):
    now = timezone.now()
    retry = timedelta(seconds=database_broker.RETRY)
    for name, lock in {
        "waits": now,
        "asked meanwhile": now + timedelta(seconds=5),
        "just taken": now + retry,
        "taken two days ago": now + retry - timedelta(days=2),
    }.items():
        OrmQ.objects.create(key=HOST, payload=name, lock=lock)
    assert database_broker.forget_lost(now) == 1
    assert set(OrmQ.objects.values_list("payload", flat=True)) == {"waits", "asked meanwhile", "just taken"}


def test_records_past_retention_are_removed(chores):
    old, new = ask(chores), ask(chores)
    long_ago = timezone.now() - timedelta(days=500)
    Job.objects.filter(pk=old.pk).update(state="succeeded", finished=long_ago)
    new.log.all().delete()
    JobLog.objects.bulk_create([JobLog(job=new, time=moment, line="") for moment in (long_ago, timezone.now())])
    Task.objects.create(id="1", name="1", func="x", started=long_ago, stopped=long_ago, success=False)
    tasks.remove_old_records(timezone.now())
    assert Job.objects.get() == new and new.log.count() == 1 and not Task.objects.exists()


def test_locked_database_is_retried_by_workers_and_broker(chores, monkeypatch, caplog):
    from django.db import OperationalError

    ask(chores)
    monkeypatch.setattr(lifecycle, "claim", lambda *_: (_ for _ in ()).throw(OperationalError("database is locked")))
    assert tasks.work(HOST) == 0
    assert "database is locked" in caplog.text


# Settings


def env(**values: str) -> Environment:
    return Environment(values, Path("/project"))


def test_control_database_is_a_file_or_a_url_and_its_password_is_hidden(tmp_path):
    described, where = databases.control_database(env(C=str(tmp_path / "c.sqlite3")), "C", "x")
    assert where == tmp_path / "c.sqlite3" and described["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    described, where = databases.control_database(
        env(C="postgresql://keeper:p%40ss@db.example:5433/refs?sslmode=require"), "C", "x"
    )
    assert where == "postgresql://keeper@db.example:5433/refs?sslmode=require"
    assert [described[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")] == [
        "refs",
        "keeper",
        "p@ss",
        "db.example",
        "5433",
    ]
    assert described["OPTIONS"]["sslmode"] == "require"
    (tmp_path / "secret").write_text("from a file\n")
    given = {"C": "postgresql://keeper@/refs?host=/run/pg", "C_PASSWORD_FILE": str(tmp_path / "secret")}
    described, where = databases.control_database(env(**given), "C", "x")
    assert (described["HOST"], described["PASSWORD"], where) == ("/run/pg", "from a file", given["C"])


def test_queue_is_the_database_or_redis(tmp_path):
    assert databases.queue(env(), "Q") == {}
    found = databases.queue(env(Q="redis://:secret@redis.example:6380/2"), "Q")
    assert found == {"url": "redis://redis.example:6380/2", "password": "secret"}
    found = databases.queue(env(Q="rediss://worker@redis.example/0", Q_PASSWORD="secret"), "Q")
    assert found == {"url": "rediss://worker@redis.example/0", "password": "secret"}


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"C": "mysql://x/y"}, r"C: mysql:// is not supported"),
        ({"C": "postgresql://x:y@host:port/z"}, r"C: its port is not a number"),
        ({"Q": "amqp://user:secret@host"}, r"Q: .* is not supported"),
    ],
)
def test_invalid_url_is_reported_without_the_password(values, what):
    reader = env(**values)
    databases.control_database(reader, "C", "x.sqlite3") if "C" in values else databases.queue(reader, "Q")
    [problem] = reader.problems
    assert re.search(what, problem) and "secret" not in problem


def test_deployment_warnings_do_not_precede_other_commands():
    assert "backups.W003" not in {found.id for found in run_checks()}


def test_queue_pages_are_not_in_the_admin():
    from django.contrib import admin

    assert not [model for model in admin.site._registry if model._meta.app_label == "django_q"]


def test_each_job_is_claimed_by_one_thread(chores):
    """Each thread has a connection of its own, through which it sees the claims of the others."""
    ask(chores)
    found = []

    def claim():
        found.append(lifecycle.claim(HOST, "thread"))
        connections.close_all()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([job for job in found if job is not None]) == 1
    assert lifecycle.cancel(next(job for job in found if job), chores.actor).cancel_asked
