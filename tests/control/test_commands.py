"""Management commands: like `refbackup`, on the project's repository and stores, with audit and index kept up to date."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import find_commands, load_command_class
from django.utils import timezone

from backups.engine import cli
from backups.identity import audit
from backups.jobs import heartbeat, lifecycle, submit
from backups.jobs.types import job_type
from backups.management.engine import EngineCommand
from backups.models import AuditEntry, IndexedBackup, Job, Plan, Worker
from backups.monitoring import health
from backups.plans import editing
from tests.control.conftest import HOST

SAME = {
    "backup_create": "create",
    "backup_restore": "restore",
    "backup_verify": "verify",
    "backup_prune": "prune",
    "backup_drill": "drill",
}
DJANGO = {"help", "version", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color", "skip_checks"}


def run(command: str, *arguments: object) -> tuple[int, str, str]:
    """A command in this process, as `manage.py` would run it: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    made = load_command_class("backups", command)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        made.stdout._out, made.stderr._out = out, err
        try:
            made.run_from_argv(["manage.py", command, *map(str, arguments)])
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def told(command: str, *arguments: object) -> tuple[int, dict]:
    code, said, _ = run(command, *arguments, "--json", "--progress", "none")
    return code, json.loads(said)


def actions() -> list[str]:
    return list(AuditEntry.objects.order_by("number").values_list("action", flat=True))


@pytest.mark.parametrize(("command", "verb"), SAME.items())
def test_arguments_are_the_engines(command, verb):
    def options(parser: argparse.ArgumentParser) -> dict[str, tuple]:
        return {
            action.dest: (tuple(action.option_strings), action.nargs, action.type, action.default, tuple(action.choices or ()))
            for action in parser._actions
            if action.dest not in DJANGO
        }

    made = load_command_class("backups", command)
    assert isinstance(made, EngineCommand)
    assert options(made.create_parser("manage.py", command)) == options(cli.parser_of(verb))


@pytest.mark.slow
def test_from_a_backup_to_a_restored_copy(site):
    code, made = told("backup_create", "--note", "by hand")
    assert code == 0 and made["set"] == "default" and made["verification"] == "restore"
    assert {source["kind"] for source in made["sources"]} == {"sqlite", "chroma", "files"}
    row = IndexedBackup.objects.get()
    assert (row.backup_id, row.note) == (made["id"], "by hand"), "it is in the index at once"
    code, second = told("backup_create", "--kind", "incremental", "--no-verify")
    assert (code, second["parent"]) == (0, made["id"])
    code, proven = told("backup_verify", "--all", "--depth", "restore")
    assert code == 0 and len(proven["results"]) == 2
    assert IndexedBackup.objects.filter(verification="restore").count() == 2
    code, drilled = told("backup_drill")
    assert code == 0 and drilled["results"][0]["id"] == second["id"]
    target = site.places.root / "copy"
    code, restored = told("backup_restore", "latest", "--to", target)
    assert code == 0 and restored["id"] == second["id"] and (target / "sqlite" / "refserver.sqlite3").exists()
    code, pruned = told("backup_prune", "--keep-last", 1, "--dry-run")
    assert code == 0 and {item["id"] for item in pruned["kept"]} == {made["id"], second["id"]}
    asked = AuditEntry.objects.filter(action="backup.requested").order_by("number").first()
    assert asked.via == "command" and asked.after["note"] == "by hand" and asked.who
    assert AuditEntry.objects.get(action="prune.requested").after["keep_last"] == 1
    assert actions().count("backup.succeeded") == 2 and "restore.succeeded" in actions()


