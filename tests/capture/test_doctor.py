"""What `doctor` says about a source fits the cause."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backups.engine import doctor
from backups.engine.diagnosis import Advice, Finding
from backups.engine.doctor import diagnose
from backups.engine.errors import SourceBroken
from backups.engine.runtime import live_check
from backups.engine.runtime.context import Context
from backups.engine.types import Source, SourceKind
from tests.capture.conftest import Bench, Stores, chroma_source
from tests.engine.planted import make, plant

GRAPH_AT = 7
"""The highest byte of the first link in ``data_level0.bin``."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.2)
    monkeypatch.setattr(doctor, "_STANDS_STILL", 0.1)


def found(path: Path, kind: SourceKind = SourceKind.SQLITE) -> list[Finding]:
    """What is not fine about a source."""
    report = diagnose(None, (Source(kind=kind, name="x", path=path),), Context())
    return [item for item in report.findings if item.level != "ok" and str(path) in item.subject]


def database(path: Path, mode: str = "WAL") -> Path:
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"PRAGMA journal_mode = {mode}")
        made.executescript("CREATE TABLE thing (a); CREATE INDEX by_a ON thing (a); INSERT INTO thing VALUES (1);")
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def test_a_locked_database_needs_patience(tmp_path: Path) -> None:
    path = database(tmp_path / "app.sqlite3", "DELETE")
    with locked(path):
        (finding,) = found(path)
    assert (finding.level, finding.advice) == ("warning", Advice.WAIT) and "locked" in finding.message
    assert [item.advice for item in found(path)] == [Advice.USE_WAL]


def test_what_is_no_database_may_be_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    path.write_bytes(os.urandom(8192))
    (finding,) = found(path)
    assert (finding.level, finding.advice) == ("problem", Advice.NOT_A_DATABASE)


def test_broken_pages_are_restored(tmp_path: Path) -> None:
    path = database(tmp_path / "app.sqlite3")
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xa5" * 100)
    (finding,) = found(path)
    assert (finding.level, finding.advice) == ("problem", Advice.RESTORE) and finding.message.startswith("damaged")


def test_a_missing_entry_of_an_index_is_seen(tmp_path: Path) -> None:
    path = make(tmp_path / "app.sqlite3", "b-tree")
    plant(path, "entry")
    (finding,) = found(path)
    assert (finding.level, finding.advice) == ("problem", Advice.RESTORE) and "by_a" in finding.message


def test_a_large_database_is_checked_as_far_as_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "app.sqlite3", "fts5")
    monkeypatch.setattr(live_check, "_MOST_COPIED", 0)
    (finding,) = found(path)
    assert (finding.level, finding.advice) == ("note", Advice.VERIFY)
    assert finding.message.startswith("not fully checked: The full-text index t was read")
    monkeypatch.setattr(doctor, "_CHECK_SECONDS", 0.0)
    messages = [item.message for item in found(path)]
    assert messages[0] == "not fully checked: 0 s were not enough to read all its pages"
    plant(path, "DELETE FROM t_data WHERE id = 10")
    assert {item.level for item in found(path)} == {"note"}, "an interrupted check finds nothing"


def test_a_database_with_two_names_and_one_that_is_missing(tmp_path: Path) -> None:
    path = database(tmp_path / "app.sqlite3")
    (tmp_path / "other.sqlite3").hardlink_to(path)
    assert [item.advice for item in found(path)] == [Advice.ONE_NAME]
    assert [item.advice for item in found(tmp_path / "nowhere")] == [Advice.FIND]


def leave_a_record(stores: Stores) -> None:
    with closing(sqlite3.connect(stores.chroma / "chroma.sqlite3")) as made, made:
        made.execute(
            "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)"
            " SELECT operation, topic, id || '-left', vector, encoding, metadata FROM embeddings_queue LIMIT 1"
        )


def change_a_link(stores: Stores) -> None:
    with (stores.segment / "data_level0.bin").open("r+b") as file:
        file.seek(GRAPH_AT)
        file.write(b"\x80")


def cut_off(stores: Stores) -> None:
    os.truncate(stores.segment / "link_lists.bin", 8)


def break_an_index(stores: Stores) -> None:
    path = stores.chroma / "chroma.sqlite3"
    with closing(sqlite3.connect(path)) as made:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'embedding_metadata_string_value'"
        (root,), (size,) = made.execute(query).fetchone(), made.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * 100)


def break_the_full_text_index(stores: Stores) -> None:
    with closing(sqlite3.connect(stores.chroma / "chroma.sqlite3")) as made, made:
        made.execute("DELETE FROM embedding_fulltext_search_data WHERE id = 10")


def lose_a_text(stores: Stores) -> None:
    with closing(sqlite3.connect(stores.chroma / "chroma.sqlite3")) as made, made:
        made.execute("INSERT INTO embedding_fulltext_search (rowid, string_value) VALUES (10000, 'three words here')")
        made.execute("DELETE FROM embedding_fulltext_search_content WHERE id = 10000")


def link_the_segment(stores: Stores) -> None:
    aside = stores.segment.rename(stores.chroma.with_name("aside"))
    (stores.chroma / "0000").symlink_to(aside)


def link_the_database(stores: Stores) -> None:
    aside = (stores.chroma / "chroma.sqlite3").rename(stores.chroma.with_name("aside.sqlite3"))
    (stores.chroma / "chroma.sqlite3").symlink_to(aside)


CHROMA: dict[Callable[[Stores], None], tuple[str, str, str]] = {
    leave_a_record: ("note", "log alone", Advice.COMPLETES),
    change_a_link: ("problem", "links that cannot be", Advice.REBUILD),
    cut_off: ("problem", "it ends", Advice.REBUILD),
    break_an_index: ("problem", "damaged", Advice.RESTORE),
    break_the_full_text_index: ("problem", "damaged: The full-text index embedding_fulltext_search", Advice.RESTORE),
    lose_a_text: ("problem", "damaged: The full-text index embedding_fulltext_search", Advice.RESTORE),
    link_the_segment: ("problem", "is a symbolic link", ""),
    link_the_database: ("problem", "is a symbolic link", ""),
}


@pytest.mark.parametrize("change", CHROMA, ids=lambda change: change.__name__)
@pytest.mark.slow
def test_the_advice_for_a_chroma_directory_fits(stores: Stores, change: Callable[[Stores], None]) -> None:
    change(stores)
    level, message, advice = CHROMA[change]
    finding = next(item for item in found(stores.chroma, SourceKind.CHROMA) if item.advice != Advice.USE_GATE)
    assert finding.level == level and message in finding.message
    assert not advice or finding.advice == advice


@pytest.mark.slow
@pytest.mark.parametrize("change", [link_the_segment, link_the_database])
def test_a_backup_names_a_link_in_a_chroma_directory(
    bench: Bench,
    stores: Stores,
    change: Callable[[Stores], None],
) -> None:
    change(stores)
    with pytest.raises(SourceBroken, match="is a symbolic link"):
        bench.create(chroma_source(stores.chroma))
    assert bench.ids() == []
