"""Broken Chroma directories: the backup reports it, keeps the files, and never passes for a good one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine import doctor
from backups.engine.chroma_files.errors import BrokenIndex
from backups.engine.chroma_files.hnsw import check_structure, read_header
from backups.engine.chroma_files.id_table import labels
from backups.engine.chroma_files.tables import list_collections, open_at_rest, pending_ids
from backups.engine.repository.folder import initialise, open_repository
from backups.engine.runtime.context import Context
from tests.capture.conftest import Bench, Start, Stores, chroma_source
from tests.capture.processes import Peer, run, until
from tests.capture.states import vectors_of

COUNT_AT = 20
"""Where ``header.bin`` holds the number of elements."""


def cut_off(name: str, keep: float) -> Callable[[Path], None]:
    def apply(segment: Path) -> None:
        path = segment / name
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * keep))

    return apply


def count_one_more(segment: Path) -> None:
    header = read_header(segment)
    assert header is not None
    with (segment / "header.bin").open("r+b") as file:
        file.seek(COUNT_AT)
        assert struct.unpack("<Q", file.read(8)) == (header.count,)
        file.seek(COUNT_AT)
        file.write(struct.pack("<Q", header.count + 1))


def remove(name: str) -> Callable[[Path], None]:
    return lambda segment: (segment / name).unlink()


def lose_links(segment: Path) -> None:
    header = read_header(segment)
    assert header is not None
    content = bytearray((segment / "data_level0.bin").read_bytes())
    for start in range(0, header.count * header.size_per_element, header.size_per_element):
        content[start : start + 2] = b"\0\0"
    (segment / "data_level0.bin").write_bytes(content)


def mark(segment: Path, deleted: bool) -> None:
    """Turn the mark of the first element that is, or is not, *deleted*."""
    header = read_header(segment)
    assert header is not None
    content = bytearray((segment / "data_level0.bin").read_bytes())
    starts = range(0, header.count * header.size_per_element, header.size_per_element)
    content[next(start for start in starts if bool(content[start + 2]) == deleted) + 2] ^= 1
    (segment / "data_level0.bin").write_bytes(content)


def go_on(name: str) -> Callable[[Path], None]:
    def apply(segment: Path) -> None:
        with (segment / name).open("ab") as file:
            file.write(b"more")

    return apply


def rename_an_id(segment: Path) -> None:
    """In both directions, as the table is written."""
    path = segment / "index_metadata.pickle"
    (name, _) = next(labels(segment))
    content = path.read_bytes().replace(name.encode(), name.encode().upper())
    assert content != path.read_bytes()
    path.write_bytes(content)


BREAKS = {
    "an id renamed": rename_an_id,
    "links lost": lose_links,
    "a record marked as deleted": lambda segment: mark(segment, False),
    "links go on": go_on("link_lists.bin"),
    "vectors go on": go_on("data_level0.bin"),
    "id table goes on": go_on("index_metadata.pickle"),
    "vectors cut off": cut_off("data_level0.bin", 0.5),
    "header counts one more": count_one_more,
    "header cut off": cut_off("header.bin", 0.5),
    "lengths missing": remove("length.bin"),
    "header missing": remove("header.bin"),
    "links cut off": cut_off("link_lists.bin", 0.5),
    "links missing": remove("link_lists.bin"),
    "id table cut off": cut_off("index_metadata.pickle", 0.7),
    "id table empty": cut_off("index_metadata.pickle", 0),
    "id table missing": remove("index_metadata.pickle"),
    "index folder gone": lambda segment: shutil.rmtree(segment),
    "database cut off": lambda segment: cut_off("chroma.sqlite3", 0.3)(segment.parent),
    "database overwritten": lambda segment: (segment.parent / "chroma.sqlite3").write_bytes(b"no database" * 999) and None,
}


@pytest.fixture(scope="module")
def _backed_up(_grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grown stores in ``live`` and a full backup of them, to be copied."""
    folder = tmp_path_factory.mktemp("backed-up")
    shutil.copytree(_grown, folder / "live")
    bench = Bench(initialise(folder / "repository", datetime.now(UTC)), folder)
    bench.create(*Stores(folder / "live/app.sqlite3", folder / "live/chroma").sources)
    return folder


