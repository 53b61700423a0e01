"""Checks full-text and R-tree indexes, whose structure ``integrity_check`` sees only as rows of ordinary tables.

SQLite 3.44 or later has ``integrity_check`` ask the modules, but the answer does not tell damage from text that the application
changed without the index. `sqlite_check` ignores it, and here the modules' own commands run, with any version. For full-text
indexes these need the write lock, so they run only on a copy (https://www.sqlite.org/fts5.html#the_integrity_check_command and
https://www.sqlite.org/rtree.html, section 9).
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .sqlite import primary_code, quoted
from .sqlite_verdict import Verdict

_NAME = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[^\s"'`\[(]+)"""
_DEFINITION = re.compile(rf"CREATE\s+VIRTUAL\s+TABLE\s+{_NAME}\s*USING\s*({_NAME})", re.IGNORECASE)
_FULL_TEXT = ("fts3", "fts4", "fts5")
_R_TREES = ("rtree", "rtree_i32", "geopoly")
_STORE_NOTHING = ("fts5vocab", "fts4aux", "fts3tokenize", "dbstat")
_PARTS = {"fts5": ("data", "idx", "config"), "fts4": ("segments", "segdir"), "fts3": ("segments", "segdir", "content")}
_PARTS_OF_R_TREE = ("node", "rowid", "parent")
_MOST_LINES = 5


@dataclass(frozen=True, slots=True)
class _Index:
    name: str
    module: str
    definition: str

    def __str__(self) -> str:
        return f"The {'R-tree' if self.module in _R_TREES else 'full-text index'} {self.name}"

    def has_option(self, option: str, value: str = "") -> bool:
        return re.search(rf"[(,]\s*{option}\s*=\s*{value}", self.definition, re.IGNORECASE) is not None

    @property
    def parts(self) -> list[str]:
        """The tables that it cannot do without (https://www.sqlite.org/fts5.html#fts5_data_structures)."""
        parts = list(_PARTS.get(self.module, _PARTS_OF_R_TREE))
        if self.module in ("fts4", "fts5") and not self.has_option("content"):
            parts.append("content")
        if self.module == "fts4" and not self.has_option("matchinfo"):
            parts += ["docsize", "stat"]
        if self.module == "fts5" and not self.has_option("columnsize", "['\"]?0"):
            parts.append("docsize")
        return [f"{self.name}_{part}" for part in parts]

    @property
    def lists_terms(self) -> bool:
        """Whether the terms can be listed: fts4aux reports every index that is in descending order as malformed."""
        return self.module == "fts5" or not self.has_option("order")


def check_virtual_tables(database: sqlite3.Connection, verdict: Verdict, *, own: bool) -> None:
    """Run the check of each virtual table's module. *own*: nobody else uses the database, which is locked for that.

    Else full-text indexes are only read through, and what is not compared is named in ``skipped``. Raises
    ``sqlite3.DatabaseError`` for errors that are not about the virtual tables.
    """
    foreign = defaultdict(list)
    for index in _listed(database):
        if index.module in _FULL_TEXT or index.module in _R_TREES:
            _check(database, verdict, index, own)
        elif index.module not in _STORE_NOTHING:
            foreign[index.module].append(index.name)
    for module, names in foreign.items():
        why = f"it is made by the module {module}" if module else "its definition is not understood"
        first = ", ".join(names[:_MOST_LINES]) + (f" and {len(names) - _MOST_LINES} more" if names[_MOST_LINES:] else "")
        verdict.unchecked(f"The virtual table{'s' if len(names) > 1 else ''} {first}", why)


def _listed(database: sqlite3.Connection) -> Iterator[_Index]:
    query = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%' ORDER BY name"
    for name, definition in database.execute(query).fetchall():
        found = _DEFINITION.match(definition)
        yield _Index(name, found[1].strip("\"'`[]").lower() if found else "", definition)


