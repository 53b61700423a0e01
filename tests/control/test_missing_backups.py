"""Backups that vanish from their repository: alerted within a minute, and listed until a person confirms the loss."""

import shutil
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from backups.alerts import default_rules
from backups.catalog import holds, index
from backups.catalog.missing import forget_missing, missing_backups
from backups.engine.errors import BackupNotFound, RepositoryMissing
from backups.jobs import submit
from backups.models import Alert, AuditEntry, IndexedBackup
from backups.monitoring import health, readiness, verdict
from backups.worker import tasks
from tests.control.conftest import HOST
from tests.control.rest import bearer, json_of, problem, send
from tests.restore.stores import back_up

pytestmark = pytest.mark.slow


@pytest.fixture
def made(empty_site):
    """A full backup that is held, and two incrementals."""
    from backups.conf import configuration

    sources = configuration().sources("control")
    ids = [
        back_up(empty_site.repository, sources, kind, set="default", verify="hashes").id
        for kind in ("full", "incremental", "incremental")
    ]
    index.refresh("main")
    holds.hold(empty_site.actor, holds.indexed(ids[0]), "for the auditor")
    return ids


def states() -> list[str]:
    return [str(state) for state in IndexedBackup.objects.order_by("backup_id").values_list("verification", flat=True)]


def test_all_backups_vanish(empty_site, made):
    default_rules.install()
    tasks.tick(HOST)
    assert not Alert.objects.filter(rule="backups-missing").exists()
    away = empty_site.places.root / "away"
    (empty_site.repository.folder / "backups").rename(away)
    from backups.models import AlertLook

    AlertLook.objects.filter(host="").delete()
    tasks.tick(HOST)
    alert = Alert.objects.get(rule="backups-missing", open=True)
    assert (alert.severity, alert.fired is not None) == ("critical", True)
    assert "3 backups are missing" in alert.text and "1 of them held" in alert.text and made[2] in alert.text
    assert states() == ["missing"] * 3
    now = verdict.now()
    assert now.level.value == "unprotected" and "Make the first backup" not in " ".join(one.todo for one in now.reasons)
    assert {"backups_missing", "all_missing"} <= {one.code for one in now.reasons}
    assert now.recovery_point.seconds is None and now.newest is None
    assert readiness.now().level == "not_ready"
    assert health.run_checks(timezone.now()).severity.exit_code == 2
    with pytest.raises(BackupNotFound):
        forget_missing(empty_site.actor, backup_ids=["20200101T000000Z-full-abcdef"])

    away.rename(empty_site.repository.folder / "backups")
    tasks.tick(HOST)
    assert states() == ["hashes"] * 3 and IndexedBackup.objects.get(backup_id=made[0]).held


def test_a_loss_is_confirmed_over_rest(empty_site, made):
    path = "/api/v1/repositories/main/forget-missing"
    client = bearer(empty_site, "ada", superuser=True)
    problem(send(client, path, {}), 404, "no_backup")
    shutil.rmtree(empty_site.repository.backup_folder("default", made[2]))
    index.refresh("main")
    assert states() == ["hashes", "hashes", "missing"]
    assert json_of(client.get(f"/api/v1/backups/{made[2]}"), 200)["proof"] == "missing"
    assert json_of(client.get("/api/v1/backups/latest"), 200)["id"] == made[1]
    assert json_of(send(client, path, {}), 200)["ids"] == [made[2]]
    assert states() == ["hashes"] * 2 and not missing_backups().exists()
    entry = AuditEntry.objects.get(action="backups.forgotten")
    assert entry.after == {"count": 1, "ids": [made[2]], "held": []}
    viewer = bearer(empty_site, "bob", "viewer")
    problem(send(viewer, path, {}), 403, "not_allowed")


def test_nothing_is_forgotten_while_the_repository_is_away(empty_site, made):
    empty_site.repository.folder.rename(empty_site.places.root / "away")
    tasks.tick(HOST)
    assert states() == ["hashes"] * 3
    now = verdict.now()
    assert now.level.value == "unprotected" and now.recovery_point.seconds is None
    score = readiness.now()
    assert score.level == "unknown" and "would work today" not in score.sentence
    with pytest.raises(RepositoryMissing):
        forget_missing(empty_site.actor)
    assert states() == ["hashes"] * 3


