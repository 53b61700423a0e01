"""SQLite's checks: what the application brings, or a constraint that rows break, is a finding; broken pages are damage."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.check_stores import unchecked
from backups.engine.cli import main
from backups.engine.create import Request, create_backup
from backups.engine.errors import RestoreRefused
from backups.engine.repository.folder import initialise
from backups.engine.restore.in_place import restore_in_place
from backups.engine.runtime.context import Context
from backups.engine.runtime.sqlite import connect
from backups.engine.runtime.sqlite_check import Verdict, check_content, check_pages
from backups.engine.types import Depth, Source, SourceKind


def define(database: sqlite3.Connection, kind: str, name: str, table: str, root: int, statement: str) -> None:
    """Store a definition as a newer SQLite would."""
    database.execute("PRAGMA writable_schema = ON")
    row = (kind, name, table, root, statement)
    database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
    database.execute("PRAGMA writable_schema = OFF")


def mismatch(database: sqlite3.Connection) -> None:
    database.executescript(
        "CREATE TABLE author (id TEXT PRIMARY KEY, nick TEXT); INSERT INTO author VALUES ('a', 'n');"
        "CREATE TABLE book (id INTEGER PRIMARY KEY, nick TEXT REFERENCES author (nick)); INSERT INTO book VALUES (1, 'n');"
        "CREATE TABLE copy (book INTEGER REFERENCES book (id)); INSERT INTO copy VALUES (1), (7);"
    )


def collation(database: sqlite3.Connection) -> None:
    database.create_collation("LOCALIZED", lambda one, other: (one.lower() > other.lower()) - (one.lower() < other.lower()))
    database.executescript(
        "CREATE TABLE channel (id INTEGER PRIMARY KEY, name TEXT COLLATE LOCALIZED); CREATE INDEX by_name ON channel (name);"
        "INSERT INTO channel (name) VALUES ('b'), ('A');"
        "CREATE TABLE word (text TEXT COLLATE LOCALIZED PRIMARY KEY) WITHOUT ROWID; INSERT INTO word VALUES ('b'), ('A');"
    )


def function(database: sqlite3.Connection) -> None:
    database.create_function("REGEXP", 2, lambda pattern, text: True, deterministic=True)
    database.create_function("folded", 1, lambda text: text, deterministic=True)
    database.executescript(
        "CREATE TABLE page (t TEXT CHECK (t REGEXP '^[a-z]')); INSERT INTO page VALUES ('x');"
        "CREATE TABLE tag (t TEXT); CREATE INDEX by_folded ON tag (folded(t)); INSERT INTO tag VALUES ('x'), ('y');"
    )


def nulls(database: sqlite3.Connection) -> None:
    database.executescript(
        "CREATE TABLE issue (a, notes); INSERT INTO issue VALUES (1, NULL), (2, NULL); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE issue (a CHECK (a > 1), notes NOT NULL)' WHERE name = 'issue';"
        "PRAGMA writable_schema = OFF;"
    )


def latin(database: sqlite3.Connection) -> None:
    database.executescript(
        "CREATE TABLE cafe (x); INSERT INTO cafe VALUES (1); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET name = CAST(x'636166e9' AS TEXT), tbl_name = CAST(x'636166e9' AS TEXT),"
        " sql = CAST(x'435245415445205441424c4520636166e9202878' AS TEXT) || ')' WHERE name = 'cafe';"
        "PRAGMA writable_schema = OFF;"
    )


def newer_view(database: sqlite3.Connection) -> None:
    define(database, "view", "listed", "listed", 0, "CREATE VIEW listed AS SELECT group_concat(a ORDER BY BY a) FROM thing")


def newer_trigger(database: sqlite3.Connection) -> None:
    statement = "CREATE TRIGGER changed AFTER NEWLY INSERT ON thing BEGIN SELECT 1; END"
    define(database, "trigger", "changed", "thing", 0, statement)


def newer_index(database: sqlite3.Connection) -> None:
    database.execute("CREATE INDEX by_a ON thing (a)")
    database.execute("PRAGMA writable_schema = ON")
    database.execute("UPDATE sqlite_schema SET sql = 'CREATE INDEX by_a ON thing USING new (a)' WHERE name = 'by_a'")


def unknown_parts(database: sqlite3.Connection) -> None:
    """A view of a function, and a generated column, that only the application has."""
    database.execute("CREATE VIEW dressed AS SELECT dress(a) FROM thing")
    database.create_function("dress", 1, lambda text: text, deterministic=True)
    database.execute("CREATE TABLE dress (a, b AS (dress(a)) STORED NOT NULL)")
    database.execute("INSERT INTO dress VALUES (1)")


SOUND: dict[Callable[[sqlite3.Connection], None], list[str]] = {
    mismatch: ["The foreign keys of book cannot be checked here"],
    collation: ["The content of channel cannot be checked here", "The content of word cannot be checked here"],
    function: ["The CHECK constraints of page cannot be checked here", "The content of tag cannot be checked here"],
    nulls: ["CHECK constraint failed in issue", "NULL value in issue.notes (2 times)"],
    latin: ["The rows of caf\\xe9 cannot be checked here"],
    newer_view: ["The view listed cannot be checked here"],
    newer_trigger: ["A trigger cannot be checked here"],
    newer_index: ["The index by_a cannot be checked here"],
    unknown_parts: [],
}
"""How a database is made, and how its findings begin, sorted."""


def made(path: Path, *makers: Callable[[sqlite3.Connection], None]) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript("CREATE TABLE thing (a); INSERT INTO thing VALUES (1), (2); CREATE TABLE empty (a);")
        for maker in makers:
            maker(database)
            database.commit()
    return path


def checked(path: Path) -> Verdict:
    with closing(connect(path)) as database:
        return check_content(database)


@pytest.mark.parametrize("maker", SOUND, ids=lambda maker: maker.__name__)
def test_what_cannot_be_checked_here_is_a_finding(tmp_path: Path, maker: Callable[[sqlite3.Connection], None]) -> None:
    path = made(tmp_path / "app.sqlite3", maker)
    verdict = checked(path)
    assert verdict.damage == []
    wanted = SOUND[maker]
    assert len(verdict.findings) == len(wanted), verdict.findings
    assert all(found.startswith(begin) for found, begin in zip(sorted(verdict.findings), wanted, strict=True))
    assert verdict.partial == bool(wanted and maker is not nulls)
    assert verdict.rows["thing"] == 2
    with closing(connect(path)) as database:
        assert check_pages(database, thorough=False).damage == []


def test_the_keys_of_other_tables_are_counted(tmp_path: Path) -> None:
    assert checked(made(tmp_path / "app.sqlite3", mismatch)).broken_keys == 1


@pytest.mark.slow
def test_such_a_database_is_backed_up_proven_and_restored_in_place(tmp_path: Path) -> None:
    path = made(tmp_path / "app.sqlite3", *SOUND)
    source = Source(kind=SourceKind.SQLITE, name="app", path=path)
    repository = initialise(tmp_path / "repo", Context().now())
    backup = create_backup(repository, Request(sources=(source,), verify=Depth.RESTORE), Context()).backup
    assert backup.verification == "restore" and backup.manifest.sources[0].method == "pinned"
    assert repository.find("latest", None).id == backup.id
    assert backup.proof is not None
    check = backup.proof.checks["sqlite/app.sqlite3"]
    assert check["integrity_check"] == "partial" and "NULL value in issue.notes (2 times)" in check["findings"]
    (said,) = unchecked(repository.load("default", backup.id))
    assert said.startswith("sqlite/app.sqlite3: The view listed cannot be checked here: ") and said.endswith(" more)")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM thing")
        database.commit()
    restore_in_place(repository, backup, (source,), Context())
    with closing(connect(path)) as database:
        assert database.execute("SELECT count(*) FROM thing").fetchone() == (2,)
        assert database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'listed'").fetchone() == (1,)


def test_create_and_the_log_say_what_could_not_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path / "app.sqlite3", collation)
    repository = f"--repo={tmp_path / 'repo'}"
    assert main(["init", repository]) == 0
    assert main(["create", repository, "--sqlite", str(path), "--verify=restore", "--progress=lines"]) == 0
    told = capsys.readouterr()
    line = (
        "NOT CHECKED sqlite/app.sqlite3: The content of channel cannot be checked here: no such collation sequence: LOCALIZED"
    )
    assert f"  {line} (and 1 more)" in told.out.splitlines()
    assert line in told.err
    assert main(["show", "latest", repository]) == 0
    assert line in capsys.readouterr().out


def reserve_checksums(path: Path) -> Path:
    """An empty database whose pages have 8 reserved bytes, as those of the checksum VFS."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 1")
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"\x08")
        file.seek(105)
        file.write((4096 - 8).to_bytes(2, "big"))  # where the cells of the only page would begin
    return path


