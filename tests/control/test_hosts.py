"""Several hosts: one control database in a real PostgreSQL, one queue in a real Redis, and workers for each host's data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.control.servers import PASSWORD, RedisServer, make_database, postgres, redis_server
from tests.control.test_queue import check_claims, claim_in
from tests.control.workers import MANAGE, kill, until
from tests.library.places import ROOT, Places

__all__ = ["postgres", "redis_server"]

pytestmark = pytest.mark.slow

ASK = """
import sys, json
from backups.identity.audit import Actor
from backups.jobs import lifecycle
from backups.jobs.types import job_type
from backups.models import Job
kind, host, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
job = lifecycle.enqueue(job_type(kind), arguments, Actor(name="tester", via=Job.Via.COMMAND), host=host)
print(job.pk)
"""


@dataclass
class Host:
    """One host: its data, its repository, its environment, and its workers."""

    name: str
    places: Places
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        return self.places.root / "workers.log"

    def python(self, code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", f"import django; django.setup()\n{code}", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MANAGE, *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            guard = subprocess.Popen([*MANAGE, "backups_worker"], env=self.environment, cwd=ROOT, stdout=log, stderr=log)
        until(lambda: "workers are ready" in self.said(), 40, self.said)
        return guard


class Control:
    """The control database, through a connection of this test."""

    def __init__(self, folder: str, name: str) -> None:
        import psycopg

        self.connection = psycopg.connect(host=folder, user="keeper", password=PASSWORD, dbname=name, autocommit=True)

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        return self.connection.execute(query, values).fetchall()

    def state(self, job: str) -> str:
        return str(self.rows("SELECT state FROM backups_job WHERE id = %s", job)[0][0])

    def ended(self, job: str, within: float = 40.0) -> str:
        until(lambda: self.state(job) not in ("queued", "running"), within)
        return self.state(job)


@pytest.fixture(scope="module")
def hosts(postgres: str, redis_server: RedisServer, empty_places, tmp_path_factory) -> Iterator[tuple[Host, Host, Control]]:
    """Hosts ``north`` and ``south``: migrated, with their schedules, and with workers that run."""
    import shutil

    address = make_database(postgres, "control")
    password = tmp_path_factory.mktemp("secrets") / "control"
    password.write_text(PASSWORD)
    found = []
    for name in ("north", "south"):
        places = Places(tmp_path_factory.mktemp(name) / "library")
        shutil.copytree(empty_places.root, places.root)
        (places.root / "run").mkdir(exist_ok=True)
        environment = places.environment | {
            "DJANGO_SETTINGS_MODULE": "tests.control.chore_settings",
            "REFSERVER_HOST": name,
            "REFSERVER_CONTROL_DATABASE": address,
            "REFSERVER_CONTROL_DATABASE_PASSWORD_FILE": str(password),
            "REFSERVER_QUEUE": redis_server.address.replace("redis://", f"redis://:{PASSWORD}@"),
        }
        found.append(Host(name, places, environment))
    north, south = found
    done = north.manage("migrate", "--database", "control", "--verbosity", "0")
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        for host in found:
            subprocess.run(
                [sys.executable, "-m", "backups.engine", "init", "--repo", str(host.places.root / "backups")],
                cwd=ROOT,
                check=True,
            )
            guard = host.start()
            stack.callback(guard.wait, 20)
            stack.callback(guard.terminate)
        control = Control(postgres, "control")
        stack.callback(control.connection.close)
        yield north, south, control


def test_job_goes_only_to_the_host_with_the_data(hosts):
    north, south, control = hosts
    asked = {north.python(ASK, "backup", name, '{"only": ["sqlite"], "verify": "none"}'): name for name in ("south", "north")}
    for job in asked:
        assert control.ended(job) == "succeeded"
    for host in (north, south):
        [manifest] = (host.places.root / "backups" / "backups").glob("*/*/manifest.json")
        assert asked[json.loads(manifest.read_text())["job"]] == host.name
    until(lambda: [host.said().count("Back up") for host in (north, south)] == [1, 1])  # each logged by its own worker


def test_each_host_has_its_tick_and_heartbeat(hosts):
    *_, control = hosts
    ticks = control.rows("SELECT cluster FROM django_q_schedule WHERE func = 'backups.worker.tasks.tick' ORDER BY cluster")
    assert ticks == [("north",), ("south",)]
    assert control.rows("SELECT host FROM backups_worker ORDER BY host") == [("north",), ("south",)]


def test_claiming_is_exclusive_on_postgresql(hosts):
    """Two transactions that count at the same time see neither's claim: an advisory lock makes them take turns."""
    north, _, control = hosts
    environment = north.environment | {"REFSERVER_HOST": "test-host"}  # a host without workers
    many = "\n".join(line for line in ASK.splitlines() if not line.startswith(("kind,", "job =", "print")))
    north.python(
        many
        + """
for number in range(12):
    kind = job_type("writing_chore" if number % 2 else "chore")
    lifecycle.enqueue(kind, {}, Actor(name="tester", via=Job.Via.COMMAND), host="test-host")
"""
    )
    ids = check_claims(claim_in(3, environment, "end"), at_once=2)
    assert len(ids) >= 10
    control.rows("UPDATE backups_job SET state = 'cancelled' WHERE host = 'test-host' AND state = 'queued' RETURNING id")


