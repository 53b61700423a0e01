"""Consistency jobs: check, repair after a snapshot, undo; the audit, proofs and alerts record them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from backups.alerts import default_rules, evaluation
from backups.catalog import holds
from backups.engine.errors import UsageError
from backups.identity import audit
from backups.identity.audit import Actor
from backups.jobs import submit
from backups.models import Alert, AuditEntry, IndexedBackup, Job, Plan
from backups.plans import defaults, editing, scheduling
from backups_consistency.frame import queue_once
from consistency.frame import Work
from consistency.models import Check, Finding, Repair, Step
from refserver.library.models import Embedding, Metadata, PageEmbedding, Paper
from refserver.library.vectors import store
from tests.consistency.indexes import index_on_disk, segment_of
from tests.control.consistency_site import ASKS, PLANTED, SAFE, joined, plant, vectors_of
from tests.control.test_consistency_pages import QUICK

pytestmark = pytest.mark.slow

ADA = Actor(name="ada", id="7", via=Job.Via.PAGES)


@pytest.fixture
def joined_site(site):
    with override_settings(BACKUPS=joined(site.places)):
        yield site


def done(site, actor: Actor, **work) -> dict:
    """The result of a job that must succeed."""
    job = site.done(queue_once(actor, Work(**work)))
    assert job.state == Job.State.SUCCEEDED, job.error
    assert job.backup_id == ""
    return job.result


def test_findings_alert_repair_and_undo(joined_site):
    default_rules.install()
    defaults.install()
    plant(joined_site.places)
    spoiled, rows = vectors_of(), PageEmbedding.objects.count()
    found = done(joined_site, ADA, do="check")
    assert (found["state"], found["kinds"], found["new"]) == ("inconsistent", PLANTED, sum(PLANTED.values()))
    assert Check.objects.get(pk=found["id"]).actor == "ada"

    evaluation.decide(timezone.now())
    alert = Alert.objects.get(rule="consistency")
    assert alert.text.startswith("SQLite and Chroma disagree: 10 findings (")

    safe = done(joined_site, ADA, do="repair", check=found["id"])
    assert safe["repair"]["steps"] == {"applied": SAFE}
    assert set(safe["again"]["kinds"]) == {"missing_in_sqlite", "orphaned_chromadb", "count_mismatch"}
    whole = done(joined_site, ADA, do="repair", check=safe["again"]["id"], everything=True)
    assert whole["repair"]["steps"] == {"applied": ASKS} and whole["again"]["state"] == "consistent"
    snapshot = IndexedBackup.objects.filter(backup_id=whole["repair"]["snapshot"]).first() or _refreshed(whole)
    assert (snapshot.kind, snapshot.verification) == ("snapshot", "hashes")

    evaluation.decide(timezone.now() + timedelta(hours=1))
    alert.refresh_from_db()
    assert alert.resolved is not None

    for made in (whole, safe):
        done(joined_site, ADA, do="undo", repair=made["repair"]["id"])
    assert vectors_of() == spoiled and PageEmbedding.objects.count() == rows
    assert set(Repair.objects.values_list("actor", "undone_by", "state")) == {("ada", "ada", "undone")}
    evaluation.decide(timezone.now() + timedelta(hours=2))
    again = Alert.objects.get(rule="consistency", resolved=None)
    assert again.text.startswith("SQLite and Chroma disagree: 10 findings ("), "an undo checks again"
    told = AuditEntry.objects.filter(action__contains="repair").values_list("who", "action")
    assert {
        "repair_consistency.requested",
        "repair_consistency.succeeded",
        "undo_repair.requested",
        "undo_repair.succeeded",
    } == {action for who, action in told if who == "ada"}
    assert audit.verify_chain()[1] is None


def _refreshed(made: dict) -> IndexedBackup:
    from backups.catalog import index

    index.refresh("main")
    return IndexedBackup.objects.get(backup_id=made["repair"]["snapshot"])


def test_the_daily_plan_repairs_safe_findings_unless_any_is_critical(joined_site):
    assert "daily-consistency" in defaults.install()
    plan = Plan.objects.get(name="daily-consistency")
    pages = plant(joined_site.places)
    PageEmbedding.objects.filter(pk=pages[5]).update(vector=b"\0" * 16)  # wrong dimension: critical
    job = joined_site.done(scheduling.run(plan, joined_site.actor))
    assert job.state == Job.State.SUCCEEDED, job.error
    assert job.result["state"] == "critical" and "1 critical finding, so nothing" in job.result["left_alone"]
    assert not Repair.objects.exists()
    PageEmbedding.objects.filter(pk=pages[5]).delete()
    job = joined_site.done(scheduling.run(plan, joined_site.actor))
    assert job.state == Job.State.SUCCEEDED, job.error
    assert job.result["repair"]["steps"]["applied"] == SAFE and job.result["again"]["kinds"].keys() == {
        "missing_in_sqlite",
        "orphaned_chromadb",
        "count_mismatch",
    }
    with pytest.raises(UsageError, match="undo_repair cannot be planned"):
        editing.make_plan(joined_site.actor, "x", kind="undo_repair", cron="0 3 * * *", arguments={"repair": 1})


def test_a_repair_needs_its_snapshot(joined_site):
    plant(joined_site.places)
    check = done(joined_site, ADA, do="check")["id"]
    (joined_site.places.root / "backups" / "repository.json").unlink()
    spoiled = vectors_of()
    job = joined_site.done(queue_once(ADA, Work(do="repair", check=check)))
    assert job.state == Job.State.FAILED and job.error["message"].startswith("No snapshot could be made before the repair")
    assert not Repair.objects.exists() and vectors_of() == spoiled


def test_a_queued_check_is_not_queued_twice(joined_site):
    first = queue_once(ADA, Work(do="check"))
    assert queue_once(joined_site.actor, Work(do="check")) == first
    assert queue_once(joined_site.actor, Work(do="undo", repair=1)) != queue_once(ADA, Work(do="undo", repair=2))


def test_a_proof_records_findings_without_damaging_the_backup(joined_site):
    plant(joined_site.places)
    job = joined_site.done(submit.back_up(ADA, backup="full", verify="restore"))
    assert job.state == Job.State.SUCCEEDED, job.error
    _, backup = holds.stored(IndexedBackup.objects.get())
    [proof] = backup.proofs
    told = proof.checks["application"]
    assert proof.ok and told["status"] == 5
    assert (told["answer"]["kinds"], told["answer"]["left_out"]) == (PLANTED, [])
    page = joined_site.client("eve", "viewer").get(f"/admin/backup/backups/{backup.id}/").content.decode()
    assert "Sound" in page and "The source had these findings at the cut" in page and "Metadata mismatch 1" in page


def test_lost_paper_is_restored_from_a_backup(joined_site):
    with override_settings(CONSISTENCY=QUICK):
        kept = joined_site.done(submit.back_up(joined_site.actor, backup="full", verify="none"))
        paper = Paper.objects.get(title="Attention Is All You Need")
        facts = list(Metadata.objects.filter(paper=paper).values_list())
        with closing(sqlite3.connect(joined_site.places.settings["REFSERVER_DATABASE"])) as database, database:
            for table in ("embedding", "pageembedding", "metadata"):
                database.execute(f"DELETE FROM library_{table} WHERE paper_id = ?", (paper.pk,))
            database.execute("DELETE FROM library_paper WHERE id = ?", (paper.pk,))
        joined_site.done(submit.back_up(joined_site.actor, backup="incremental", verify="none"))
        check = done(joined_site, ADA, do="check")
        client = joined_site.client("root", superuser=True)
        lost = Finding.objects.get(belongs_to=check["id"], record=f"paper-{paper.pk}", kind="orphaned_chromadb")
        page = client.get(f"/admin/consistency/findings/{lost.pk}/").content.decode()
        assert "Restore the row from a backup" in page and "completes the loss" in page
        answer = client.post(f"/admin/consistency/checks/{check['id']}/repair/", {"scope": "rows"})
        assert answer.status_code == 302
        job = joined_site.done(Job.objects.get(kind="repair_consistency"))
        assert job.state == Job.State.SUCCEEDED and job.result["again"]["state"] == "consistent", job.error
        assert list(Metadata.objects.filter(paper=paper).values_list()) == facts
        assert Paper.objects.get(pk=paper.pk) == paper and Embedding.objects.filter(paper=paper).exists()
        assert Step.objects.filter(state="applied", note__startswith=f"From backup {kept.backup_id}").exists()
        assert not any(joined_site.repository.scratch.iterdir())


@pytest.mark.parametrize("damage", ["a link", "half of a file"])
def test_a_broken_index_is_rebuilt_after_a_snapshot(joined_site, damage):
    ids = [f"page-{key}" for key in PageEmbedding.objects.values_list("pk", flat=True)]
    index_on_disk(store(), ids)
    file = segment_of(store()) / "data_level0.bin"
    content = bytearray(file.read_bytes())
    content[7] ^= 0x80
    file.write_bytes(content if damage == "a link" else content[: len(content) // 2])
    found = done(joined_site, ADA, do="check")
    assert (found["state"], found["kinds"]) == ("inconsistent", {"broken_index": 1})
    whole = done(joined_site, ADA, do="repair", check=found["id"], everything=True)
    assert whole["repair"]["steps"] == {"applied": 1} and whole["again"]["state"] == "consistent"
    kept = IndexedBackup.objects.filter(backup_id=whole["repair"]["snapshot"]).first() or _refreshed(whole)
    assert (kept.kind, kept.verification) == ("snapshot", "hashes")  # of SQLite alone