@pytest.mark.slow
def test_checksums_of_pages_are_not_overwritten_in_place(tmp_path: Path) -> None:
    path = made(reserve_checksums(tmp_path / "app.sqlite3"))
    source = Source(kind=SourceKind.SQLITE, name="app", path=path)
    repository = initialise(tmp_path / "repo", Context().now())
    backup = create_backup(repository, Request(sources=(source,), verify=Depth.RESTORE), Context()).backup
    assert backup.verification == "restore"
    content = path.read_bytes()
    with pytest.raises(RestoreRefused, match="checksum VFS"):
        restore_in_place(repository, backup, (source,), Context())
    assert path.read_bytes() == content
    path.rename(tmp_path / "aside")
    restore_in_place(repository, backup, (source,), Context())
    assert path.read_bytes() == content


def words(database: sqlite3.Connection) -> None:
    """Tables of which parts are checked by other means, with an ordinary index, and one whose key is compared, on each."""
    database.create_collation("LOCALIZED", lambda one, other: (one.lower() > other.lower()) - (one.lower() < other.lower()))
    database.create_function("folded", 1, lambda text: text, deterministic=True)
    database.create_function("REGEXP", 2, lambda pattern, text: True, deterministic=True)
    for table, column, rest, key in (
        ("word", "text COLLATE LOCALIZED", "", "text"),
        ("folder", "text", "", "folded(text)"),
        ("strict", "text CHECK (text REGEXP '^a')", "", "text"),
        ("keyed", "text COLLATE LOCALIZED PRIMARY KEY", "WITHOUT ROWID", "text DESC"),
        ("computed", "text, made AS (folded(text)) VIRTUAL", "", "made"),
    ):
        database.executescript(
            f"CREATE TABLE {table} (number INTEGER, {column}) {rest};"
            f"CREATE INDEX {table}_plain ON {table} (number); CREATE INDEX {table}_key ON {table} ({key});"
            f"INSERT INTO {table} (number, text) VALUES (1, 'b'), (2, 'A'), (3, 'c'), (NULL, 'D');"
        )