def _check(database: sqlite3.Connection, verdict: Verdict, index: _Index, own: bool) -> None:
    present = {name.lower() for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if missing := [part for part in index.parts if part.lower() not in present]:
        verdict.damaged(f"{index} is incomplete: the table {missing[0]} is missing")
        return
    try:
        if index.module in _R_TREES:
            _check_r_tree(database, verdict, index)
        elif not own:
            _read_terms(database, index)
            verdict.skipped.append(f"{index} was read, but not compared with its text")
        elif database.execute("PRAGMA encoding").fetchone()[0] != "UTF-8":
            _read_terms(database, index)
            verdict.unchecked(f"The text of {index.name}", "the modules' checks report intact text in UTF-16 as damaged")
        elif index.module == "fts5":
            _check_fts5(database, verdict, index)
        else:
            _check_fts4(database, verdict, index)
    except sqlite3.DatabaseError as problem:
        if verdict.late:
            raise
        if primary_code(problem) == sqlite3.SQLITE_CORRUPT:
            verdict.damaged(f"{index} is damaged: {problem}")
        elif primary_code(problem) != sqlite3.SQLITE_ERROR:
            raise
        elif not _has_version(database, index):
            verdict.damaged(f"{index} is incomplete: {index.name}_config has no version")
        else:
            verdict.unchecked(str(index), problem)


def _check_r_tree(database: sqlite3.Connection, verdict: Verdict, index: _Index) -> None:
    (answer,) = database.execute("SELECT rtreecheck('main', ?)", (index.name,)).fetchone()
    if answer not in (None, "ok"):
        for line in str(answer).splitlines()[:_MOST_LINES]:
            verdict.damaged(f"{index} is damaged: {line}")


def _check_fts5(database: sqlite3.Connection, verdict: Verdict, index: _Index) -> None:
    """Damage is what is wrong with the index itself; text in another table may have changed without telling the index."""
    table = quoted(index.name)
    if not database.execute(f"SELECT count(*) FROM {quoted(index.name + '_data')} WHERE id = 1").fetchone()[0]:
        verdict.damaged(f"{index} is damaged: its totals are missing from {index.name}_data")
        return
    database.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")
    _search_terms(database, verdict, index)
    if index.has_option("content"):
        try:
            database.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError as problem:
            if primary_code(problem) != sqlite3.SQLITE_CORRUPT or verdict.late:
                raise
            verdict.found(_differs(index))


def _check_fts4(database: sqlite3.Connection, verdict: Verdict, index: _Index) -> None:
    """Compare the index with its text, which FTS4 does even if the text is in another table, but not if there is none."""
    table = quoted(index.name)
    _search_terms(database, verdict, index)
    if index.has_option("content", "(''|\"\")"):
        verdict.unchecked(str(index), "it keeps no text to compare it with")
        return
    try:
        database.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_CORRUPT or verdict.late or not index.has_option("content"):
            raise
        verdict.found(_differs(index))
    if index.module == "fts4" and not index.has_option("content") and not index.has_option("matchinfo"):
        _check_sizes(database, verdict, index)


def _check_sizes(database: sqlite3.Connection, verdict: Verdict, index: _Index) -> None:
    texts, sizes, totals = (quoted(f"{index.name}_{part}") for part in ("content", "docsize", "stat"))
    query = f"SELECT count(*) FROM {texts} WHERE docid NOT IN (SELECT docid FROM {sizes})"
    if lost := database.execute(query).fetchone()[0]:
        verdict.damaged(f"{index} is damaged: {lost} rows are missing from {index.name}_docsize")
    query = f"SELECT EXISTS (SELECT 1 FROM {sizes}) AND NOT EXISTS (SELECT 1 FROM {totals} WHERE id = 0)"
    if database.execute(query).fetchone()[0]:
        verdict.damaged(f"{index} is damaged: its totals are missing from {index.name}_stat")


def _differs(index: _Index) -> str:
    return f"{index} differs from its content table, which the application has to keep in step"


def _read_terms(database: sqlite3.Connection, index: _Index) -> None:
    if index.lists_terms:
        with _terms(database, index):
            database.execute("SELECT count(*) FROM temp.terms").fetchone()


def _search_terms(database: sqlite3.Connection, verdict: Verdict, index: _Index) -> None:
    """Search for each term that the index holds: the module's own check does not look at what only searches need."""
    if not index.lists_terms:
        return
    own = "" if index.module == "fts5" else "col = '*' AND"
    with _terms(database, index):
        query = f"SELECT count(*) FROM temp.terms a WHERE {own} NOT EXISTS (SELECT 1 FROM temp.terms b WHERE b.term = a.term)"
        if lost := database.execute(query).fetchone()[0]:
            verdict.damaged(f"{index} is damaged: searches do not find {lost} of its terms")


@contextmanager
def _terms(database: sqlite3.Connection, index: _Index) -> Iterator[None]:
    module, more = ("fts5vocab", ", row") if index.module == "fts5" else ("fts4aux", "")
    database.execute(f"CREATE VIRTUAL TABLE temp.terms USING {module}(main, {quoted(index.name)}{more})")
    try:
        yield
    finally:
        database.execute("DROP TABLE temp.terms")


def _has_version(database: sqlite3.Connection, index: _Index) -> bool:
    """Whether the format of an FTS5 index is recorded; true for other modules."""
    if index.module != "fts5":
        return True
    try:
        query = f"SELECT 1 FROM {quoted(index.name + '_config')} WHERE k = 'version'"
        return database.execute(query).fetchone() is not None
    except sqlite3.OperationalError:
        return True  # its name is not UTF-8
