"""Damage that no page shows: of full-text and R-tree indexes, found by a proof and by `doctor` alike."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.runtime import live_check
from backups.engine.runtime.live_check import check_live
from backups.engine.runtime.sqlite import connect
from backups.engine.runtime.sqlite_check import check_content
from backups.engine.runtime.sqlite_verdict import Verdict
from tests.engine.planted import BASES, DAMAGED, make, plant


def proven(path: Path) -> Verdict:
    with closing(connect(path)) as database:
        return check_content(database)


def examined(path: Path) -> Verdict:
    with closing(connect(path, mode="ro")) as database:
        return check_live(database, 10)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every database counts as too large to be copied into memory."""
    monkeypatch.setattr(live_check, "_MOST_COPIED", 0)


@pytest.mark.parametrize("base", BASES)
def test_sound_indexes_pass(tmp_path: Path, base: str, request: pytest.FixtureRequest) -> None:
    path = make(tmp_path / "app.sqlite3", base)
    verdict = proven(path)
    assert verdict.damage == [] and verdict.skipped == []
    assert (verdict.findings != []) == verdict.partial == (base == "fts4 contentless")
    assert examined(path) == verdict
    request.getfixturevalue("large")
    read = examined(path)
    assert (read.damage, read.findings) == ([], [])
    assert (read.skipped != []) == base.startswith("fts")


@pytest.mark.parametrize(("base", "fault"), DAMAGED)
def test_damage_is_seen_by_a_proof_and_by_doctor(tmp_path: Path, base: str, fault: str, request: pytest.FixtureRequest) -> None:
    path = make(tmp_path / "app.sqlite3", base)
    plant(path, fault)
    verdict = proven(path)
    assert verdict.damage, verdict
    assert examined(path).damage == verdict.damage
    request.getfixturevalue("large")
    read = examined(path)
    assert read.damage or read.skipped
    with closing(connect(path)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'terms'").fetchone() == (0,)


APPLICATIONS = {
    ("fts5 external", "DELETE FROM page WHERE id = 5"): (False, "differs from its content table"),
    ("fts5 external", "INSERT INTO t (t, rowid, a, b) VALUES ('delete', 5, 'never', 'there')"): (False, "differs from its"),
    ("fts5 external", "DROP TABLE page"): (True, "cannot be checked here"),
    ("fts4 external", "UPDATE page SET a = 'other' WHERE id = 5"): (False, "differs from its content table"),
    ("fts5", "tokenize = mine"): (True, "no such tokenizer: mine"),
    ("fts4", "tokenize = mine"): (True, "unknown tokenizer: mine"),
    ("fts5", "module"): (True, "the module vec0"),
}
"""What an application may do: whether a check is impossible for that reason, and the finding."""


@pytest.mark.parametrize(("base", "change"), APPLICATIONS)
def test_what_the_application_does_is_a_finding(tmp_path: Path, base: str, change: str) -> None:
    path = make(tmp_path / "app.sqlite3", base)
    definition = {
        "tokenize = mine": "replace(sql, '(a, b', '(a, b, tokenize = mine')",
        "module": "replace(sql, 'fts5', 'vec0')",
    }.get(change)
    statement = f"UPDATE sqlite_schema SET sql = {definition} WHERE name = 't'" if definition else change
    plant(path, f"PRAGMA writable_schema = ON; {statement}")
    partial, message = APPLICATIONS[base, change]
    verdict = proven(path)
    assert verdict.damage == [] and verdict.partial == partial
    assert len(verdict.findings) == 1 and message in verdict.findings[0]
    assert examined(path) == verdict


def test_names_need_quoting(tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        for number, name in enumerate(("it''s", 'say ""hi""', "a USING b", "naïve", "terms")):
            module = "fts4(x)" if number % 2 else "fts5(x)"
            database.executescript(
                f"""CREATE VIRTUAL TABLE "{name}" USING {module}; INSERT INTO "{name}" (x) VALUES ('one two')"""
            )
        database.executescript(
            "CREATE VIRTUAL TABLE [the tree]USING rtree(id, a, b); CREATE VIRTUAL TABLE v USING fts5vocab(terms, row)"
        )
    verdict = proven(path)
    assert (verdict.damage, verdict.findings) == ([], [])
    plant(path, """DELETE FROM "say ""hi""_content"; DELETE FROM "it''s_data"; DELETE FROM "the tree_node" """)
    assert len(proven(path).damage) == 3


def test_of_text_in_utf_16_only_the_index_is_judged(tmp_path: Path) -> None:
    """The modules' checks compare it wrongly."""
    path = tmp_path / "app.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA encoding = 'UTF-16'; CREATE VIRTUAL TABLE t USING fts5(a, tokenize = 'trigram')")
        with database:
            database.execute("INSERT INTO t VALUES (?)", (b"\xff\xfe odd bytes",))
    verdict = proven(path)
    assert verdict.damage == [] and verdict.partial
    plant(path, "DELETE FROM t_data WHERE id = 10")
    assert proven(path).damage
