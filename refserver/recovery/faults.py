"""What keeps RefServer from starting: each fault with the file it concerns and the section of DISASTER_RECOVERY.md that helps.

It needs neither Django nor a working database. `refserver.start` uses it before and after errors, ``--look`` shows the result.
"""

import errno
import os
import pwd
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from backups.engine.progress import human_bytes
from backups.engine.repository.about import lost_about
from backups.engine.runtime.sqlite import connect, primary_code
from backups.engine.runtime.sqlite_check import check_pages
from backups.engine.types import SourceKind
from backups.engine.unfinished import unfinished_exchange

from .locations import CONTROL, DEFAULT, ROOT, Locations, read_locations

LEAST_FREE = 16 << 20
"""Bytes that must be free on a disk that is written to; SQLite needs some even to open a database."""

FINISH_OR_UNDO = f"Run {ROOT}/scripts/disaster_recovery.sh --finish, or --undo."
"""What to do after a restore that was interrupted in the exchange."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


class Section(Enum):
    """Sections of DISASTER_RECOVERY.md, by heading."""

    DATABASE = "The database is damaged"
    SEARCH = "The search is empty"
    CHROMA = "Chroma will not open"
    DIFFERENT = "The stores do not fit together"
    FULL = "The disk is full"
    CONTROL = "The control database is lost"
    INTERRUPTED = "A restore was interrupted"
    OWNER = "Permission denied"
    REPOSITORY = "The repository is missing"
    SETTING = "A setting is wrong"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with *subject*, and which section helps. One that ``blocks`` must be repaired before RefServer starts."""

    subject: str
    message: str
    section: Section
    blocks: bool = True

    def as_text(self) -> str:
        """Two lines: the fault, and where to read on."""
        what = f"{self.subject}: {self.message}" if self.subject else self.message
        return f"{what}\n  -> {ROOT / 'DISASTER_RECOVERY.md'}, section “{self.section.value}”"


def find_faults(locations: Locations, *, creating: bool = False, thorough: bool = False) -> list[Fault]:
    """The faults, the one to repair first at the beginning. With *thorough* every page of the databases is read.

    With *creating*, an empty control database is about to be filled, which is not a fault. A lost library database always is
    one, because a new library would hide the loss.
    """
    stores = (*locations.stores(DEFAULT), *locations.stores(CONTROL))
    if unfinished := unfinished_exchange(stores):
        return [Fault(str(unfinished.folders[0]), f"{unfinished.message} {FINISH_OR_UNDO}", Section.INTERRUPTED)]
    faults = list(_full_disks(locations)) or list(_denied(locations))
    if any(fault.blocks for fault in faults):
        return faults  # on a full disk, or without permission, sound databases look broken
    library = _library(locations, thorough)
    control = _control(locations, creating, thorough)
    others = (library, control, _chroma(locations), missing_repository(locations))
    return [*(fault for fault in others if fault is not None), *faults]


def missing_repository(locations: Locations) -> Fault | None:
    """The fault that the control database knows backups, but the folder holds no repository; its disk may not be mounted."""
    folder = locations.paths["BACKUP_REPOSITORY"]
    if _on_server(locations, "BACKUP_REPOSITORY") or (folder / "repository.json").exists():
        return None
    known = _indexed_backups(locations)
    if not known:
        return None
    if lost_about(folder):
        message = "it holds backups, but its repository.json is missing or damaged"
    else:
        message = f"there is no repository, but the control database knows {known} backups in it; is its disk mounted?"
    return Fault(str(folder), message, Section.REPOSITORY, blocks=False)


def foreign_owner(locations: Locations) -> Fault | None:
    """The fault of starting as root what belongs to another user, who could not change the files that root makes."""
    if os.geteuid() != 0:
        return None
    for place in _places(locations):
        if owner := place.path.stat().st_uid:
            name = user_name(owner)
            message = (
                f"it belongs to {name}, who could not change what root makes: run this as {name} (runuser -u {name} -- COMMAND)"
            )
            return Fault(str(place.path), message, Section.OWNER)
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    """An existing file or folder. ``written``: it is written to; ``vital``: RefServer does not run without it."""

    path: Path
    written: bool
    vital: bool


def _full_disks(locations: Locations) -> Iterator[Fault]:
    seen = set()
    for place in sorted(_places(locations), key=lambda place: not place.vital):
        device = place.path.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place.path).free
        if free < LEAST_FREE:
            yield Fault(str(place.path), f"only {human_bytes(free)} are free on its disk", Section.FULL, blocks=place.vital)


def _denied(locations: Locations) -> Iterator[Fault]:
    me = user_name(os.geteuid())
    for place in _places(locations):
        path = place.path
        folder = path.is_dir()
        needed = (os.R_OK if place.written else 0) | (os.X_OK if folder else 0) | (os.W_OK if place.written else 0)
        if not os.access(path, needed):
            state = path.stat()
            what = "read and write it" if place.written else "enter it"
            owner = f"it belongs to {user_name(state.st_uid)}, with mode {stat.S_IMODE(state.st_mode):o}"
            yield Fault(str(path), f"{me} cannot {what}: {owner}", Section.OWNER, blocks=place.vital)


