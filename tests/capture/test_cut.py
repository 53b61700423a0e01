"""The cut: whatever writers do, every backup holds a state that the application was really in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backups.engine.types import Backup, Source
from tests.capture.conftest import Bench, Start, Stores, chroma_source, files_source, sqlite_source, write_batches
from tests.capture.states import check_loose, check_state, check_vectors, vectors_of


def backups_in_a_row(bench: Bench, sources: tuple[Source, ...], count: int, full_every: int = 40) -> list[Backup]:
    made = []
    for number in range(count):
        kind = "incremental" if number % full_every else "full"
        created = bench.create(*sources, kind=kind)
        assert not created.backup.damaged, bench.lines
        assert created.backup.manifest.kind == kind, created.reason
        made.append(created.backup)
    return made


def check_all(
    bench: Bench, made: list[Backup], check: Callable[[Path], int], client: Start | None = None, every: int = 25
) -> None:
    """Restore each of *made* and *check* it; show a sample of them to Chroma's own client as well."""
    seen = set()
    reader = client("client", "papers") if client else None
    for number, backup in enumerate(made):
        folder = bench.restore(backup)
        seen.add(check(folder))
        if reader is not None and number % every == every - 1:
            expected = vectors_of(folder / "chroma/vectors")
            answer = reader.ask(str(folder / "chroma/vectors"))
            assert answer["count"] == len(expected)
            returned = {identifier: bytes.fromhex(vector) for identifier, vector in answer["vectors"].items()}
            check_vectors(returned, expected, "cosine")
        shutil.rmtree(folder)
    assert len(seen) > len(made) // 2, "the writers stood still: this proved nothing"


@pytest.mark.slow
def test_backups_under_constant_writes(bench: Bench, application: Start, peer: Start, tmp_path: Path, soak: int) -> None:
    database, chroma = tmp_path / "app.sqlite3", tmp_path / "chroma"
    writer = application([database], [chroma], churn=True)

    made = backups_in_a_row(bench, (sqlite_source(database), chroma_source(chroma)), 15 * soak, full_every=10)

    assert writer.end()["batches"] > 15 * soak
    check_all(
        bench, made, lambda folder: check_state([folder / "sqlite/app.sqlite3"], [folder / "chroma/vectors"]), client=peer
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"sizes": [1, 3], "threshold": 20}, id="small batches"),
        pytest.param({"sizes": [40, 120], "threshold": 50, "keep": 6000}, id="batches larger than the threshold"),
        pytest.param({"sizes": [5, 60], "threshold": 1000, "keep": 6000}, id="Chroma's default threshold"),
        pytest.param({"space": "cosine", "churn": True}, id="cosine, with updates and deletes"),
        pytest.param({"gate": True, "churn": True}, id="inside the gate"),
    ],
)
def test_other_ways_to_write(bench: Bench, application: Start, tmp_path: Path, settings: dict, soak: int) -> None:
    database, chroma = tmp_path / "app.sqlite3", tmp_path / "chroma"
    writer = application([database], [chroma], **settings)

    made = backups_in_a_row(bench, (sqlite_source(database), chroma_source(chroma)), 4 * soak, full_every=3)

    writer.end()
    space = settings.get("space", "l2")
    check_all(
        bench,
        made,
        lambda folder: check_state([folder / "sqlite/app.sqlite3"], [folder / "chroma/vectors"], space=space),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("size", "threshold"), [(50, 20), (7, 20), (100, 1000)])
def test_chroma_alone_under_a_writer_without_sqlite(
    bench: Bench, peer: Start, tmp_path: Path, size: int, threshold: int, soak: int
) -> None:
    directory = tmp_path / "chroma"
    writer = peer("loose", directory, size, threshold, 16, 40)

    made = backups_in_a_row(bench, (chroma_source(directory),), 6 * soak, full_every=4)

    writer.end()
    for backup in made:
        folder = bench.restore(backup)
        assert check_loose(folder / "chroma/vectors", size, 16) >= 2
        shutil.rmtree(folder)


@pytest.mark.slow
def test_several_stores_of_each_kind_are_captured_at_one_instant(
    bench: Bench, application: Start, peer: Start, tmp_path: Path, soak: int
) -> None:
    databases = [tmp_path / "one.sqlite3", tmp_path / "two.sqlite3"]
    chromas = [tmp_path / "chroma-one", tmp_path / "chroma-two"]
    files = tmp_path / "papers"
    files.mkdir()
    loose = tmp_path / "loose"
    writer = application(databases, chromas, files=str(files), churn=True)
    alone = peer("loose", loose, 20, 30, 16, 20)
    sources = (
        *(sqlite_source(path, path.stem) for path in databases),
        *(chroma_source(path, path.name) for path in [*chromas, loose]),
        files_source(files),
    )

    made = backups_in_a_row(bench, sources, 5 * soak, full_every=3)

    writer.end()
    alone.end()
    assert len({check_one_moment(bench.restore(backup)) for backup in made}) > 2 * soak


def check_one_moment(folder: Path) -> int:
    check_loose(folder / "chroma/loose", 20, 16)
    return check_state(
        [folder / "sqlite/one.sqlite3", folder / "sqlite/two.sqlite3"],
        [folder / "chroma/chroma-one", folder / "chroma/chroma-two"],
        files=folder / "files/papers",
    )


@pytest.mark.slow
def test_neither_backup_nor_writer_starves(bench: Bench, application: Start, peer: Start, tmp_path: Path, soak: int) -> None:
    database, chroma = tmp_path / "app.sqlite3", tmp_path / "chroma"
    writer = application([database], [chroma], gate=True)
    readers = [peer("shared", chroma), peer("shared", chroma)]

    made = backups_in_a_row(bench, (sqlite_source(database), chroma_source(chroma)), 4 * soak)

    assert all(reader.end()["count"] > 100 for reader in readers)
    assert writer.end()["slowest_ms"] < 5000
    check_all(bench, made, lambda folder: check_state([folder / "sqlite/app.sqlite3"], [folder / "chroma/vectors"]))


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 12])
def test_a_new_index_is_sound(bench: Bench, tmp_path: Path, batches: int) -> None:
    """Before its first resize an index keeps files for a hundred elements, however few it holds."""
    database, chroma = tmp_path / "app.sqlite3", tmp_path / "chroma"
    write_batches([database], [chroma], sizes=[5, 5], threshold=10, most=batches)

    created = bench.create(sqlite_source(database), chroma_source(chroma), verify="restore")

    assert created.backup.verification == "restore", created.backup.proof
    assert not [line for line in bench.lines if "is inconsistent" in line]
    folder = bench.restore(created.backup)
    assert check_state([folder / "sqlite/app.sqlite3"], [folder / "chroma/vectors"]) == batches


@pytest.mark.slow
@pytest.mark.parametrize("what", ["update", "delete", "nothing"])
def test_an_incremental_after_a_single_kind_of_change(bench: Bench, stores: Stores, what: str) -> None:
    """An index rewritten by updates or deletes alone is whole in the backup, and its digest is right."""
    bench.create(*stores.sources)
    write_batches([stores.database], [stores.chroma], only=what, most=12, seed=7)

    created = bench.create(*stores.sources, kind="incremental", verify="restore")

    assert created.backup.verification == "restore", created.backup.proof
    folder = bench.restore(created.backup)
    check_state([folder / "sqlite/app.sqlite3"], [folder / "chroma/vectors"])
