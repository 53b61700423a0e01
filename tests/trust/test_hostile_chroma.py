"""A ``chroma.sqlite3`` that its writer made to hang or exhaust a backup: views, huge and odd values, tables that take hours."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.capture.directory import Directory
from backups.engine.chroma_files import tables
from backups.engine.chroma_files.digests import digest_collections
from backups.engine.chroma_files.errors import BrokenIndex
from backups.engine.chroma_files.hnsw import read_header
from backups.engine.chroma_files.quiescence import Unrest
from backups.engine.chroma_files.tables import DATABASE, check_supported, embedding_functions, list_collections, open_at_rest
from backups.engine.doctor import diagnose
from backups.engine.errors import Cancelled, SourceBroken
from backups.engine.runtime.context import Context
from backups.engine.runtime.time_limit import TimeLimit
from tests.capture.conftest import bench, chroma_source
from tests.capture.processes import run

__all__ = ["bench"]

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
VIEWS = {
    "collections": "(id, name, dimension, database_id, config_json_str, schema_str) AS"
    f" {ENDLESS} SELECT i, i, 3, 'd', NULL, NULL FROM n",
    "migrations": f"(dir, version) AS {ENDLESS} SELECT 'sysdb', 1 FROM n",
    "segments": f"(id, type, scope, collection) AS {ENDLESS} SELECT i, '', 'METADATA', 'c' FROM n",
    "embeddings_queue": f"(seq_id, topic, operation, id, vector) AS {ENDLESS} SELECT i, 'c', 0, i, NULL FROM n",
}
SCHEMA = """
CREATE TABLE migrations (dir TEXT, version INTEGER);
CREATE TABLE databases (id TEXT, name TEXT, tenant_id TEXT);
CREATE TABLE collections (id TEXT, name TEXT, dimension INTEGER, database_id TEXT, config_json_str TEXT, schema_str TEXT);
CREATE TABLE collection_metadata (collection_id TEXT, key TEXT, str_value TEXT, int_value INTEGER);
CREATE TABLE segments (id TEXT, type TEXT, scope TEXT, collection TEXT);
CREATE TABLE max_seq_id (segment_id TEXT PRIMARY KEY, seq_id);
CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id INTEGER);
CREATE TABLE embedding_metadata (id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL, bool_value);
CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation INTEGER, topic TEXT, id TEXT, vector BLOB);
INSERT INTO migrations VALUES ('sysdb', 10), ('metadb', 6), ('embeddings_queue', 2);
INSERT INTO databases VALUES ('d', 'default_database', 'default_tenant');
INSERT INTO collections VALUES ('c', 'pages', 3, 'd', NULL, NULL);
INSERT INTO segments VALUES ('m', '', 'METADATA', 'c');
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A Chroma directory with one collection, with the tables that Chroma makes."""
    place = tmp_path / "chroma"
    place.mkdir()
    change(place, SCHEMA)
    return place


def change(directory: Path, script: str, *values: object) -> None:
    with closing(sqlite3.connect(directory / DATABASE, timeout=0)) as database:
        if values:
            database.execute(script, values)
        else:
            database.executescript(script)
        database.commit()


def put_view(directory: Path, name: str) -> None:
    change(directory, f"DROP TABLE {name}; CREATE VIEW {name}{VIEWS[name]};")


def findings(directory: Path) -> list[str]:
    """What doctor says is a problem."""
    report = diagnose(None, (chroma_source(directory),), Context())
    return [item.message for item in report.findings if item.level == "problem"]


def listing(directory: Path) -> list[tables.Collection]:
    with closing(open_at_rest(directory)) as database:
        return list_collections(database)


@pytest.mark.parametrize("name", ["collections", "migrations"])
def test_an_endless_view_ends_as_a_damaged_store_and_holds_up_no_writer(bench, directory: Path, name: str) -> None:
    put_view(directory, name)
    ended = run("create", "--repo", bench.repository.folder, "--within", "3", "--verify", "none", "--chroma", directory)
    assert ended.code == 6, ended
    (problem,) = ended.json["problems"]
    assert problem["code"] == "chroma_structure"
    assert f"{name} is not an ordinary table" in problem["message"]
    change(directory, "INSERT INTO databases VALUES ('e', 'written', 'afterwards')")


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_refused_whichever_table_it_replaces(directory: Path, name: str) -> None:
    put_view(directory, name)
    (message,) = findings(directory)
    assert f"{name} is not an ordinary table, as Chroma makes it: view" in message


def test_a_virtual_table_and_another_spelling_are_refused(directory: Path) -> None:
    change(directory, f"DROP TABLE collections; CREATE VIEW Collections{VIEWS['collections']};")
    with pytest.raises(sqlite3.DatabaseError, match="Collections is not an ordinary table"):
        listing(directory)
    change(directory, "DROP VIEW Collections; CREATE VIRTUAL TABLE collections USING fts5(id, name)")
    with pytest.raises(sqlite3.DatabaseError, match="collections is not an ordinary table"):
        listing(directory)


@pytest.mark.parametrize(
    "column", ["schema_str", "config_json_str", "name", "id"], ids=["schema", "configuration", "name", "id"]
)
def test_a_long_value_is_refused_before_it_is_read(directory: Path, column: str) -> None:
    change(directory, f"UPDATE collections SET {column} = ?", '{"a":[' + "{}," * (1 << 20) + "{}]}")
    (message,) = findings(directory)
    assert "what describes a collection is longer than 1 MiB" in message
    with closing(open_at_rest(directory)) as database:
        limit = database.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        with pytest.raises(sqlite3.DatabaseError, match="longer than 1 MiB"):
            list_collections(database)
        assert database.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == limit, "documents may be longer"


ODD = {
    "nested": ("schema_str", '{"keys":' * 50_000 + "1" + "}" * 50_000),
    "infinite": ("config_json_str", json.dumps({"hnsw": {"sync_threshold": float("inf")}})),
    "beyond a double": ("config_json_str", '{"hnsw": {"sync_threshold": 1e999}}'),
    "no number": ("config_json_str", '{"hnsw": {"sync_threshold": NaN}}'),
    "a list": ("config_json_str", "[1]"),
    "no text": ("schema_str", 7),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_settings_are_reported_as_unreadable(directory: Path, odd: str) -> None:
    column, value = ODD[odd]
    change(directory, f"UPDATE collections SET {column} = ?", value)
    (message,) = findings(directory)
    assert "the settings of the collection pages cannot be read" in message


def test_odd_settings_make_a_damaged_backup(bench, directory: Path) -> None:
    change(directory, "UPDATE collections SET schema_str = ?", ODD["nested"][1])
    ended = run("create", "--repo", bench.repository.folder, "--within", "3", "--verify", "none", "--chroma", directory)
    assert ended.code == 6, ended
    assert [one["code"] for one in ended.json["problems"]] == ["chroma_structure"]
    with closing(open_at_rest(directory)) as database, pytest.raises(sqlite3.DatabaseError):
        embedding_functions(database)


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "..", b"v", None])
def test_a_segment_names_no_folder_elsewhere(directory: Path, name: object) -> None:
    change(directory, "INSERT INTO segments VALUES (?, ?, 'VECTOR', 'c')", name, tables.HNSW_TYPE)
    with pytest.raises(sqlite3.DatabaseError, match="cannot be a folder's name"):
        listing(directory)


def test_a_pipe_in_place_of_an_index_is_refused(bench, directory: Path) -> None:
    (directory / "v").mkdir()
    os.mkfifo(directory / "v" / "header.bin")
    (message,) = findings(directory)
    assert "header.bin is not a regular file" in message
    change(directory, "INSERT INTO segments VALUES ('v', ?, 'VECTOR', 'c')", tables.HNSW_TYPE)
    with pytest.raises(SourceBroken, match="not a regular file"):
        bench.create(chroma_source(directory), within=3)


def test_of_a_header_no_more_is_read_than_a_header_has(tmp_path: Path) -> None:
    with (tmp_path / "header.bin").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(BrokenIndex, match="1099511627776 bytes instead of"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    "record", [(-1, "id", None), ("add", "id", None), (0, None, None), (0, b"id", None), (0, "id", "text")]
)
def test_a_record_of_the_log_that_is_none_is_refused(directory: Path, record: tuple[object, ...]) -> None:
    identifier = "c" * 36
    change(directory, f"UPDATE collections SET id = '{identifier}'; UPDATE segments SET collection = '{identifier}';")
    change(directory, "INSERT INTO embeddings_queue VALUES (1, ?, ?, ?, ?)", record[0], identifier, *record[1:])
    with pytest.raises(sqlite3.DatabaseError, match="not of the form"):
        digest_collections(directory, {})


@pytest.mark.parametrize("position", [b"\xff" * 8, b"\1" * 1000, "text", -1, 1.5])
def test_a_position_that_is_none_is_refused(directory: Path, position: object) -> None:
    change(directory, "INSERT INTO max_seq_id VALUES ('m', ?)", position)
    with pytest.raises(sqlite3.DatabaseError, match="position"):
        listing(directory)


@pytest.mark.parametrize("row", [("sysdb", "text"), (b"sysdb", 7), (None, None)])
def test_migrations_that_are_none_are_refused(directory: Path, row: tuple[object, object]) -> None:
    change(directory, "INSERT INTO migrations VALUES (?, ?)", *row)
    with closing(open_at_rest(directory)) as database, pytest.raises(SourceBroken, match="names and numbers"):
        check_supported(directory, database)


def test_the_number_of_collections_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_COLLECTIONS", 2)
    change(directory, "INSERT INTO collections SELECT value, value, 3, 'd', NULL, NULL FROM json_each('[\"x\"]')")
    assert [one.name for one in listing(directory)] == ["pages", "x"]
    change(directory, "INSERT INTO collections SELECT 'y', 'y', 3, 'd', NULL, NULL")
    with pytest.raises(sqlite3.DatabaseError, match="more than 2 collections"):
        listing(directory)


def grow(directory: Path) -> None:
    """Many collections and a long log."""
    counting = f"{ENDLESS}, some(i) AS (SELECT i FROM n LIMIT"
    change(
        directory,
        f"{counting} 20000) INSERT INTO collections SELECT printf('%036d', i), 'c' || i, 3, 'd', NULL, NULL FROM some;"
        f"{counting} 200000) INSERT INTO embeddings_queue SELECT i, 0, 'topic', i, NULL FROM some;"
        "CREATE INDEX by_collection ON segments (collection);"
        "CREATE INDEX metadata_of ON collection_metadata (collection_id);",
    )


def test_reading_under_the_lock_ends_in_time(directory: Path) -> None:
    grow(directory)
    place = Directory("chroma", directory)
    place.connect()
    try:
        assert place.lock(0)
        problem = place.wait_until_quiescent(0.01)
        assert problem is not None and problem.reason is Unrest.TABLES_UNREAD
    finally:
        place.release()
    change(directory, "INSERT INTO databases VALUES ('e', 'written', 'afterwards')")


def test_a_cancelled_doctor_ends_during_a_query(directory: Path) -> None:
    grow(directory)
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(Cancelled):
        diagnose(None, (chroma_source(directory),), Context(should_cancel=cancelled))


def test_a_doctor_that_runs_out_of_time_says_so(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(directory)
    monkeypatch.setattr("backups.engine.doctor.TimeLimit", lambda database, _: TimeLimit(database, 0.1))
    report = diagnose(None, (chroma_source(directory),), Context())
    assert any("not fully checked: reading its tables" in one.message for one in report.findings if one.level == "warning")