@pytest.fixture
def backed_up(_backed_up: Path, tmp_path: Path) -> tuple[Bench, Stores]:
    """A repository with one full backup of stores that are still as they were."""
    folder = Path(shutil.copytree(_backed_up, tmp_path / "site"))
    repository = open_repository(folder / "repository")
    return Bench(repository, folder), Stores(folder / "live/app.sqlite3", folder / "live/chroma")


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_directory_is_reported_kept_and_skipped(
    backed_up: tuple[Bench, Stores], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, stores = backed_up
    good = bench.latest()
    BREAKS[broken](stores.segment)
    monkeypatch.setattr(doctor, "_STANDS_STILL", 0.1)
    assert not doctor.diagnose(None, (chroma_source(stores.chroma),), Context()).ok

    damaged = bench.create(*stores.sources, kind="incremental", within=2).backup

    assert damaged.verification == "damaged" and damaged.manifest.parent == good
    assert [problem.code for problem in damaged.manifest.problems] == ["chroma_structure"]
    assert [line for line in bench.lines if line.startswith("DAMAGED chroma/vectors")]
    assert bench.latest() == good
    kept = bench.restore(damaged) / "chroma/vectors"
    for file in (entry for entry in stores.chroma.rglob("*") if entry.is_file() and entry.suffix == ".bin"):
        assert (kept / file.relative_to(stores.chroma)).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_no_backup_is_built_on_one_of_a_broken_directory(backed_up: tuple[Bench, Stores]) -> None:
    bench, stores = backed_up
    good = bench.latest()
    BREAKS["header missing"](stores.segment)
    ended = run(
        "create", "--repo", bench.repository.folder, "--kind", "incremental", "--verify", "none", "--within", "2",
        "--sqlite", stores.database, "--chroma", stores.chroma,
    )  # fmt: skip
    assert ended.code == 6, ended
    assert ended.json["verification"] == "damaged"
    assert [problem["code"] for problem in ended.json["problems"]] == ["chroma_structure"]
    assert [line for line in ended.json["log"] if line.startswith("DAMAGED chroma/chroma")]
    assert bench.latest() == good
    following = bench.create(*stores.sources, kind="incremental", within=2).backup
    assert following.manifest.parent == good, "a damaged backup is built on"


@pytest.mark.slow
@pytest.mark.parametrize("log", ["-wal", "-journal"])
def test_a_broken_database_is_kept_with_its_log(bench: Bench, stores: Stores, log: str) -> None:
    """Its log may hold what a repair needs of a database that SQLite cannot read."""
    file = stores.chroma / "chroma.sqlite3"
    beside = file.with_name(file.name + log)
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode = {'wal' if log == '-wal' else 'persist'}")
        database.execute("CREATE TABLE later (x)")
        content = beside.read_bytes()
    beside.write_bytes(content)  # closing it removes the log
    with file.open("r+b") as broken:
        broken.truncate(5000)
        broken.write(b"no database" * 9)
    assert content

    created = bench.create(*stores.sources)

    assert created.backup.damaged
    kept = bench.restore(created.backup) / "chroma/vectors"
    assert (kept / beside.name).read_bytes() == content == beside.read_bytes()
    assert (kept / file.name).read_bytes() == file.read_bytes()
    assert not (kept / f"{file.name}-shm").exists()


@pytest.mark.slow
def test_a_proof_finds_a_broken_full_text_index(bench: Bench, stores: Stores) -> None:
    with closing(sqlite3.connect(stores.chroma / "chroma.sqlite3")) as database, database:
        database.execute("DELETE FROM embedding_fulltext_search_data WHERE id = 10")
    ended = run("create", "--repo", bench.repository.folder, "--verify", "restore", "--chroma", stores.chroma)
    assert (ended.code, ended.json["verification"]) == (6, "damaged")
    (problem,) = ended.json["problems"]
    assert problem["code"] == "chroma_structure" and "full-text index embedding_fulltext_search" in problem["message"]


@pytest.mark.slow
def test_a_damaged_chroma_does_not_affect_sqlite(bench: Bench, stores: Stores) -> None:
    BREAKS["vectors cut off"](stores.segment)
    created = bench.create(*stores.sources)
    sqlite, chroma = created.backup.manifest.sources
    assert sqlite.problems == ()
    assert [problem.code for problem in chroma.problems] == ["chroma_structure"]
    assert (bench.restore(created.backup) / "sqlite/app.sqlite3").read_bytes() == stores.database.read_bytes()


@pytest.mark.slow
def test_files_touched_without_a_write_are_not_damage(bench: Bench, stores: Stores) -> None:
    """Long after the last write: the database itself is unchanged then, and still needed to check the index."""
    long_ago = time.time() - 3600
    for path in stores.chroma.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    until(
        lambda: time.time() - stores.chroma.joinpath("chroma.sqlite3").stat().st_ctime > 2.5,
        what="time stamps older than their grain",
    )
    bench.create(chroma_source(stores.chroma))
    os.utime(stores.segment / "link_lists.bin")
    touched = bench.create(chroma_source(stores.chroma), kind="incremental", verify="restore").backup
    assert touched.verification == "restore"
    assert touched.manifest.kind == "incremental"


def test_a_folder_that_is_not_a_chroma_directory_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = run("create", "--repo", bench.repository.folder, "--chroma", tmp_path / "empty")
    assert ended.code == 6
    assert "not a Chroma directory" in ended.error["message"]
    assert bench.ids() == []


@pytest.mark.slow
def test_a_directory_left_by_a_killed_writer_is_never_taken_as_sound(bench: Bench, peer: Start, tmp_path: Path) -> None:
    """Writers are killed while the index is rewritten until one leaves files that contradict each other."""
    good = torn = None
    for attempt in range(12):
        directory = tmp_path / f"chroma-{attempt}"
        writer = peer("loose", directory, 400, 20, 128, 30)
        if good is None:
            good = bench.create(chroma_source(directory)).backup
            assert not good.damaged
        (segment,) = [entry for entry in directory.iterdir() if entry.is_dir()]
        _wait_for_a_rewrite(segment)
        writer.kill()
        try:
            check_structure(segment)
        except BrokenIndex as problem:
            torn = problem
        created = bench.create(chroma_source(directory), kind="incremental", within=0.5).backup
        if torn is not None:
            assert created.damaged
        if created.damaged:
            assert bench.latest() != created.id
            assert {problem.code for problem in created.manifest.problems} == {"chroma_structure"}
        else:
            restored = bench.restore(created) / "chroma/vectors"
            assert len(vectors_of(restored, "loose")) % 400 == 0
        shutil.rmtree(directory)
        if torn is not None:
            break


def _wait_for_a_rewrite(segment: Path) -> None:
    """Until the first file of an index was rewritten and the last was not."""
    while (segment / "data_level0.bin").stat().st_mtime_ns <= (segment / "index_metadata.pickle").stat().st_mtime_ns:
        pass


@pytest.mark.slow
def test_an_unfinished_write_of_a_dead_process_does_not_block_backups(bench: Bench, stores: Stores) -> None:
    """A record in Chroma's log alone: the writer died between its two steps."""
    good = bench.create(*stores.sources).backup
    with Peer("tests.capture.peers", "halfway", str(stores.chroma)) as writer:
        assert writer.hear() == "ready"
        writer.kill()

    created = bench.create(*stores.sources, kind="incremental", within=0.3, verify="restore").backup

    assert created.verification == "restore", created.proof
    assert bench.latest() == created.id != good.id
    again = bench.create(*stores.sources, kind="incremental", within=0.3, verify="restore").backup
    assert again.verification == "restore", again.proof


@pytest.mark.slow
def test_a_log_that_stands_still_is_captured_and_chroma_completes_it(bench: Bench, stores: Stores) -> None:
    """A record that a killed writer left, in a directory that another process has open."""
    with Peer("tests.capture.peers", "halfway", str(stores.chroma)) as writer:
        assert writer.hear() == "ready"
        created = bench.create(*stores.sources, within=10, verify="restore").backup
    assert created.verification == "restore", created.proof
    restored = bench.restore(created) / "chroma/vectors"
    with closing(open_at_rest(restored)) as database:
        (place,) = list_collections(database)
        (left,) = pending_ids(database, place)
    with Peer("tests.capture.peers", "client", "papers") as client:
        assert client.hear() == "ready"
        assert left in client.ask(str(restored))["vectors"]


@pytest.mark.slow
def test_a_broken_index_is_backed_up_as_such_while_the_application_runs(bench: Bench, stores: Stores) -> None:
    """The log holds more records than the threshold, so that the index looks as if it were being written."""
    good = bench.create(*stores.sources).backup
    BREAKS["vectors cut off"](stores.segment)
    with closing(sqlite3.connect(stores.chroma / "chroma.sqlite3")) as database, database:
        for _ in range(5):
            database.execute(
                "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)"
                " SELECT operation, topic, id, vector, encoding, metadata FROM embeddings_queue"
            )
        database.execute(
            "UPDATE max_seq_id SET seq_id = (SELECT max(seq_id) FROM embeddings_queue)"
            " WHERE segment_id = (SELECT id FROM segments WHERE scope = 'METADATA')"
        )
    with Peer("tests.capture.peers", "halfway", str(stores.chroma)) as application:
        assert application.hear() == "ready"
        ended = run("create", "--repo", bench.repository.folder, "--chroma", stores.chroma, "--within", "20")
    assert ended.code == 6
    assert len(ended.json["problems"]) == 1, ended.json["problems"]
    (problem,) = ended.json["problems"]
    assert problem["code"] == "chroma_structure" and "data_level0.bin" in problem["message"]
    assert bench.latest() == good.id and ended.json["id"] in bench.ids()


@pytest.mark.slow
def test_a_backup_waits_for_an_unfinished_write_of_a_live_process(bench: Bench, stores: Stores) -> None:
    with Peer("tests.capture.peers", "halfway", str(stores.chroma)) as writer:
        assert writer.hear() == "ready"
        ended = run("create", "--repo", bench.repository.folder, "--chroma", stores.chroma, "--within", "0.3")
        assert ended.code == 6
        assert "a write to papers is under way" in ended.error["message"]
        assert f"process {writer.pid}" in ended.error["message"]
        assert bench.ids() == []


@pytest.mark.slow
def test_a_flipped_bit_of_the_source_is_data_and_one_of_the_repository_is_damage(bench: Bench, stores: Stores) -> None:
    vectors = stores.segment / "data_level0.bin"
    header = read_header(stores.segment)
    assert header is not None
    flip(vectors, header.vector_offset + 5)
    created = bench.create(*stores.sources, verify="restore").backup
    assert created.verification == "restore"
    kept = bench.restore(created) / "chroma/vectors" / stores.segment.name / "data_level0.bin"
    assert kept.read_bytes() == vectors.read_bytes()

    archive = bench.repository.backup_folder("default", created.id) / "data.tar.zst"
    flip(archive, archive.stat().st_size // 2)
    ended = run("verify", "--repo", bench.repository.folder, "--all")
    assert ended.code == 5
    assert ended.json["results"][0]["problems"]
    assert run("restore", created.id, "--repo", bench.repository.folder, "--to", bench.folder / "no").code == 5


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


@pytest.mark.slow
def test_tables_of_a_later_chroma_are_refused(bench: Bench, stores: Stores) -> None:
    database = sqlite3.connect(stores.chroma / "chroma.sqlite3")
    columns = [row[1] for row in database.execute("PRAGMA table_info(migrations)")]
    row = dict(zip(columns, database.execute("SELECT * FROM migrations WHERE dir = 'sysdb'").fetchone(), strict=True))
    row["version"] = 99
    database.execute(f"INSERT INTO migrations VALUES ({','.join('?' * len(columns))})", list(row.values()))
    database.commit()
    database.close()
    ended = run("create", "--repo", bench.repository.folder, "--chroma", stores.chroma)
    assert ended.code == 6
    assert "sysdb 99" in ended.error["message"]
    assert bench.ids() == []


@pytest.mark.slow
def test_log_positions_of_grown_stores(stores: Stores) -> None:
    """The fixture is what these tests take it for: an index on disk and records in the log after it."""
    database = open_at_rest(stores.chroma)
    (place,) = list_collections(database)
    database.close()
    assert place.vector_at > 0
    assert place.metadata_at > place.vector_at
    assert check_structure(stores.segment) > 100
