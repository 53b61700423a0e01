"""`manage.py serve` with running jobs: it finishes or interrupts them, or is killed; their recorded states are correct."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from backups.engine.runtime import processes
from backups.jobs import lifecycle
from backups.models import Job
from tests.control.workers import Yard, kill, module_yard, pid_of, running_in, until
from tests.library.places import ROOT
from tests.library.test_serve import free_port

__all__ = ["module_yard"]

pytestmark = pytest.mark.slow

SUPERVISE = """
import dataclasses, sys, django
django.setup()
from refserver.management.commands.serve import programs
from backups.worker.supervisor import supervise
worker = dataclasses.replace(programs("127.0.0.1", 1)[1], silent_after=6.0)
supervise([worker], lambda line: print("serve:", line, file=sys.stderr, flush=True))
"""


@contextmanager
def served(yard: Yard, *command: str):
    """A server on the yard's site, logging to the yard's log."""
    before = yard.said().count("workers are ready")
    command = command or ("manage.py", "serve", "--port", str(free_port()))
    with yard.log.open("ab") as log:
        server = subprocess.Popen([sys.executable, *command], env=yard.environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        until(lambda: yard.said().count("workers are ready") > before, 40, yard.said)
        yield server
    finally:
        server.kill()
        server.wait()
        for pid in running_in(yard.site.places.root):
            kill(pid)
        for job in Job.objects.exclude(state__in=Job.ENDED):
            lifecycle.cancel(job, yard.site.actor)
            Job.objects.filter(pk=job.pk, state="running").update(state="interrupted")


def test_a_stop_finishes_running_jobs_and_starts_no_others(module_yard):
    yard = module_yard
    with served(yard) as server:
        running = [yard.begun(yard.ask(seconds=4.0)) for _ in range(2)]
        waiting = yard.ask()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    for job in running:
        job.refresh_from_db()
        assert (job.state, job.took.total_seconds() >= 4.0) == (Job.State.SUCCEEDED, True)
    assert yard.runs(waiting) == 0
    assert "SIGTERM received, stopping; worker finishes its running jobs, a second signal interrupts them" in yard.said()
    assert "done after" in yard.said() and "Enqueued" not in yard.said()


def test_a_second_stop_signal_interrupts_the_jobs_and_they_are_retried(module_yard):
    yard = module_yard
    with served(yard) as server:
        running = [yard.begun(yard.ask(seconds=60.0, **how)) for how in ({}, {"stubborn": True, "grandchild": True})]
        server.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert server.poll() is None
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0, "the jobs themselves would take 60 s"
        for job in running:
            job.refresh_from_db()
            assert (job.state, job.error["code"]) == (Job.State.INTERRUPTED, "interrupted")
            assert job.tried_again.state == Job.State.QUEUED and not processes.of_job(str(job.pk))
        until(lambda: not running_in(yard.site.places.root), 5)


def test_jobs_of_a_killed_server_finish_and_no_process_remains(module_yard):
    yard = module_yard
    with served(yard) as server:
        job = yard.begun(yard.ask(seconds=3.0))
        waiting = yard.ask(seconds=3.0), yard.ask(seconds=3.0)
        yard.begun(waiting[0])
        server.kill()
        server.wait()
        assert yard.ended(job).state == yard.ended(waiting[0]).state == Job.State.SUCCEEDED
        until(lambda: not running_in(yard.site.places.root), 10)
        assert (yard.runs(job), yard.runs(waiting[1])) == (1, 0)


def test_silent_workers_are_restarted_and_a_running_job_continues(module_yard):
    yard = module_yard
    with served(yard, "-c", SUPERVISE) as server:
        job = yard.begun(yard.ask(seconds=7.5))
        guard = int((yard.site.places.root / "workers.log").read_text().rpartition("worker started (pid ")[2].split(")")[0])
        kill(guard, signal.SIGSTOP)  # it hangs; its worker does not, and touches the file
        time.sleep(6.5)
        assert processes.identity(guard)
        assert yard.ended(job).state == Job.State.SUCCEEDED
        until(lambda: "worker has had no heartbeat for 6 s; killing it" in yard.said(), 15)
        until(lambda: yard.said().rpartition("killing it")[2].count("workers are ready"), 15)
        assert yard.ended(yard.ask()).state == Job.State.SUCCEEDED
        assert not processes.identity(guard) and pid_of(job.worker) not in running_in(yard.site.places.root)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
