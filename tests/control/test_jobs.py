"""A job from its request to its end."""

from __future__ import annotations

import pytest

from backups.engine.errors import RestoreRefused, UsageError
from backups.identity import audit
from backups.jobs import lifecycle, submit
from backups.models import AuditEntry, IndexedBackup, Job
from refserver.library.models import Paper


@pytest.mark.slow
def test_backup_is_made_verified_and_indexed(site):
    job = submit.back_up(site.actor, backup="full", note="by hand")
    assert job.state == Job.State.QUEUED
    job = site.done(job)
    assert job.state == Job.State.SUCCEEDED, job.error
    row = IndexedBackup.objects.get(backup_id=job.backup_id)
    assert (row.kind, row.verification, row.note, row.job) == ("full", "restore", "by hand", str(job.pk))
    assert [phase["name"] for phase in job.phases][:2] == ["cut", "store"]
    assert all(phase["seconds"] is not None for phase in job.phases)
    assert job.log.filter(line__contains="writers were held up").exists()
    assert audit.verify_chain()[1] is None
    actions = list(AuditEntry.objects.order_by("number").values_list("action", flat=True))
    assert actions == ["backup.requested", "backup.succeeded"]


@pytest.mark.slow
def test_one_writer_per_repository_and_others_wait(site):
    first = submit.back_up(site.actor, backup="full")
    second = submit.back_up(site.actor, backup="full")
    reader = submit.verify(site.actor, everything=True)
    assert lifecycle.claim("test-host", "me") == first
    assert lifecycle.claim("test-host", "me") == reader  # the second backup waits for the first
    assert lifecycle.claim("test-host", "me") is None
    assert lifecycle.end(Job.objects.get(pk=first.pk), Job.State.FAILED, error={"code": "no_space", "message": "full"})
    assert lifecycle.claim("test-host", "me") == second


def test_job_of_another_host_is_not_claimed(site):
    job = submit.back_up(site.actor, backup="full")
    Job.objects.filter(pk=job.pk).update(host="elsewhere")
    assert site.work() == 0


def test_invalid_arguments_are_refused_before_queueing(site):
    with pytest.raises(UsageError, match=r"backup: .*'full'"):
        submit.back_up(site.actor, backup="complete")
    with pytest.raises(UsageError, match="none of the stores"):
        submit.back_up(site.actor, only=["chroma:other"])
    assert not Job.objects.exists() and not AuditEntry.objects.exists()


def test_transient_failure_is_retried(site):
    site.repository.folder.joinpath("repository.json").rename(site.places.root / "aside.json")
    job = site.done(submit.back_up(site.actor, backup="full"))
    assert (job.state, job.error["code"]) == (Job.State.FAILED, "no_repository")
    assert not hasattr(job, "tried_again")  # another attempt would fail too
    Job.objects.filter(pk=job.pk).update(state=Job.State.RUNNING, claim="x")
    job.refresh_from_db()
    assert lifecycle.end(job, Job.State.FAILED, error={"code": "source_busy", "message": "locked"})
    again = job.tried_again
    assert (again.state, again.attempt, again.again_after) == (Job.State.QUEUED, 2, job)
    assert again.not_before > job.finished
    assert lifecycle.claim("test-host", "me") is None  # not yet


def test_worker_that_lost_its_claim_changes_nothing(site):
    job = submit.back_up(site.actor, backup="full")
    mine = lifecycle.claim("test-host", "me")
    Job.objects.filter(pk=job.pk).update(claim="somebody else")
    assert not lifecycle.beat(mine, phase="mine")
    assert not lifecycle.end(mine, Job.State.SUCCEEDED)
    job.refresh_from_db()
    assert (job.state, job.phase) == (Job.State.RUNNING, "")


@pytest.mark.slow
def test_backup_of_one_store_goes_to_its_own_set(site):
    job = site.done(submit.back_up(site.actor, backup="full", only=["sqlite"]))
    assert job.state == Job.State.SUCCEEDED, job.error
    row = IndexedBackup.objects.get()
    assert row.set == "default-sqlite" and [source["kind"] for source in row.sources] == ["sqlite"]


@pytest.mark.slow
def test_restore_in_place_needs_the_id_and_spares_the_control_database(site):
    made = site.done(submit.back_up(site.actor, set="control"))
    with pytest.raises(RestoreRefused, match="not the id of the backup"):
        submit.restore_in_place(site.actor, backup_id=made.backup_id, typed="yes")
    with pytest.raises(RestoreRefused, match="holds the control database"):
        submit.restore_in_place(site.actor, backup_id=made.backup_id, typed=made.backup_id)
    assert Job.objects.count() == 1


@pytest.mark.slow
def test_damage_found_by_a_job_is_reported(site):
    made = site.done(submit.back_up(site.actor, backup="full"))
    data = site.repository.backup_folder("default", made.backup_id) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x55
    data.write_bytes(content)
    job = site.done(submit.verify(site.actor, backup_ids=[made.backup_id]))
    assert (job.state, job.error["code"]) == (Job.State.FAILED, "damaged")
    assert job.result["results"][0]["problems"]
    assert IndexedBackup.objects.get().verification == "damaged"


@pytest.mark.slow
def test_restore_in_place_restores_both_stores_and_keeps_the_jobs(site):
    made = site.done(submit.back_up(site.actor, backup="full"))
    title = Paper.objects.order_by("pk").first().title
    Paper.objects.update(title="changed")
    job = site.done(submit.restore_in_place(site.actor, backup_id=made.backup_id, typed=made.backup_id))
    assert job.state == Job.State.SUCCEEDED, job.error
    assert Paper.objects.order_by("pk").first().title == title
    safety = IndexedBackup.objects.get(safety=True)
    assert safety.held and safety.backup_id == job.result["checks"]["safety_backup"]
    assert Job.objects.count() == 2 and audit.verify_chain()[1] is None


@pytest.mark.slow
def test_backup_of_some_stores_is_restored_store_by_store(site):
    made = site.done(submit.back_up(site.actor, backup="full", only=["sqlite"]))
    whole = site.done(submit.restore_in_place(site.actor, backup_id=made.backup_id, typed=made.backup_id))
    assert (whole.state, whole.error["code"]) == (
        Job.State.FAILED,
        "restore_refused",
    )  # the other stores would be of another time
    store = site.done(submit.restore_in_place(site.actor, backup_id=made.backup_id, typed=made.backup_id, only="sqlite"))
    assert store.state == Job.State.SUCCEEDED, store.error
