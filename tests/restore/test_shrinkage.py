"""A store that lost its content gives a sound backup of nothing: it is reported, and the last one with the content is held."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.cli import main
from backups.engine.config import DEFAULT_ALLOWANCE, Allowance
from backups.engine.monitoring_check import Level, judge
from backups.engine.repository.folder import Repository, initialise
from backups.engine.shrinkage import compare, unconfirmed_loss
from backups.engine.types import STORES, Depth, Hold, Source, SourceKind
from tests.restore.stores import Chroma, back_up, make_database, vector


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return initialise(tmp_path / "repo", datetime.now(UTC))


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(statement)


def sqlite_source(path: Path) -> Source:
    return Source(kind=SourceKind.SQLITE, name="app", path=path)


@pytest.mark.parametrize("kind", ["full", "incremental"])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_an_emptied_table_is_reported_and_the_backup_before_is_held(
    repository: Repository, tmp_path: Path, kind: str, mode: str, capsys: Any
) -> None:
    path = tmp_path / "app.sqlite3"
    make_database(path, 200, mode=mode)
    sources = (sqlite_source(path),)
    before = back_up(repository, sources, verify=Depth.HASHES)
    assert before.manifest.sources[0].rows == {"item": 200, "counter": 1}
    execute(path, "DELETE FROM item WHERE id < 101")
    after = back_up(repository, sources, kind, verify=Depth.HASHES)
    assert [(item.name, item.before, item.after) for item in after.manifest.shrunk] == [("item", 200, 99)]
    assert not after.damaged and any(line.startswith("SHRUNK item in sqlite/app") for line in after.manifest.log)
    hold = repository.load("default", before.id).hold
    assert hold is not None and hold.automatic and after.id in hold.shrunk[0]
    told = f"{after.id} holds far less than {before.id}, which is held until someone releases it: item in sqlite/app"
    for command in (["list"], ["restore", "latest", "--to", str(tmp_path / "restored"), "--dry-run"]):
        assert main([*command, f"--repo={repository.folder}"]) == 0
        said = capsys.readouterr()
        assert "held: later ones lost content" in said.out or told in said.err
    answer = judge(repository.scan("default"), datetime.now(UTC), max_age=26, free=1 << 40)
    assert answer.level is Level.WARNING and told in answer.text
    code = main(["release", before.id, "--json", f"--repo={repository.folder}"])
    assert (code, json.loads(capsys.readouterr().out)["hold"]) == (0, None)
    assert repository.load("default", before.id).hold is None
    assert not unconfirmed_loss(repository.holds("default"), after.id)
    assert not back_up(repository, sources, kind).manifest.shrunk, "confirmed"


def test_what_is_not_a_loss(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    make_database(path, 200)
    execute(path, "CREATE TABLE django_session AS SELECT * FROM item")
    sources = (sqlite_source(path),)
    back_up(repository, sources)
    execute(path, "DELETE FROM item WHERE id >= 100")
    execute(path, "DELETE FROM django_session")
    execute(path, "DELETE FROM counter")
    assert not back_up(repository, sources, "incremental").manifest.shrunk, "half of it, a table of its own, one row"
    execute(path, "DELETE FROM item WHERE id >= 90")
    assert back_up(repository, sources, "incremental", allowance=Allowance(percent=5)).manifest.shrunk


def test_a_hold_that_was_there_remains(repository: Repository, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "app.sqlite3"
    make_database(path, 200)
    before = back_up(repository, (sqlite_source(path),))
    repository.set_hold(before, Hold(time=datetime.now(UTC), note="for the auditor"))
    execute(path, "DROP TABLE item")
    back_up(repository, (sqlite_source(path),))
    for remains in ("for the auditor", None):
        assert main(["release", before.id, "--json", f"--repo={repository.folder}"]) == 0
        assert json.loads(capsys.readouterr().out)["hold"] == remains


@pytest.mark.slow
def test_a_disk_that_is_not_mounted(repository: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("content")
    chroma = tmp_path / "chroma"
    with Chroma(chroma) as client:
        client.create("papers")
        names = [f"id-{n}" for n in range(5)]
        client.call("papers", "upsert", ids=names, embeddings=[vector(n) for n in names], documents=names)
    sources = (
        Source(kind=SourceKind.FILES, name="documents", path=folder),
        Source(kind=SourceKind.CHROMA, name="chroma", path=chroma),
    )
    before = back_up(repository, sources)
    shutil.rmtree(folder)
    folder.mkdir()
    with Chroma(chroma) as client:
        client.call("papers", "delete", ids=names)
    after = back_up(repository, sources, "incremental")
    assert {(item.source, item.unit, item.before, item.after) for item in after.manifest.shrunk} == {
        ("files/documents", "files", 3, 0),
        ("chroma/chroma", "records", 5, 0),
    }
    assert repository.load("default", before.id).hold is not None


@pytest.mark.parametrize("kept", [0, 10])
def test_truncated_files_are_a_loss(repository: Repository, tmp_path: Path, kept: int) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(120 if kept else 3):
        (folder / f"{number}.txt").write_bytes(b"content " * 100)
    sources = (Source(kind=SourceKind.FILES, name="documents", path=folder),)
    before = back_up(repository, sources)
    for file in folder.iterdir():
        file.write_bytes(b"." * kept)
    after = back_up(repository, sources, "incremental")
    assert [(item.unit, item.after) for item in after.manifest.shrunk] == [("bytes", 120 * kept)]
    hold = repository.load("default", before.id).hold
    assert hold is not None and "bytes" in hold.shrunk[0]


def test_small_losses_add_up_and_the_fullest_backup_is_held(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    make_database(path, 200)
    sources = (sqlite_source(path),)
    fullest = back_up(repository, sources)
    execute(path, "DELETE FROM item WHERE id >= 120")
    less = back_up(repository, sources, "incremental")
    assert not less.manifest.shrunk
    again = back_up(repository, sources)
    execute(path, "DELETE FROM item WHERE id >= 80")
    least = back_up(repository, sources, "incremental")
    message = f"item in sqlite/app.sqlite3 has 80 rows, 200 in {fullest.id}"
    assert [item.message for item in least.manifest.shrunk] == [message]
    holds = {item.id: item.hold for item in repository.newest_first("default")}
    assert holds[fullest.id].shrunk == (f"{message} ({least.id})",) and not holds[less.id] and not holds[again.id]
    assert not back_up(repository, sources).manifest.shrunk, "told once"


def test_a_peak_outlives_its_backup_and_a_table_that_cannot_be_counted(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    make_database(path, 200)
    sources = (sqlite_source(path),)
    first = back_up(repository, sources)
    execute(path, "DELETE FROM item WHERE id >= 120")
    second = back_up(repository, sources)
    [record] = second.manifest.sources
    late = record.model_copy(update={"rows": {"counter": 1}, "uncounted": ("item",)})
    [carried], lost = compare(second, (late,), DEFAULT_ALLOWANCE, [])
    assert not lost and [(peak.count, peak.backup) for peak in carried.peaks] == [(200, first.id)]
    repository.delete("default", first.id, datetime.now(UTC))
    execute(path, "DELETE FROM item WHERE id >= 80")
    third = back_up(repository, sources)
    assert [(item.before, item.backup) for item in third.manifest.shrunk] == [(200, "")]
    assert repository.load("default", second.id).hold is not None, "the best that is left"


def test_a_store_that_is_left_out_is_told_until_it_is_back_or_confirmed(
    repository: Repository, tmp_path: Path, capsys: Any
) -> None:
    path, folder = tmp_path / "app.sqlite3", tmp_path / "documents"
    make_database(path, 200)
    folder.mkdir()
    for number in range(120):
        (folder / str(number)).write_text("content")
    both = (sqlite_source(path), Source(kind=SourceKind.FILES, name="documents", path=folder))
    whole = back_up(repository, both)
    partial = back_up(repository, both[:1], "incremental")
    assert [(item.source, item.unit, item.after) for item in partial.manifest.shrunk] == [("files/documents", STORES, 0)]
    assert not partial.damaged
    again = f"{back_up(repository, both[:1]).id} holds far less than {whole.id}, which is held until someone releases it"
    told = f"{again}: files/documents was not backed up, as it was in the backup before"
    where = f"--repo={repository.folder}"
    for command in (["list"], ["show", "latest"], ["doctor"], ["restore", "latest", "--to", str(tmp_path / "to"), "--dry-run"]):
        assert main([*command, where]) == 0
        said = capsys.readouterr()
        assert told in said.out + said.err, command
    assert told in judge(repository.scan("default"), datetime.now(UTC), max_age=26, free=1 << 40).text
    assert not back_up(repository, both[:1], "snapshot").manifest.shrunk

    for number in range(100):
        (folder / str(number)).unlink()
    back = back_up(repository, both, "incremental")
    [lost] = back.manifest.shrunk
    assert (lost.unit, lost.before, lost.after, lost.backup) == ("files", 120, 20, whole.id), "compared with what it was"
    hold = repository.load("default", whole.id).hold
    assert hold is not None and hold.shrunk == (f"{lost.message} ({back.id})",), "it is back, with less"
    assert main(["release", whole.id, where]) == 0

    back_up(repository, both[:1])
    assert repository.load("default", back.id).hold is not None
    back_up(repository, both)
    assert repository.load("default", back.id).hold is None, "nothing is lost"
    last = repository.ids("default")[0]
    for number, expected in enumerate([1, 0, 0]):
        assert len(back_up(repository, both[1:]).manifest.shrunk) == expected
        if not number:
            assert main(["release", last, where]) == 0, "it was meant to be left out"
    assert not unconfirmed_loss(repository.holds("default"), repository.ids("default")[0])
