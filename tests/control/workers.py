"""Real worker processes, and ways to disturb them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from backups.engine.restore.partial import PARTIAL
from backups.engine.runtime import processes
from backups.jobs import lifecycle, queue
from backups.jobs.types import job_type
from backups.models import Job
from tests.control.chore_settings import KINDS
from tests.control.chores import marks
from tests.control.conftest import HOST, Site, _made, environment_of
from tests.library.places import ROOT, Places, at

ALL = settings.BACKUPS["JOBS_AT_ONCE"] + 4
"""What a guard starts: workers, a pusher, a monitor."""

MANAGE = [sys.executable, str(ROOT / "manage.py")]


def until(what: Callable[[], Any], within: float = 20.0, why: str | Callable[[], str] = "") -> Any:
    """The first true result of *what*. Fails after *within* seconds."""
    deadline = time.monotonic() + within
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"It did not come true within {within:g} s: {why() if callable(why) else why or what}")
        time.sleep(0.03)
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def pid_of(identity: str) -> int:
    return int(identity.split(":")[1])


def children_of(pid: int) -> list[int]:
    """The processes that *pid* started and that still run."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in listed if processes.identity(int(child))]


def running_in(root: Path) -> list[int]:
    """Every process whose environment names *root*; not this one."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if pid != os.getpid() and str(root).encode() in Path(entry.path, "environ").read_bytes():
                found.append(pid)
    return [pid for pid in found if processes.identity(pid)]


@dataclass
class Yard:
    """A site, and the workers of one host on it."""

    site: Site
    environment: dict[str, str]
    guard: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.site.places.root / "workers.log"

    def start(self) -> subprocess.Popen[bytes]:
        """Start workers unless they run. Returns their guard."""
        if self.guard is None or self.guard.poll() is not None:
            before = self.said().count("workers are ready")
            with self.log.open("ab") as log:
                command = [*MANAGE, "backups_worker"]
                self.guard = subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=log, stderr=log)
            until(lambda: self.said().count("workers are ready") > before, 60, self.said)
            # At the start everything is replaced at most once; the workers that stay are those of this test
            until(lambda: len(children_of(self.guard.pid)) == ALL, 20)
        return self.guard

    def stop(self) -> None:
        """Stop the workers and the running jobs, and check that no process is left."""
        if self.guard is not None and self.guard.poll() is None:
            self.guard.terminate()
            time.sleep(0.4)
            self.guard.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.guard.wait(20)
            self.guard.kill()
            self.guard.wait()
        try:
            until(lambda: not running_in(self.site.places.root), 15)
        finally:
            for pid in running_in(self.site.places.root):
                kill(pid)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def workers(self) -> list[int]:
        """The processes that the guard has started: workers, monitor and pusher."""
        assert self.guard is not None
        return children_of(self.guard.pid)

    def ask(self, kind: str = "chore", **arguments: Any) -> Job:
        return lifecycle.enqueue(job_type(kind), arguments, self.site.actor)

    def begun(self, job: Job) -> Job:
        """*job* once its process runs."""
        until(lambda: Job.objects.filter(pk=job.pk, state="running").exclude(child="").exists(), 20, self.said)
        job.refresh_from_db()
        return job

    def ended(self, job: Job, within: float = 30.0) -> Job:
        """*job* once it has ended."""
        until(lambda: Job.objects.filter(pk=job.pk, state__in=Job.ENDED).exists(), within, self.said)
        job.refresh_from_db()
        return job

    def retried(self, job: Job) -> Job:
        """The second attempt of *job*, which may run at once."""
        again = Job.objects.get(again_after=job)
        Job.objects.filter(pk=again.pk).update(not_before=job.created)
        queue.wake(HOST)
        return again

    def runs(self, job: Job) -> int:
        """How often a chore's process was started."""
        return marks().read_text().split().count(str(job.pk)) if marks().exists() else 0

    def clean(self) -> bool:
        """Whether there are no partial files in the repository or next to the restored folders."""
        repository = self.site.repository
        left = [*repository.staging.glob("*"), *repository.scratch.glob("*")]
        left += Path(settings.BACKUPS["RESTORE_FOLDER"]).glob(f"{PARTIAL}*")
        return not left


@contextmanager
def made_yard(places: Places, more: dict[str, str] | None = None) -> Iterator[Yard]:
    """A yard on a copy of *places*, whose workers are started by `Yard.start`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = _made(places, monkeypatch)
        site = next(made)
        (places.root / "run").mkdir(exist_ok=True)
        changed = {**settings.BACKUPS, "KINDS": KINDS}
        environment = environment_of(places) | {
            "DJANGO_SETTINGS_MODULE": "tests.control.chore_settings",
            "REFSERVER_SECRET_KEY": settings.SECRET_KEY,  # messages in the queue are signed with it
            **(more or {}),
        }
        yard = Yard(site, environment)
        with override_settings(BACKUPS=changed):
            try:
                yield yard
            finally:
                yard.stop()
                for _ in made:
                    pass


@pytest.fixture(scope="module")
def module_yard(empty_places, tmp_path_factory, django_db_blocker) -> Iterator[Yard]:
    root = tmp_path_factory.mktemp("yard") / "library"
    shutil.copytree(empty_places.root, root)
    with at(Places(root)) as places, django_db_blocker.unblock(), made_yard(places) as yard:
        yield yard


@pytest.fixture
def yard(module_yard: Yard) -> Yard:
    """A site with running workers for all tests of a module. Each test leaves it without jobs."""
    module_yard.start()
    for job in Job.objects.exclude(state__in=Job.ENDED):
        lifecycle.cancel(job, module_yard.site.actor)
    until(lambda: not Job.objects.exclude(state__in=Job.ENDED).exists(), 20)
    return module_yard
