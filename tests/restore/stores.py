"""Real stores to back up and restore: SQLite in WAL mode, Chroma in a child process, a folder of files, and their backups."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from backups.engine.create import Request, create_backup
from backups.engine.repository.folder import Repository, initialise
from backups.engine.runtime.context import Context
from backups.engine.types import Backup, BackupKind, Depth, Source, SourceKind

ROOT = Path(__file__).resolve().parents[2]
DIMENSION = 16


class ChromaError(Exception):
    """What Chroma's client raised."""


class Chroma:
    """A real client in a child process (`chroma_client`). Use as a context manager."""

    def __init__(self, directory: Path, *, gate: bool = False) -> None:
        arguments = [sys.executable, "-m", "tests.restore.chroma_client", str(directory), *(["gate"] if gate else [])]
        self._process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, do: str, name: str = "", **more: Any) -> None:
        """Ask without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "name": name, **more}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest request that has none yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChromaError(f"the client ended with status {self._process.wait()}")
        message = json.loads(line)
        if "error" in message:
            raise ChromaError(message["error"])
        return message["ok"]

    def ask(self, do: str, name: str = "", **more: Any) -> Any:
        self.send(do, name, **more)
        return self.answer()

    def create(self, name: str, *, space: str = "l2", threshold: int = 1000, **more: Any) -> None:
        hnsw = {"space": space, "sync_threshold": threshold, "batch_size": min(100, threshold)} | more.pop("hnsw", {})
        self.ask("create", name, options={"configuration": {"hnsw": hnsw}, **more.pop("options", {})}, **more)

    def call(self, name: str, method: str, **arguments: Any) -> Any:
        return self.ask(method, name, arguments=arguments)

    def all(self, name: str) -> dict[str, Any]:
        return self.ask("all", name)

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Chroma:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def vector(seed: object) -> list[float]:
    chosen = random.Random(str(seed))
    return [round(chosen.uniform(-1, 1), 6) for _ in range(DIMENSION)]


# SQLite


def make_database(path: Path, rows: int = 200, *, mode: str = "wal", page_size: int = 4096, tag: str = "first") -> None:
    """A database with *rows* rows of some 700 bytes that no compressor shrinks much."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, tag TEXT NOT NULL, body TEXT NOT NULL)")
        database.execute("CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        database.execute("INSERT INTO counter VALUES (1, 0)")
        database.execute("BEGIN")
        database.executemany("INSERT INTO item VALUES (?, ?, ?)", ((n, tag, body(n, tag)) for n in range(rows)))
        database.execute("COMMIT")


def body(number: int, tag: str) -> str:
    return random.Random(f"{tag}{number}").randbytes(350).hex()


def change_rows(path: Path, tag: str, numbers: list[int]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(
            "INSERT OR REPLACE INTO item VALUES (?, ?, ?)", ((number, tag, body(number, tag)) for number in numbers)
        )
        database.execute("COMMIT")


def rows_of(path: Path, *, immutable: bool = False) -> list[tuple[int, str, str]]:
    """All rows; *immutable* leaves no file beside a database that nobody has open."""
    how = "mode=ro&immutable=1" if immutable else "mode=ro"
    with closing(sqlite3.connect(f"file:{path}?{how}", uri=True, timeout=10)) as database:
        return database.execute("SELECT * FROM item ORDER BY id").fetchall()


def tags_of(path: Path) -> set[str]:
    return {tag for _, tag, _ in rows_of(path)}


# Folders


def tree_of(folder: Path, *, times: bool = True) -> dict[str, tuple[Any, ...]]:
    """All that a folder holds: kind, mode, time stamp and content of each path."""
    found: dict[str, tuple[Any, ...]] = {}
    for place in sorted(folder.rglob("*")):
        name = str(place.relative_to(folder))
        status = place.lstat()
        stamp = (status.st_mode & 0o777, status.st_mtime_ns) if times else ()
        if place.is_symlink():
            found[name] = ("link", str(place.readlink()))
        elif place.is_dir():
            found[name] = ("folder", *stamp)
        else:
            found[name] = ("file", *stamp, hashlib.sha256(place.read_bytes()).hexdigest())
    return found


@dataclass(frozen=True)
class Live:
    """An application's stores."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "app.sqlite3"

    @property
    def chroma(self) -> Path:
        return self.folder / "vectors"

    @property
    def files(self) -> Path:
        return self.folder / "papers"

    @property
    def sources(self) -> tuple[Source, ...]:
        return (
            Source(kind=SourceKind.SQLITE, name="app", path=self.database),
            Source(kind=SourceKind.CHROMA, name="vectors", path=self.chroma),
            Source(kind=SourceKind.FILES, name="papers", path=self.files),
        )

    @property
    def arguments(self) -> list[str]:
        return [f"--sqlite={self.database}", f"--chroma={self.chroma}", f"--files={self.files}"]

    def copy(self, target: Path) -> Live:
        """The stores somewhere else; nobody may be writing to them."""
        shutil.copytree(self.folder, target, symlinks=True)
        return Live(target)

    def archived(self, target: Path) -> Path:
        """A copy laid out as a restore lays it out."""
        for name, source in (("sqlite/app.sqlite3", self.database),):
            (target / name).parent.mkdir(parents=True)
            shutil.copy2(source, target / name)
        shutil.copytree(self.chroma, target / "chroma/vectors", symlinks=True)
        shutil.copytree(self.files, target / "files/papers", symlinks=True)
        return target


def make_files(folder: Path) -> None:
    """Names, modes, links and times of many kinds, and one file of several blocks."""
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "big.bin").write_bytes(random.Random(1).randbytes(700_000))
    (folder / "nothing").write_bytes(b"")
    (folder / "deep/er/naïve 名.txt").write_text("unicode")
    (folder / "letter.txt").write_text("kept for two backups")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o750)
    (folder / "deep/link").symlink_to("../tool.sh")
    (folder / "dangling").symlink_to("not-there")
    os.utime(folder / "nothing", ns=(1, 1_000_000_123_456_789_012 // 1000))
    (folder / "empty").chmod(0o711)


# Backups


def context(**more: Any) -> Context:
    return Context(**more)


def back_up(repository: Repository, sources: tuple[Source, ...], kind: str = "full", **more: Any) -> Backup:
    """A backup as `refbackup create` makes it."""
    request = Request(sources=sources, kind=BackupKind(kind), **more)
    return create_backup(repository, request, context()).backup


@dataclass(frozen=True)
class History:
    """A repository with a full backup and three incrementals of one application, and what each must bring back."""

    folder: Path
    ids: tuple[str, ...]

    @property
    def repository(self) -> Repository:
        return Repository(self.folder / "repository")

    @property
    def live(self) -> Live:
        return Live(self.folder / "live")

    def expected(self, number: int) -> Path:
        """What backup *number* must be restored to, laid out as a restore does it."""
        return self.folder / f"expected-{number}"

    def backup(self, number: int) -> Backup:
        return self.repository.load("default", self.ids[number])

    def place(self, number: int) -> Path:
        """The folder of backup *number*."""
        return self.repository.backup_folder("default", self.ids[number])


@cache
def history(factory: Callable[[str], Path]) -> History:
    """Made once a run; tests that change something take a copy."""
    folder = factory("history")
    live = Live(folder / "live")
    live.folder.mkdir()
    repository = initialise(folder / "repository", datetime.now(UTC))
    make_database(live.database, 3000)
    make_files(live.files)
    ids = []
    with Chroma(live.chroma) as chroma:
        chroma.create("indexed", space="cosine", threshold=100)
        chroma.create("logged", space="l2")
        for number, (kind, first, count) in enumerate(
            [("full", 0, 400), ("incremental", 380, 60), ("incremental", 430, 15), ("incremental", 0, 3)]
        ):
            names = [f"id-{n}" for n in range(first, first + count)]
            for name in ("indexed", "logged"):
                chroma.call(
                    name,
                    "upsert",
                    ids=names,
                    embeddings=[vector((n, number)) for n in names],
                    documents=[f"{n} of {number}" for n in names],
                    metadatas=[{"number": number, "odd": n[-1] in "13579", "of": [n, "x"]} for n in names],
                )
            if number:
                change_rows(live.database, f"change-{number}", [7 * number, 1500 + number, 2999 + number])
                with (live.files / "big.bin").open("r+b") as big:
                    big.seek(300_000 * (number - 1))
                    big.write(f"change {number}".encode())
                (live.files / f"new-{number}.txt").write_text(f"new {number}")
            if number == 2:
                (live.files / "nothing").unlink()
                (live.files / "letter.txt").unlink()
                chroma.call("logged", "delete", ids=["id-1", "id-2"])
            if number == 3:
                (live.files / "new-1.txt").unlink()
                (live.files / "new-2.txt").unlink()
            ids.append(back_up(repository, live.sources, kind).id)
            live.archived(folder / f"expected-{number}")
    return History(folder, tuple(ids))


def copy_of(original: History, target: Path) -> History:
    """A repository of the test's own, without stores."""
    target.mkdir(exist_ok=True)
    shutil.copytree(original.folder / "repository", target / "repository", symlinks=True)
    return History(target, original.ids)


# The command


@dataclass(frozen=True)
class Ran:
    """What a run of `refbackup` in a process of its own did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without settings that name other repositories or stores."""
    ours = ("BACKUP_", "REFSERVER_", "CHROMA_", "REFBACKUP_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def refbackup(*arguments: object, cwd: Path, stdin: str = "", **environment: str) -> Ran:
    """Run the command in a process of its own, in *cwd*."""
    done = subprocess.run(
        [sys.executable, "-m", "backups.engine", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**environment),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def until(question: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Ask until the answer is true; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


@contextmanager
def python(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A child process that runs *source*; killed at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def verified(repository: Repository, backup: Backup, depth: str) -> Any:
    """The proof of a verification."""
    from backups.engine.verify import verify_backup

    return verify_backup(repository, backup, Depth(depth), context())
