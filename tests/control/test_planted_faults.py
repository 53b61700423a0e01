"""Faults of a repository: overview, readiness, REST, health, metrics and `check_backups.sh` agree on each of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from django.test import override_settings
from django.utils import timezone

from backups.catalog import index
from backups.engine.cli import main
from backups.engine.doctor import diagnose
from backups.engine.errors import EngineError
from backups.engine.monitoring_check import Level
from backups.engine.types import Source, SourceKind
from backups.monitoring import health, metrics, readiness
from backups.monitoring.conditions import present
from backups.monitoring.gathering import gather
from backups.monitoring.verdict import verdict
from refserver.recovery import check
from tests.control.conftest import Site
from tests.fixtures.history import history, mine
from tests.restore.stores import History, back_up, context
from tests.restore.test_inherited_damage import flip_shared_block

__all__ = ["history", "mine"]
pytestmark = pytest.mark.slow


def verify(mine: History, *which: str) -> None:
    main(["verify", *which, f"--repo={mine.repository.folder}", "--progress=none"])


def flip_a_shared_byte(mine: History) -> None:
    flip_shared_block(mine)
    verify(mine, mine.ids[0])


def flip_a_byte_of_the_newest(mine: History) -> None:
    archive = mine.place(3) / "data.tar.zst"
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 1
    archive.write_bytes(content)
    verify(mine, mine.ids[3])


def remove_the_newest_archive(mine: History) -> None:
    (mine.place(3) / "data.tar.zst").unlink()


def remove_the_first_archive(mine: History) -> None:
    (mine.place(0) / "data.tar.zst").unlink()


def remove_the_newest_manifest(mine: History) -> None:
    (mine.place(3) / "manifest.json").unlink()


def truncate_the_newest_archive(mine: History) -> None:
    os.truncate(mine.place(3) / "data.tar.zst", 100)


def truncate_the_newest_manifest(mine: History) -> None:
    os.truncate(mine.place(3) / "manifest.json", 100)


def replace_the_newest_by_a_link_to_itself(mine: History) -> None:
    """As unreadable for root as a folder of another user is for anybody else."""
    shutil.rmtree(mine.place(3))
    mine.place(3).symlink_to(mine.place(3))


def rename_the_set(mine: History) -> None:
    mine.place(0).parent.rename(mine.place(0).parent.with_name("renamed"))


def empty_the_repository(mine: History) -> None:
    shutil.rmtree(mine.repository.folder / "backups")


def rename_the_repository(mine: History) -> None:
    mine.repository.folder.rename(mine.repository.folder.with_name("elsewhere"))


def break_the_description(mine: History) -> None:
    (mine.repository.folder / "repository.json").write_text("{")


SOUND_LEFT = {
    flip_a_byte_of_the_newest,
    remove_the_newest_archive,
    remove_the_newest_manifest,
    truncate_the_newest_archive,
    truncate_the_newest_manifest,
    replace_the_newest_by_a_link_to_itself,
}
NOTHING_LEFT = {
    flip_a_shared_byte,
    remove_the_first_archive,
    rename_the_set,
    empty_the_repository,
    rename_the_repository,
    break_the_description,
}


@pytest.fixture
def proven(empty_site: Site, mine: History, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The site with the repository of *mine*, whose backups are proven, and in the index."""
    monkeypatch.setattr(health, "PROBES", {"repositories": health.PROBES["repositories"]})
    for name in [name for name in os.environ if name.startswith("BACKUP_")]:
        monkeypatch.delenv(name)
    with override_settings(BACKUPS={**empty_site.settings, "REPOSITORIES": {"main": str(mine.repository.folder)}}):
        verify(mine, "--all")
        index.refresh("main")
        assert verdict(gather(timezone.now())).newest is not None
        yield empty_site


def test_a_safety_backup_of_a_damaged_store_is_no_damage_until_its_own_bytes_are(
    proven: Site, mine: History, tmp_path: Path
) -> None:
    database = tmp_path / "app.sqlite3"
    database.write_bytes(b"this was a database once " * 999)
    kept = back_up(mine.repository, (Source(kind=SourceKind.SQLITE, name="app", path=database),), safety=True)

    def counted() -> tuple[int, int, set[str], list[str]]:
        index.refresh("main")
        facts = gather(timezone.now())
        told = check.answer(["--repo", str(mine.repository.folder)])
        levels = [one.level for one in diagnose(mine.repository.folder, (), context()).findings if kept.id in one.message]
        figure = int(told.figures.partition("damaged=")[2].partition(";")[0])
        return facts.counts.damaged, figure, {one.code for one in present(facts) if "damage" in one.code}, levels

    assert kept.damaged and counted() == (0, 0, set(), ["note"])
    archive = mine.repository.backup_folder("default", kept.id) / "data.tar.zst"
    archive.write_bytes(b"." * archive.stat().st_size)
    verify(mine, kept.id)
    assert counted() == (1, 1, {"damaged_some"}, ["problem"])


@pytest.mark.parametrize("fault", sorted(SOUND_LEFT | NOTHING_LEFT, key=lambda one: one.__name__), ids=lambda one: one.__name__)
def test_every_view_tells_the_same(proven: Site, mine: History, fault: Callable[[History], None]) -> None:
    fault(mine)
    with suppress(EngineError, OSError):  # as each minute
        index.refresh_all()
    left = mine.ids[2] if fault in SOUND_LEFT else None
    facts = gather(timezone.now())
    seen = verdict(facts)
    assert (seen.newest.id if seen.newest else None) == left
    assert seen.level == ("at_risk" if left else "unprotected")
    answer = proven.client("root", superuser=True).get("/api/v1/status").json()
    assert (answer["level"], answer["newest_proven"]) == (seen.level, left)
    assert health.run_checks(timezone.now()).severity == health.Severity.CRITICAL
    samples = {sample.labels["code"] for sample in metrics._conditions(facts).samples if sample.value}
    assert samples == {one.code for one in present(facts)}
    point = next(
        item for item in readiness.assess(facts, readiness.gather(timezone.now())).items if item.code == "recovery_point"
    )
    assert point.state == ("met" if left else "unknown" if any(not one.there for one in facts.repositories) else "untested")
    told = check.answer(["--repo", str(mine.repository.folder)])
    assert told.level is Level.CRITICAL
    assert left is None or f"{left} is " in told.text
