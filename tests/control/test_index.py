"""The index equals the repository, however that changed."""

from __future__ import annotations

import shutil

import pytest

from backups.catalog import holds, index
from backups.jobs import submit
from backups.models import IndexedBackup, Job

pytestmark = pytest.mark.slow


def rows() -> list[tuple[object, ...]]:
    fields = [field.name for field in IndexedBackup._meta.concrete_fields if not field.primary_key]
    return list(IndexedBackup.objects.order_by("backup_id").values_list(*fields))


def test_index_is_rebuilt_from_the_repository_alone(site):
    full = site.done(submit.back_up(site.actor, backup="full", note="kept"))
    site.done(submit.back_up(site.actor, backup="incremental"))
    holds.hold(site.actor, holds.indexed(full.backup_id), "for the auditor")
    before = rows()
    IndexedBackup.objects.all().delete()
    assert index.refresh("main") == index.Change(found=2, read=2, forgotten=0)
    assert rows() == before
    assert index.refresh("main") == index.Change(found=2, read=0, forgotten=0)


def test_changes_by_others_are_noticed(site):
    first = site.done(submit.back_up(site.actor, backup="full")).backup_id
    second = site.done(submit.back_up(site.actor, backup="full")).backup_id
    manage = site.places.python("-m", "backups.engine", "hold", first, "--repo", site.repository.folder, "--note", "mine")
    assert manage.returncode == 0, manage.stderr
    shutil.rmtree(site.repository.backup_folder("default", second))
    assert index.refresh("main") == index.Change(found=1, read=1, forgotten=0, missing=1)
    row = IndexedBackup.objects.get(backup_id=first)
    assert (row.held, row.hold_note) == (True, "mine")


def test_backup_with_broken_manifest_is_damaged(site):
    made = site.done(submit.back_up(site.actor, backup="full")).backup_id
    (site.repository.backup_folder("default", made) / "manifest.json").write_text("{")
    index.refresh("main", everything=True)
    row = IndexedBackup.objects.get()
    assert (row.verification, row.kind) == ("damaged", "full") and "manifest" in row.problem


def test_each_job_leaves_the_index_equal_to_the_repository(site):
    full = site.done(submit.back_up(site.actor, backup="full")).backup_id
    child = site.done(submit.back_up(site.actor, backup="incremental")).backup_id
    site.done(submit.verify(site.actor, everything=True, depth="restore"))
    assert site.done(submit.delete(site.actor, [child, full])).state == Job.State.SUCCEEDED
    site.done(submit.back_up(site.actor, backup="full"))
    site.done(submit.back_up(site.actor, backup="full"))
    pruned = site.done(submit.prune(site.actor, keep_last=1, verified_floor=1))
    assert pruned.state == Job.State.SUCCEEDED and len(pruned.result["removed"]) == 1
    after = rows()
    index.refresh("main", everything=True)
    assert rows() == after and len(after) == 1