def behind_an_index(path: Path, index: str, statement: str) -> None:
    """Run *statement* while SQLite does not know of *index*."""
    with closing(sqlite3.connect(path)) as database:
        row = database.execute("SELECT * FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_schema WHERE name = ?", (index,))
        database.commit()
    with closing(sqlite3.connect(path)) as database:
        database.create_collation("LOCALIZED", lambda one, other: (one.lower() > other.lower()) - (one.lower() < other.lower()))
        database.create_function("folded", 1, lambda text: text, deterministic=True)
        database.create_function("REGEXP", 2, lambda pattern, text: True, deterministic=True)
        database.execute(statement)
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
        database.commit()


TABLES = ("word", "folder", "strict", "keyed", "computed")


@pytest.mark.parametrize("kind", ["plain", "key"])
@pytest.mark.parametrize("table", TABLES)
def test_a_missing_entry_is_damage_without_the_applications_collation_or_function(
    tmp_path: Path, table: str, kind: str
) -> None:
    path = made(tmp_path / "app.sqlite3", words)
    sound = checked(path)
    assert sound.damage == [] and len(sound.findings) == len(TABLES), "nothing beyond what is said of each table"
    behind_an_index(path, f"{table}_{kind}", f"DELETE FROM {table} WHERE text = 'A'")
    behind_an_index(path, f"{table}_{kind}", f"INSERT INTO {table} (number, text) VALUES (7, 'x'), (8, 'y')")
    (message,) = [message for message in checked(path).damage if message.startswith("wrong # of")] or checked(path).damage[:1]
    assert f"index {table}_{kind}" in message


@pytest.mark.parametrize(("table", "kind"), [("word", "plain"), ("word", "key"), ("folder", "plain"), ("folder", "key")])
def test_an_entry_of_another_row_is_damage(tmp_path: Path, table: str, kind: str) -> None:
    path = made(tmp_path / "app.sqlite3", words)
    if (table, kind) != ("folder", "key"):
        behind_an_index(path, f"{table}_{kind}", f"UPDATE {table} SET text = 'e', number = 9 WHERE text = 'A'")
    else:
        behind_an_index(path, f"{table}_{kind}", f"UPDATE {table} SET rowid = 9 WHERE text = 'A'")
    assert f"index {table}_{kind} differ from their rows" in checked(path).damage[0]


def test_an_index_of_some_rows_is_said_to_be_unchecked(tmp_path: Path) -> None:
    def partial(database: sqlite3.Connection) -> None:
        words(database)
        database.execute("CREATE INDEX some ON folder (number) WHERE number > 1")

    assert any(
        found.startswith("The index some of folder cannot be") for found in checked(made(tmp_path / "a", partial)).findings
    )


def test_a_broken_page_is_damage_whatever_else_cannot_be_checked(tmp_path: Path) -> None:
    path = made(tmp_path / "app.sqlite3", collation, mismatch)
    with closing(sqlite3.connect(path)) as database:
        database.create_collation("LOCALIZED", lambda one, other: 0)
        (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'by_name'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xa5" * 100)
    assert checked(path).damage
    with closing(connect(path)) as database:
        assert check_pages(database, thorough=False).damage


def test_a_table_whose_definition_cannot_be_read_is_damage(tmp_path: Path) -> None:
    path = made(tmp_path / "app.sqlite3")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE thing (a, <' WHERE name = 'thing'")
        database.commit()
    (message,) = checked(path).damage
    assert message.startswith("The table thing is not understood")
