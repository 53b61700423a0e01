"""A repository, sources that are made once and copied, and short ways to back up and to restore."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.create import Created, Request, create_backup
from backups.engine.repository.folder import Repository, initialise
from backups.engine.restore.to_folder import restore_to
from backups.engine.runtime.context import Context
from backups.engine.types import Backup, BackupKind, Depth, Source, SourceKind
from tests.capture.application import WIDTH
from tests.capture.peers import ACCOUNTS, EACH
from tests.capture.processes import Command, Peer, stop, until


def sqlite_source(path: Path, name: str = "app") -> Source:
    return Source(kind=SourceKind.SQLITE, name=name, path=path)


def chroma_source(path: Path, name: str = "vectors") -> Source:
    return Source(kind=SourceKind.CHROMA, name=name, path=path)


def files_source(path: Path, name: str = "papers") -> Source:
    return Source(kind=SourceKind.FILES, name=name, path=path)


def accounts(path: Path, *, wal: bool = True, page_size: int = 4096, padding: int = 0) -> Path:
    """A database of accounts for the peer ``transfer``; *padding* adds that many rows of about 1 kB."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA page_size = {page_size}")
    database.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
    database.execute("PRAGMA synchronous = OFF")
    database.executescript(
        "BEGIN; CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER);"
        "CREATE TABLE transfer (id INTEGER PRIMARY KEY, one INTEGER, other INTEGER, amount INTEGER, note TEXT);"
        "CREATE TABLE padding (id INTEGER PRIMARY KEY, text BLOB);"
    )
    database.executemany("INSERT INTO account VALUES (?, ?)", [(number, EACH) for number in range(ACCOUNTS)])
    database.executemany("INSERT INTO padding (text) VALUES (randomblob(1000))", [() for _ in range(padding)])
    database.execute("COMMIT")
    database.close()
    return path


def config(databases: list[Path], chromas: list[Path], **more: Any) -> str:
    """The argument of `application.py`."""
    settings: dict[str, Any] = {
        "databases": [str(path) for path in databases],
        "chromas": [str(path) for path in chromas],
        "files": None,
        "space": "l2",
        "threshold": 20,
        "sizes": [1, 12],
        "keep": 1500,
        "churn": False,
        "gate": False,
        "seed": 1,
        "only": None,
        "most": None,
    }
    return json.dumps(settings | more)


def write_batches(databases: list[Path], chromas: list[Path], *, most: int, **more: Any) -> None:
    """Let the application write *most* batches and end."""
    with Peer("tests.capture.application", config(databases, chromas, most=most, **more)) as application:
        while not (line := application.hear()).startswith("{"):
            pass
    assert json.loads(line)["batches"] == most


@dataclass(slots=True)
class Bench:
    """A repository with shortcuts; ``lines`` are the log of the last backup."""

    repository: Repository
    folder: Path
    lines: list[str] = field(default_factory=list)
    _restored: int = 0

    def create(self, *sources: Source, kind: str = "full", verify: str | None = None, **more: Any) -> Created:
        """Back up, in this process."""
        ctx = Context()
        more = {"within": 20.0, **more}
        request = Request(sources=sources, kind=BackupKind(kind), verify=Depth(verify) if verify else None, **more)
        try:
            return create_backup(self.repository, request, ctx)
        finally:
            self.lines = ctx.lines

    def restore(self, backup: Backup) -> Path:
        """Restore into a folder of its own."""
        self._restored += 1
        target = self.folder / f"restored-{self._restored}"
        restore_to(self.repository, backup, target, Context())
        return target

    def ids(self) -> list[str]:
        """Ids of all backups, newest first."""
        return self.repository.ids("default")

    def latest(self) -> str:
        return self.repository.find("latest", None).id

    def is_clear(self) -> bool:
        """Whether nothing is left staged."""
        return not any(
            any(folder.iterdir()) for folder in (self.repository.staging, self.repository.scratch) if folder.is_dir()
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(initialise(tmp_path / "repository", datetime.now(UTC)), tmp_path)


@pytest.fixture(scope="session")
def _grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite file and one Chroma directory that the application wrote and closed."""
    folder = tmp_path_factory.mktemp("grown")
    write_batches([folder / "app.sqlite3"], [folder / "chroma"], most=60)
    return folder


@dataclass(frozen=True, slots=True)
class Stores:
    """An application's stores, of which no process has anything open."""

    database: Path
    chroma: Path

    @property
    def sources(self) -> tuple[Source, Source]:
        return sqlite_source(self.database), chroma_source(self.chroma)

    @property
    def segment(self) -> Path:
        """The folder of the HNSW files."""
        (folder,) = [entry for entry in self.chroma.iterdir() if entry.is_dir()]
        return folder


@pytest.fixture
def stores(_grown: Path, tmp_path: Path) -> Stores:
    """A copy of grown stores for a test of its own."""
    live = tmp_path / "live"
    shutil.copytree(_grown, live)
    return Stores(live / "app.sqlite3", live / "chroma")


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that takes a while to store."""
    return accounts(tmp_path_factory.mktemp("large") / "large.sqlite3", padding=150_000)


def storing(bench: Bench, backup: Command) -> int:
    """Wait until something is stored, and stop the packer there; its id."""
    until(lambda: any(path.stat().st_size for path in bench.repository.staging.glob("*/data.tar.zst")), what="an archive")
    packer = backup.child("packer")
    stop(packer)
    return packer


@pytest.fixture
def application(tmp_path: Path) -> Any:
    """Starts applications that write until they are told to end; all are gone after the test."""
    started: list[Peer] = []

    def start(databases: list[Path], chromas: list[Path], **more: Any) -> Peer:
        peer = Peer("tests.capture.application", config(databases, chromas, **more))
        started.append(peer)
        assert peer.hear() == "ready"
        return peer

    yield start
    for peer in started:
        peer.__exit__()


@pytest.fixture
def peer() -> Any:
    """Starts a process of `peers.py` and waits until it is in position; all are gone after the test."""
    started: list[Peer] = []

    def start(*arguments: str | Path, **options: Any) -> Peer:
        begun = Peer("tests.capture.peers", *map(str, arguments), **options)
        started.append(begun)
        assert begun.hear() == "ready"
        return begun

    yield start
    for begun in started:
        begun.__exit__()


Start = Callable[..., Peer]
__all__ = ["WIDTH", "Bench", "Start", "Stores", "accounts", "chroma_source", "config", "files_source", "sqlite_source"]