@pytest.mark.slow
def test_restore_in_place_replaces_live_stores_and_audits_accounts(site):
    _, made = told("backup_create")
    site.person("mallory", superuser=True)
    code, _, said = run("backup_restore", "latest", "--in-place")
    assert code == 1 and "there is no terminal" in said, "without a terminal --yes is needed"
    code, planned = told("backup_restore", "latest", "--in-place", "--dry-run")
    assert code == 0 and planned["id"] == made["id"]
    code, restored = told("backup_restore", "latest", "--in-place", "--yes")
    assert code == 0 and restored["id"] == made["id"]
    from django.contrib.auth import get_user_model

    assert not get_user_model().objects.filter(username="mallory").exists()
    assert AuditEntry.objects.get(action="restore_in_place.accounts").after["counts"]["vanish"] == 1
    assert IndexedBackup.objects.filter(safety=True).count() == 1


@pytest.mark.slow
def test_control_database_is_not_restored_by_commands_that_use_it(site):
    code, made = told("backup_create", "--set", "control", "--no-verify")
    assert code == 0 and [source["name"] for source in made["sources"]] == ["control"]
    code, refused = told("backup_restore", made["id"], "--in-place", "--yes")
    assert code == 1 and refused["error"]["code"] == "restore_refused" and "refbackup restore" in refused["error"]["hint"]
    assert actions()[-1] == "restore.failed"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("backup_restore", "latest", "--to", "copy"), 4, "no_backup"),
        (("backup_create", "--repo", "/nowhere/at/all"), 3, "no_repository"),
        (("backup_restore", "latest"), 2, "usage"),
        (("backup_create", "--kind", "half"), 2, "usage"),
        (("backup_prune",), 2, "usage"),
        (("backup_prune", "--keep-last", 1), 4, "no_backup"),
        (("backup_verify", "--all"), 4, "no_backup"),
        (("backup_verify", "--all", "--set", "typo"), 4, "no_backup"),
        (("backup_drill", "--no-such-thing"), 2, "usage"),
    ],
)
def test_exit_codes_and_errors_are_the_engines(empty_site, arguments, code, error):
    command, *rest = arguments
    found, said = told(command, *rest)
    assert (found, said["error"]["code"]) == (code, error)
    assert said["error"]["hint"]


@pytest.mark.slow
def test_nothing_is_done_when_the_audit_cannot_be_written(site):
    from django.db import connections

    with connections["control"].cursor() as cursor:
        cursor.execute("ALTER TABLE backups_auditentry RENAME TO elsewhere")
    code, said = told("backup_create")
    assert code == 1 and "Nothing was done" in said["error"]["message"] and "`refbackup`" in said["error"]["hint"]
    assert not list(site.repository.ids("default"))


@pytest.mark.slow
def test_repository_can_be_given_by_name(site):
    code, made = told("backup_create", "--repo", "main", "--no-verify")
    assert code == 0 and IndexedBackup.objects.get().backup_id == made["id"]


@pytest.mark.slow
def test_real_process_ends_with_the_engines_code(empty_site):
    done = empty_site.places.manage("backup_verify", "--json")
    assert done.returncode == 4 and json.loads(done.stdout)["error"]["code"] == "no_backup", done.stderr


# Health


@pytest.fixture
def sound(site):
    """A site without findings."""
    for name in ("default", "control"):
        assert site.done(submit.back_up(site.actor, backup="full", set=name, verify="hashes")).state == Job.State.SUCCEEDED
    heartbeat.beat()
    for name in ("default", "control"):
        Plan.objects.create(
            name=f"hourly-{name}", kind="backup", cron="0 * * * *", arguments={"backup": "incremental", "set": name}
        )
    return site


def codes() -> dict[str, str]:
    return {finding.code: finding.severity.value for finding in health.run_checks(timezone.now()).findings}