def test_what_was_deleted_is_not_missing(empty_site, made, capsys):
    holds.release(empty_site.actor, holds.indexed(made[0]))
    assert empty_site.done(submit.delete(empty_site.actor, [made[2]])).state == "succeeded"
    assert states() == ["hashes"] * 2
    call_command("backup_prune", "--keep-last", "1", "--verified-floor", "0", "--empty-trash")
    done = empty_site.places.python("-m", "backups.engine", "delete", made[1], "--repo", empty_site.repository.folder)
    assert done.returncode == 0, done.stderr
    call_command("backup_prune", "--empty-trash")
    assert states() == ["hashes"], "a full backup that was needed"
    assert index.refresh("main") == index.Change(found=1, read=0, forgotten=0)


def test_the_index_inherits_damage(empty_site, made):
    archive = empty_site.repository.backup_folder("default", made[0]) / "data.tar.zst"
    content = archive.read_bytes()
    archive.unlink()
    index.refresh("main")
    assert states() == ["damaged"] * 3
    assert made[0] in IndexedBackup.objects.get(backup_id=made[2]).problem
    now = verdict.now()
    assert now.newest is None and now.level.value == "unprotected"
    archive.write_bytes(content)
    index.refresh("main")
    assert states() == ["hashes"] * 3


def test_a_store_that_is_gone_shows_at_once(empty_site, made):
    assert "source_broken" not in {one.code for one in verdict.now().reasons}
    documents = empty_site.places.settings["REFSERVER_FILES"]
    Path(documents).mkdir(exist_ok=True)
    IndexedBackup.objects.filter(backup_id=made[2]).update(sources=[{"kind": "files", "name": "documents"}])
    assert "source_broken" not in {one.code for one in verdict.now().reasons}
    shutil.rmtree(documents)
    now = verdict.now()
    assert now.level.value == "at_risk" and any(str(documents) in one.text for one in now.reasons)


def test_findings_of_the_projects_conditions_are_in_the_verdict(empty_site, made):
    from django.test import override_settings

    from consistency.models import Check

    with override_settings(BACKUPS=empty_site.settings | {"ALERT_DETECTORS": ["backups_consistency.alerts.CONSISTENCY"]}):
        _check_consistency_counts(Check)


def _check_consistency_counts(Check) -> None:
    assert "consistency" not in {one.code for one in verdict.now().reasons}
    Check.objects.create(source=Check.LIVE, state=Check.State.FAILED, started=timezone.now(), error={"message": "No index."})
    now = verdict.now()
    assert now.level.value == "at_risk" and "consistency" in {one.code for one in now.reasons}
    assert health.run_checks(timezone.now()).severity.exit_code


def test_signed_backups_that_the_index_never_saw_are_missing_too(empty_site, made, monkeypatch):
    """With a journal, neither an empty index nor a planted trash hides what vanished; a confirmed loss is recorded there."""
    from backups.conf import configuration
    from backups.engine.adopt import adopt
    from backups.engine.evidence.keys import make_key
    from tests.restore.stores import context

    key = configuration().signing_key
    assert key is not None and key.is_relative_to(empty_site.places.root)
    make_key(key)
    adopt(configuration().open("main"), context())
    index.refresh("main")
    assert states() == ["hashes"] * 3
    repository = empty_site.repository.folder
    for backup_id in made[1:]:
        (repository / "backups/default" / backup_id).rename(repository / f"trash/20260101T000000Z.default.{backup_id}")
    IndexedBackup.objects.filter(backup_id=made[1]).delete()
    index.refresh("main")
    assert states() == ["hashes", "missing", "missing"]
    entries = AuditEntry.objects.filter(action="backups.vanished").values_list("after", flat=True)
    assert sorted(one for after in entries for one in after["ids"]) == [f"default/{one}" for one in made[1:]]
    index.refresh("main")
    assert AuditEntry.objects.filter(action="backups.vanished").count() == len(entries)
    assert forget_missing(empty_site.actor) == made[:0:-1]
    index.refresh("main")
    assert states() == ["hashes"] and configuration().open("main").vanished("default") == []