def _library(locations: Locations, thorough: bool) -> Fault | None:
    path = locations.paths["REFSERVER_DATABASE"]
    if _is_empty(path):
        what = "it is missing" if not path.exists() else "it is empty"
        if found := _traces(locations):
            return Fault(str(path), f"{what}, although {found}: a new library would hide the loss", Section.DATABASE)
        return None
    return _database(path, Section.DATABASE, thorough)


def _control(locations: Locations, creating: bool, thorough: bool) -> Fault | None:
    if _on_server(locations, "REFSERVER_CONTROL_DATABASE"):
        return None
    path = locations.paths["REFSERVER_CONTROL_DATABASE"]
    if _is_empty(path):
        if creating or not _traces(locations):
            return None
        return Fault(str(path), "it is missing or empty", Section.CONTROL)
    return _database(path, Section.CONTROL, thorough)


def _chroma(locations: Locations) -> Fault | None:
    directory = locations.paths["CHROMA_PATH"]
    database = directory / "chroma.sqlite3"
    if not os.access(directory, os.X_OK) and _exists(directory):
        return None  # `_denied` names it
    if not database.exists():
        if _is_empty(locations.paths["REFSERVER_DATABASE"]):
            return None
        return Fault(str(database), "it is missing", Section.SEARCH, blocks=False)
    found = _database(database, Section.CHROMA, False)
    return None if found is None else Fault(found.subject, found.message, found.section, blocks=False)


def _database(path: Path, section: Section, thorough: bool) -> Fault | None:
    """The fault of an SQLite database. One that is merely locked has none."""
    if path.is_dir():
        return Fault(str(path), "it is a folder, not a database", section)
    try:
        with closing(connect(path, timeout=1)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            for table in ("django_migrations", "collections"):
                if database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                    database.execute(f"SELECT count(*) FROM {table}").fetchone()
            damage = check_pages(database, thorough=False).damage if thorough else ()
    except sqlite3.Error as problem:
        code = primary_code(problem)
        if code in _BUSY:
            return None
        if code == sqlite3.SQLITE_FULL:
            return Fault(str(path), f"its disk is full ({problem})", Section.FULL)
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return Fault(str(path), f"SQLite cannot open it ({problem})", Section.OWNER)
        how = "damaged" if code in _DAMAGED else "SQLite cannot read it"
        return Fault(str(path), f"{how} ({problem})", section)
    return Fault(str(path), f"damaged ({damage[0]})", section) if damage else None


def _places(locations: Locations) -> list[_Place]:
    """The files and folders of the settings; for one that is missing, the nearest folder above it."""
    found: dict[Path, _Place] = {}
    for name, path in locations.paths.items():
        if _on_server(locations, name):
            continue
        vital = name not in ("BACKUP_REPOSITORY", "CHROMA_PATH", "REFSERVER_FILES")
        wanted = [path, path.parent] if name in ("REFSERVER_DATABASE", "REFSERVER_CONTROL_DATABASE") else [path]
        if name == "CHROMA_PATH":
            wanted.append(path / "chroma.sqlite3")
        for place in wanted:
            if _exists(place):
                found.setdefault(place, _Place(place, written=True, vital=vital))
            else:
                above = next(above for above in place.parents if _exists(above))
                found.setdefault(above, _Place(above, written=False, vital=vital))
    return list(found.values())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def _is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


def _traces(locations: Locations) -> str:
    """What shows that there was a library."""
    backups = locations.paths["BACKUP_REPOSITORY"] / "backups" / DEFAULT
    if not _on_server(locations, "BACKUP_REPOSITORY") and _has_entry(backups):
        return f"{backups} holds backups"
    files = locations.paths["REFSERVER_FILES"]
    return f"{files} holds documents" if _has_entry(files) else ""


def _has_entry(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise


def _indexed_backups(locations: Locations) -> int:
    [control] = locations.stores(CONTROL)
    if control.kind is not SourceKind.SQLITE or _on_server(locations, "REFSERVER_CONTROL_DATABASE") or _is_empty(control.path):
        return 0
    try:
        with closing(connect(control.path, timeout=1)) as database:
            query = "SELECT count(*) FROM backups_indexedbackup WHERE repository = 'main'"
            return int(database.execute(query).fetchone()[0])
    except sqlite3.Error:
        return 0


def _on_server(locations: Locations, name: str) -> bool:
    return "://" in locations.values.get(name, "")


def user_name(number: int) -> str:
    """The name of a user, or ``user 1234``."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def main() -> int:
    """Print whether a known repository is missing, for ``serve.sh``, which would create a new one. Returns 1 if it is."""
    fault = missing_repository(read_locations())
    if fault is not None:
        sys.stderr.write(f"serve.sh: {fault.as_text()}\n")
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main())