def test_audit_is_append_only_and_intact_under_many_writers(hosts):
    import psycopg

    north, south, control = hosts
    record = "from backups.identity import audit\nfor _ in range(10): audit.record(audit.SYSTEM, 'test.noted')"
    writers = [
        subprocess.Popen([sys.executable, "-c", f"import django; django.setup()\n{record}"], env=host.environment, cwd=ROOT)
        for host in (north, south, north)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert north.python("from backups.identity import audit\nprint(audit.verify_chain()[1])") == "None"
    assert control.rows("SELECT count(*) FROM backups_auditentry WHERE action = 'test.noted'") == [(30,)]
    for change in ("UPDATE backups_auditentry SET who = 'nobody'", "DELETE FROM backups_auditentry"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            control.rows(change)


def test_job_of_a_killed_worker_is_found_without_redis(hosts):
    north, _, control = hosts
    job = north.python(ASK, "chore", "north", '{"seconds": 30}')
    until(lambda: control.rows("SELECT child FROM backups_job WHERE id = %s AND child <> ''", job))
    worker = str(control.rows("SELECT worker FROM backups_job WHERE id = %s", job)[0][0])
    kill(int(worker.split(":")[1]))
    assert control.ended(job) == "interrupted"
    [(again,)] = control.rows("SELECT id FROM backups_job WHERE again_after_id = %s", job)
    control.rows("UPDATE backups_job SET state = 'cancelled' WHERE id = %s RETURNING id", again)


def test_redis_outage_loses_no_job(hosts, redis_server):
    north, _, control = hosts
    redis_server.stop()
    job = north.python(ASK, "chore", "north", "{}")  # the job is queued, its message is lost
    until(lambda: "Redis cannot be reached" in north.said(), 20)
    assert control.state(job) == "queued"
    redis_server.start()
    until(lambda: "Redis can be reached again" in north.said(), 20)
    north.python("import sys\nfrom backups.jobs import queue\nqueue.wake('north')")  # as the next minute's tick does
    assert control.ended(job) == "succeeded"


def test_passwords_appear_nowhere(hosts):
    north, south, _ = hosts
    show = "from django.core.management import call_command as call\nfrom django.conf import settings\n"
    shown = north.python(show + "call('locations')\nprint(settings.BACKUPS, settings.BACKUPS['QUEUE']['url'])")
    assert "postgresql://keeper@/control" in shown
    for what in (shown, north.said(), south.said()):
        assert PASSWORD not in what
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert PASSWORD.encode() not in entry.read_bytes()
        except OSError:
            continue
