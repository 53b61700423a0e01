"""A hundred random disturbances: kills, cancellations, repeated deliveries, locks. Afterwards every job is accounted for."""

from __future__ import annotations

import collections
import random
import sqlite3
import time

import pytest
from django.conf import settings
from django.utils import timezone

from backups.identity import audit
from backups.jobs import lifecycle, queue, submit
from backups.models import IndexedBackup, Job
from tests.control.conftest import HOST
from tests.control.workers import ALL, children_of, kill, module_yard, pid_of, running_in, until

__all__ = ["module_yard"]

DISTURBANCES = 100
GUARD_DIES_EVERY = 33


class Chaos:
    """Random disturbances of a yard; each returns a description for the message of a failure."""

    def __init__(self, yard, seed: int) -> None:
        self.yard = yard
        self.chance = random.Random(seed)
        self.done: list[str] = []
        self.asked: list[Job] = []

    def ask(self) -> None:
        """Keep some jobs waiting or running. Further attempts need not wait."""
        Job.objects.filter(state=Job.State.QUEUED, not_before__gt=timezone.now()).update(not_before=timezone.now())
        while Job.objects.exclude(state__in=Job.ENDED).count() < 6:
            if self.chance.random() < 0.5:
                job = submit.back_up(self.yard.site.actor, backup="full", only=["sqlite"], verify="none")
            else:
                job = self.yard.ask(seconds=self.chance.uniform(0.0, 0.6), stubborn=self.chance.random() < 0.2)
            self.asked.append(job)

    def disturb(self) -> None:
        ways = [self.kill_working, self.kill_child, self.kill_any, self.cancel, self.deliver, self.lock]
        way = self.chance.choice(ways)
        self.done.append(way.__name__)
        way()

    def kill_working(self) -> None:
        """The worker of a running job."""
        if job := Job.objects.filter(state=Job.State.RUNNING).order_by("?").first():
            kill(pid_of(job.worker))

    def kill_child(self) -> None:
        """The process of a running job, or one of its own."""
        if job := Job.objects.filter(state=Job.State.RUNNING).exclude(child="").order_by("?").first():
            kill(self.chance.choice([pid_of(job.child), *children_of(pid_of(job.child))]))

    def kill_any(self) -> None:
        """A worker, the pusher, or the monitor."""
        if found := self.yard.workers():
            kill(self.chance.choice(found))

    def cancel(self) -> None:
        """A running job, rarely a queued one."""
        states = [Job.State.RUNNING] if self.chance.random() < 0.8 else [Job.State.QUEUED]
        if job := Job.objects.filter(state__in=states).order_by("?").first():
            lifecycle.cancel(job, self.yard.site.actor)

    def deliver(self) -> None:
        for _ in range(3):
            queue.wake(HOST)

    def lock(self) -> None:
        lock = sqlite3.connect(settings.REFSERVER_CONTROL_DATABASE, isolation_level=None, timeout=10)
        lock.execute("BEGIN IMMEDIATE")
        time.sleep(0.3)
        lock.close()


@pytest.mark.slow
def test_a_hundred_disturbances_leave_correct_states_and_nothing_ran_twice(module_yard, soak):
    yard = module_yard
    yard.start()
    seed = random.randrange(1 << 32)
    chaos = Chaos(yard, seed)
    print("seed", seed)
    for number in range(1, DISTURBANCES * soak + 1):
        chaos.ask()
        time.sleep(chaos.chance.uniform(0.05, 0.45))
        if number % GUARD_DIES_EVERY == 0:
            kill(yard.guard.pid)
            yard.guard.wait()
            yard.start()
        else:
            chaos.disturb()
    deadline = time.monotonic() + 60
    while left := Job.objects.exclude(state__in=Job.ENDED).count():
        assert time.monotonic() < deadline, (left, collections.Counter(chaos.done), yard.said()[-4000:])
        Job.objects.filter(state=Job.State.QUEUED).update(not_before=timezone.now())
        queue.wake(HOST)
        time.sleep(0.3)
    until(lambda: len(yard.workers()) == ALL)
    balance(yard)
    assert len(chaos.asked) >= 20


def balance(yard) -> None:
    published = collections.Counter(backup.manifest.job for backup in yard.site.repository.backups())
    assert set(published.values()) <= {1}
    for job in Job.objects.all():
        made = published[str(job.pk)]
        if job.kind == "backup":
            assert bool(job.backup_id) == bool(made), (job, job.error, made)
            assert made or job.state != Job.State.SUCCEEDED, job
            assert not (made and hasattr(job, "tried_again")), f"{job} was made, and retried"
        else:
            assert yard.runs(job) <= 1, job
            assert yard.runs(job) == 1 or job.state != Job.State.SUCCEEDED, job
    states = collections.Counter(Job.objects.values_list("state", flat=True))
    print(dict(states))
    assert states["succeeded"] >= 8 and states["interrupted"] >= 3 and states["cancelled"] >= 3, states
    in_repository = {backup.id for backup in yard.site.repository.backups()}
    assert set(IndexedBackup.objects.values_list("backup_id", flat=True)) == in_repository
    number, broken = audit.verify_chain()
    assert broken is None and number > Job.objects.count()
    assert not yard.site.repository.staging.exists() or yard.clean()
    ours = {yard.guard.pid, *yard.workers()}
    until(lambda: set(running_in(yard.site.places.root)) <= ours, 5)
