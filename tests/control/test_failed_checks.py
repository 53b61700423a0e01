"""A verification that ended without a proof: the backup is not shown as verified until a later one succeeds."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from backups.catalog import index
from backups.jobs import lifecycle, submit
from backups.jobs.reconcile import reconcile
from backups.models import IndexedBackup, Job
from backups.monitoring import verdict
from tests.control.conftest import HOST
from tests.restore.stores import ROOT

pytestmark = pytest.mark.slow


def test_a_verification_that_was_stopped_leaves_the_backup_unverified(site):
    made = site.done(submit.back_up(site.actor, backup="full")).backup_id
    stopped = submit.verify(site.actor, depth="restore")
    Job.objects.filter(pk=stopped.pk).update(limit=0)
    stopped = site.done(stopped)
    assert (stopped.state, stopped.error["code"]) == (Job.State.FAILED, "limit")
    client = site.client("root", superuser=True)
    for everything in (False, True):
        index.refresh("main", everything=everything)
        row = IndexedBackup.objects.get(backup_id=made)
        assert row.verification == "none" and row.check_failed == stopped.error["message"] and row.verified_at
    page = client.get(row.get_absolute_url()).content.decode()
    assert "The last verification failed on " in page and " without a result." in page and "time limit" in page
    assert "Check failed" in client.get("/admin/backup/backups/").content.decode()
    answer = client.get(f"/api/v1/backups/{made}").json()
    assert (answer["proof"], answer["check_failed"]) == ("none", row.check_failed) and answer["check_failed_at"]
    now = verdict.now()
    assert now.newest is None and now.counts.proven == 0 and "check_failed" in {reason.code for reason in now.reasons}
    # The clock was ahead then, and has been set back
    IndexedBackup.objects.update(check_failed_at=timezone.now() + timedelta(days=1))
    assert site.done(submit.verify(site.actor)).state == Job.State.SUCCEEDED
    row.refresh_from_db()
    assert row.verification == "restore" and row.check_failed_at is None and row.check_failed == ""


def test_damage_that_could_not_be_recorded_is_shown(site):
    made = site.done(submit.back_up(site.actor, backup="full")).backup_id
    archive = site.repository.backup_folder("default", made) / "data.tar.zst"
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 1
    archive.write_bytes(content)
    # No file may grow, as on a full disk
    command = ["prlimit", "--fsize=0", sys.executable, "-m", "backups.engine", "verify", made, "--json"]
    done = subprocess.run([*command, "--repo", site.repository.folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert not site.repository.load("default", made).damaged, "nothing was recorded"
    values = {"kind": "verify", "host": HOST, "repository": "main", "set": "default", "started": timezone.now()}
    job = Job.objects.create(state="failed", arguments={"backup_ids": [made]}, result=json.loads(done.stdout), **values)
    for _ in range(2):
        index.note_job(job)
        row = IndexedBackup.objects.get(backup_id=made)
        assert row.verification == "damaged" and row.problem == job.result["results"][0]["problems"][0]["message"]
        index.refresh("main", everything=True)
    content[len(content) // 3] ^= 1
    archive.write_bytes(content)
    assert site.done(submit.verify(site.actor, backup_ids=[made])).state == Job.State.SUCCEEDED
    row.refresh_from_db()
    assert row.verification == "restore" and not row.check_found_damage


def test_a_verification_that_never_began_changes_nothing(site):
    made = site.done(submit.back_up(site.actor, backup="full")).backup_id
    error = {"code": "repository_locked", "message": "The repository is locked.", "hint": ""}
    values = {"kind": "verify", "host": HOST, "repository": "main", "set": "default", "started": timezone.now()}
    for state in ("failed", "cancelled"):
        index.note_job(Job.objects.create(state=state, error=error, arguments={"backup_ids": [made]}, **values))
        assert IndexedBackup.objects.get(backup_id=made).verification == "restore"


def test_a_worker_that_died_while_it_verified_is_told_on_the_backup(empty_site):
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="hashes")).backup_id
    job = submit.verify(empty_site.actor, backup_ids=[made], set="default-sqlite")
    assert lifecycle.claim(HOST, "gone:1:1") == job and reconcile(HOST) == [job]
    row = IndexedBackup.objects.get(backup_id=made)
    assert row.verification == "none" and row.check_failed.startswith("The worker died before the job ended")
