"""One cause is one alert: damage that many backups share, and jobs that fail because of a condition with a rule of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from backups.alerts.default_rules import DEFAULTS
from backups.catalog import index
from backups.engine.cli import main
from backups.models import IndexedBackup, Job
from backups.monitoring import readiness, verdict
from backups.monitoring.conditions import conditions
from backups.monitoring.gathering import gather
from tests.control.conftest import HOST, Site
from tests.control.test_backup_pages import indexed
from tests.control.test_conditions import FINE, disk, plan
from tests.fixtures.history import history, mine
from tests.restore.stores import History
from tests.restore.test_inherited_damage import flip_shared_block, remove_archive

__all__ = ["history", "mine"]


@pytest.fixture
def damaged(empty_site: Site, mine: History):
    """The site with the repository of *mine*, and a function that finds the damage and returns the texts of its alerts."""
    settings = {**empty_site.settings, "REPOSITORIES": {"main": str(mine.repository.folder)}}

    def found() -> list[tuple[str, str]]:
        index.refresh("main")
        return [(one.subject, one.text) for one in conditions()["damage"].observe(gather(timezone.now()))]

    with override_settings(BACKUPS=settings):
        yield found


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.slow
def test_a_flipped_byte_is_one_alert_that_names_its_dependents(damaged: Any, mine: History, number: int) -> None:
    flip_shared_block(mine)
    assert main(["verify", mine.ids[number], f"--repo={mine.repository.folder}", "--progress=none"]) == 5
    [(subject, text)] = damaged()
    assert subject == mine.ids[0] and text.startswith(f"Backup {subject} is damaged: ")
    assert text.endswith(f"3 other backups are damaged by it: {', '.join(reversed(mine.ids[1:]))}.")
    assert IndexedBackup.objects.filter(verification="damaged").count() == 4


def test_a_lost_archive_is_one_alert_and_a_second_fault_another(damaged: Any, mine: History) -> None:
    remove_archive(mine.place(1))
    [(subject, text)] = damaged()
    assert subject == mine.ids[1] and text.endswith(f"2 other backups are damaged by it: {mine.ids[3]}, {mine.ids[2]}.")
    remove_archive(mine.place(0))
    assert [subject for subject, _ in damaged()] == [mine.ids[1], mine.ids[0]]


def test_a_job_that_fails_for_a_known_cause_is_no_second_alert() -> None:
    def alerts(code: str, changes: dict[str, Any], **values: Any) -> set[str]:
        failed = plan(failed_in_a_row=3, last_job="j", message="It failed.", code=code, **values)
        facts = replace(FINE, **failed, **changes)
        rules = [rule for rule in DEFAULTS if list(conditions()[rule.kind].observe(facts, rule.threshold))]
        return {rule.name for rule in rules if rule.severity == "critical"}

    thrice = "plan-failed-thrice"
    assert alerts("no_repository", disk(there=False)) == {"repository-away"}
    assert alerts("permission", disk(writable=False)) == {"repository-read-only"}
    assert alerts("no_space", disk(free=20)) == {"space-nearly-gone"}
    assert alerts("conditions_found", disk(writable=False), kind="health") == {"repository-read-only"}
    assert alerts("no_space", disk(free=90)) == {thrice}, "little space is a warning, not a critical alert"
    assert alerts("no_repository", {}) == {thrice}, "the repository is back, and the plan still fails"
    assert alerts("check_failed", {}, kind="health") == {thrice}
    assert alerts("no_repository", disk(there=False), alert_to=("a@example.org",)) == {thrice, "repository-away"}


def drill(backup: IndexedBackup, ago: timedelta) -> Job:
    result = {"ok": True, "results": [{"id": backup.backup_id, "ok": True, "seconds": 7.0}]}
    values = {"kind": "drill", "host": HOST, "repository": "main", "finished": timezone.now() - ago}
    return Job.objects.create(state="succeeded", result=result, arguments={"backup_id": "latest"}, **values)


def test_restores_and_drills_of_damaged_backups_do_not_count(empty_site: Site) -> None:
    now = timezone.now()
    old, new = indexed(time=now - timedelta(hours=3)), indexed(time=now - timedelta(hours=1))
    drill(old, timedelta(days=2))
    drill(new, timedelta(hours=1))
    restored = {"kind": "restore", "host": HOST, "repository": "main", "state": "succeeded", "result": {"seconds": 5.0}}
    Job.objects.create(arguments={"backup_id": new.backup_id}, finished=now - timedelta(minutes=5), **restored)

    def items() -> dict[str, Any]:
        return {item.code: item for item in readiness.now().items}

    assert items()["drill"].text == "The last drill was 1 h ago and took 7 s." and items()["recovery_time"].state == "met"
    IndexedBackup.objects.filter(pk=new.pk).update(verification="damaged")
    found = items()
    says = f"does not count: its backup, {new.backup_id}, is damaged now."
    assert found["drill"].text.startswith("The last drill was 2 d") and says in found["drill"].text
    assert found["recovery_time"].state == "untested" and says in found["recovery_time"].text
    assert f"The newest backup, {new.backup_id}, does not count: it is damaged." in found["recovery_point"].text
    IndexedBackup.objects.filter(pk=old.pk).update(verification="damaged")
    assert items()["drill"].state == "untested"


def test_the_recovery_point_counts_no_shrunk_backup_on_hold(empty_site: Site) -> None:
    now = timezone.now()
    complete, shrunk = indexed(time=now - timedelta(hours=5)), indexed(time=now - timedelta(hours=1))
    assert verdict.now().newest.id == shrunk.backup_id
    loss = f"files/documents has 0 files, 65 in the backup before ({shrunk.backup_id})"
    IndexedBackup.objects.filter(pk=complete.pk).update(held=True, losses=loss)
    assert verdict.now().newest.id == complete.backup_id
    point = next(item for item in readiness.now().items if item.code == "recovery_point")
    assert f"The newest backup, {shrunk.backup_id}, does not count: it holds far less than earlier ones." in point.text
    IndexedBackup.objects.filter(pk=complete.pk).update(held=False, losses="")
    assert verdict.now().newest.id == shrunk.backup_id, "confirmed"


def test_a_store_that_cannot_be_reached_is_told_at_once(empty_site: Site) -> None:
    indexed(sources=[{"kind": "files", "name": "documents"}])
    path = Path(empty_site.places.settings["REFSERVER_FILES"])
    for make, why in ((lambda: None, "it does not exist"), (lambda: path.symlink_to(path), "it cannot be reached: ")):
        make()
        [seen] = conditions()["source_broken"].observe(gather(timezone.now()))
        assert seen.subject == str(path) and why in seen.text and seen.severity == "critical"