@pytest.mark.slow
def test_each_planted_fault_is_found(sound):
    """One site for many faults, because making a site takes longer than checking it."""
    found = health.run_checks(timezone.now())
    assert [finding for finding in found.findings if finding.code != "little_space"] == []
    assert set(found.checks) == {"repositories", "sources", "safety", "plans", "jobs", "audit"}
    IndexedBackup.objects.all().delete()
    assert "nothing" not in codes() and IndexedBackup.objects.count() == 2, "the index is brought up to date first"

    old = timezone.now() - timedelta(hours=7)
    Job.objects.create(kind="health", host=HOST, state=Job.State.RUNNING, heartbeat=old, started=old, created=old)
    Job.objects.create(kind="health", host=HOST, not_before=old, created=old)
    assert {"stale_job", "waiting_jobs"} <= codes().keys()
    Job.objects.filter(kind="health").delete()

    plan = Plan.objects.create(name="wrong", kind="backup", cron="0 3 * * *", arguments={"set": "nothing"})
    audit.record(audit.SYSTEM, "plan.refused", "plan:wrong", after={"error": "There is no set 'nothing'."})
    assert codes()["plan_refused"] == "warning"
    editing.change_plan(sound.actor, plan, arguments={"backup": "full"})
    assert "plan_refused" not in codes(), "once it is fixed"

    audit.record(audit.SYSTEM, "audit.verified", "audit", after={"entries": 1, "broken": {"number": 2, "why": "it is gone"}})
    assert codes()["audit_broken"] == "critical"
    audit.record(audit.SYSTEM, "audit.verified", "audit", after={"entries": 1, "broken": None})
    assert "audit_broken" not in codes()

    Worker.objects.update(beat=timezone.now() - timedelta(hours=1))
    heartbeat.heartbeat_file().unlink()
    assert any("worker" in finding.message.lower() for finding in health.run_checks(timezone.now()).findings)
    heartbeat.beat()

    (sound.places.root / "backups").rename(sound.places.root / "moved")
    assert codes()["repository_missing"] == "critical"
    (sound.places.root / "moved").rename(sound.places.root / "backups")
    assert "repository_missing" not in codes()


@pytest.mark.slow
def test_health_command_has_exit_codes_and_runs_as_a_job(sound):
    code, said, _ = run("backup_health")
    assert (code, said.partition(":")[0]) in ((0, "OK"), (1, "WARNING"))
    job = sound.done(lifecycle.enqueue(job_type("health"), {}, sound.actor))
    assert job.result["status"] in ("ok", "warning")
    Plan.objects.create(name="never", kind="health", cron="99 * * * *")
    code, said, _ = run("backup_health")
    assert (
        code == 1
        and "The plan never is never due: '99 * * * *' is not a cron expression: bad minute." in said
        and "-> Correct" in said
    )
    job = sound.done(lifecycle.enqueue(job_type("health"), {}, sound.actor))
    assert job.state == Job.State.FAILED and "The plan never is never due" in str(job.error)
    (sound.places.root / "backups").rename(sound.places.root / "moved")
    code, said, _ = run("backup_health", "--json")
    assert code == 2 and json.loads(said)["problems"][0]["severity"] == "critical"


def test_failing_check_is_a_finding_and_others_run(empty_site, monkeypatch):
    def breaks():
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(health, "PROBES", {"disk": breaks, **health.PROBES})
    found = health.run_checks(timezone.now())
    (finding,) = [finding for finding in found.findings if finding.check == "disk"]
    assert finding.severity == "critical" and "Input/output error" in finding.message
    assert any(finding.check == "safety" for finding in found.findings)


def test_names_are_unmistakable_and_the_earlier_ones_stay_in_refserver():
    def names(app: str) -> set[str]:
        return set(find_commands(str(Path(apps.get_app_config(app).path) / "management")))

    assert all(name.startswith(("backup_", "backups_")) for name in names("backups"))
    assert all(name.startswith("consistency_") for name in names("consistency"))
    earlier = {"backup", "restore", "verify_backups", "prune_backups", "drill", "qcluster", "create_token", "check_consistency"}
    assert earlier <= names("refserver")
    for name in names("refserver") - {"locations", "make_admin", "serve"}:
        made = load_command_class("refserver", name)
        assert type(made).__module__.startswith(("backups.", "consistency."))
