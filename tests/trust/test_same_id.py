"""A backup planted in another set under the id of a proven one: both are damaged, and nothing picks one of the two."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from backups.catalog import failed_checks, holds, index
from backups.engine.errors import UsageError
from backups.engine.names import DATA, MANIFEST, SUMS
from backups.jobs import submit
from backups.jobs.types import RESTORE_IN_PLACE
from backups.models import IndexedBackup, Job
from backups.monitoring import stored
from tests.restore.stores import refbackup

pytestmark = pytest.mark.slow
LIST = "/admin/backup/backups/"


def plant(repository: Path, backup_id: str) -> None:
    """Copy a backup of ``default`` to the set ``forged``, as a sound backup of that set."""
    twin = repository / "backups/forged" / backup_id
    shutil.copytree(repository / "backups/default" / backup_id, twin)
    manifest = twin / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {"set": "forged", "note": "planted"}))
    old = (twin / SUMS).read_text().split()[0]
    (twin / SUMS).write_text(f"{old}  {DATA}\n{hashlib.sha256(manifest.read_bytes()).hexdigest()}  {MANIFEST}\n")


@pytest.fixture
def made(site):
    return site.done(submit.back_up(site.actor, backup="full", verify="restore")).backup_id


def test_both_are_damaged_and_no_page_or_job_picks_one(site, made):
    IndexedBackup.objects.update(seen="")
    assert IndexedBackup.objects.get().verification == "restore"
    plant(site.repository.folder, made)
    index.refresh("main")
    rows = {row.set: row for row in IndexedBackup.objects.all()}
    assert {name: row.verification for name, row in rows.items()} == {"default": "damaged", "forged": "damaged"}
    assert all(f"each hold a backup {made}" in row.problem for row in rows.values())

    admin = site.client("ann", "restorer")
    asked = admin.get(f"{LIST}{made}/")
    assert asked.status_code == 400 and "each hold a backup" in asked.content.decode()
    page = admin.get(rows["default"].get_absolute_url()).content.decode()
    assert "It is damaged. Do not rely on it" in page and "planted" not in page
    assert "planted" in admin.get(rows["forged"].get_absolute_url()).content.decode()
    with pytest.raises(UsageError):
        submit.restore_in_place(site.actor, typed=made, backup_id=made)
    with pytest.raises(UsageError):
        submit.restore_to_folder(site.actor, backup_id=made, folder="copy")
    assert not Job.objects.filter(kind=RESTORE_IN_PLACE.name).exists()

    deleted = site.done(submit.delete(site.actor, [made], set="forged"))
    assert deleted.state == Job.State.SUCCEEDED, deleted.error
    assert [row.set for row in IndexedBackup.objects.all()] == ["default"]
    assert holds.indexed(made).verification == "restore"


def test_actions_reach_the_named_one(site, made):
    plant(site.repository.folder, made)
    index.refresh("main")
    rows = {row.set: row for row in IndexedBackup.objects.all()}
    holds.hold(site.actor, rows["default"], "the real one")
    assert [row.set for row in IndexedBackup.objects.filter(held=True)] == ["default"]
    admin = site.client("ann", "restorer")
    page = admin.get(f"{LIST}delete/", {"id": rows["forged"].address}).content.decode()
    assert page.count(f'value="{rows["forged"].address}"') == 1 and rows["default"].address not in page
    restored = site.done(submit.restore_to_folder(site.actor, backup_id=made, set="forged", folder="copy"))
    assert restored.arguments["set"] == "forged" and restored.state == Job.State.SUCCEEDED, restored.error


def test_shell_asks_for_the_set(site, made):
    repository = site.repository.folder
    plant(repository, made)

    def run(*arguments: object):
        return refbackup(*arguments, "--repo", repository, cwd=repository.parent)

    for which in (made, made[:20]):
        shown = run("show", which)
        assert shown.code == 5 and f"default/{made}" in shown.err
    assert run("show", f"default/{made}").code == 0 and run("show", made, "--set", "forged").code == 0
    assert run("show", f"default/{made}", "--set", "forged").code == 2
    assert run("show", "latest").code == 4
    verified = run("verify", "--all-sets")
    assert verified.code == 5 and verified.out.count("same_id") == 2, verified.out
    examined = run("doctor").out
    assert f"default/{made}" in examined and f"forged/{made}" in examined and "delete the damaged ones" not in examined
    deleted = run("delete", f"forged/{made}")
    assert deleted.code == 0, deleted.err
    assert run("show", "latest").code == 0


def test_the_loss_or_damage_of_one_is_not_that_of_the_other(site, made):
    plant(site.repository.folder, made)
    index.refresh("main")
    damaged = {(one.id, one.set, one.affected) for one in stored.damaged_backups()}
    assert damaged == {(made, "forged", ()), (made, "default", ())}
    (site.repository.folder / "backups/forged" / made / DATA).write_bytes(b"")
    site.done(submit.verify(site.actor, backup_ids=[made], depth="hashes", set="forged"))
    assert dict(IndexedBackup.objects.values_list("set", "check_found_damage")) == {"default": False, "forged": False}
    for name in ("default", "forged"):
        shutil.rmtree(site.repository.folder / "backups" / name / made)
    index.refresh("main")
    assert set(IndexedBackup.objects.values_list("set", "verification")) == {("default", "missing"), ("forged", "missing")}
    forged = IndexedBackup.objects.get(set="forged")
    page = site.client("root", superuser=True).post(f"{LIST}forget/", {"id": [forged.address], "sure": "yes"})
    assert page.status_code == 302 and [row.set for row in IndexedBackup.objects.all()] == ["default"]


def test_a_failed_check_of_one_is_not_that_of_the_other(site, made):
    plant(site.repository.folder, made)
    index.refresh("main")
    IndexedBackup.objects.update(verification="hashes")
    error = {"code": "failed", "message": "The process was killed."}
    arguments = {"set": "forged", "backup_ids": [made]}
    IndexedBackup.objects.update(verified_at=None)
    job = Job(kind="verify", state=Job.State.FAILED, repository="main", set="forged", arguments=arguments, error=error)
    job.started = IndexedBackup.objects.get(set="default").time
    assert failed_checks.note(job) == [made]
    assert dict(IndexedBackup.objects.values_list("set", "check_failed")) == {"default": "", "forged": error["message"]}
