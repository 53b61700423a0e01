"""The contestants: `refbackup` and other programs that back up the same bytes, each with its own repository and cache.

The others copy the SQLite file as it is, so the benchmarks empty the WAL into it first.
"""

import json
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measure import CommandFailed, Cost, run, size_of

NAME = "refbackup"
LIMIT = "zstd -1 -T0"
SYNCED = "zstd -1 -T0, synced"
"""The limit, followed by a sync: the price of durability on this disk."""
DEDUPLICATING = ("borg", "restic")
"""The peers that have incremental backups."""

_ROOT = Path(__file__).parent.parent
_SETTINGS = ("BACKUP_REPOSITORY", "REFSERVER_DATABASE", "CHROMA_PATH", "REFSERVER_FILES")


class Contestant(ABC):
    """A program that makes backups, with an empty repository in *folder*, which is emptied. Methods raise `CommandFailed`."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.repository = folder / "repository"
        self.initialise()

    @abstractmethod
    def initialise(self) -> None:
        """Create the repository (untimed)."""

    @abstractmethod
    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        """Back up a SQLite file or a Chroma directory; *read_all* ignores size and mtime."""

    @abstractmethod
    def restore(self, target: Path) -> Cost:
        """Restore the newest backup into the new folder *target*."""

    @abstractmethod
    def verify(self) -> Cost:
        """Read and check every stored byte."""

    def stored(self) -> int:
        """Return the bytes of the repository."""
        return size_of(self.repository)


class Ours(Contestant):
    """The command ``refbackup`` of this folder."""

    watch_memory = False

    def initialise(self) -> None:
        self.call("init")

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        """Make an incremental backup, or a full one if it is the first. For *read_all* the caller sets a new mtime."""
        return self.create(source)

    def create(self, *sources: Path, kind: str = "incremental") -> Cost:
        """Back up SQLite files and Chroma directories, without verification."""
        options = [part for path in sources for part in ("--chroma" if path.is_dir() else "--sqlite", str(path))]
        return self.call("create", "--kind", kind, *options, "--no-verify")

    def restore(self, target: Path) -> Cost:
        return self.call("restore", "latest", "--to", str(target))

    def verify(self) -> Cost:
        return self.call("verify", "--all", "--depth", "hashes")

    def bookkeeping(self, backup_id: str) -> int:
        """Return the bytes of a backup that are not content: all files but the archive, and the archive's table."""
        [folder] = self.repository.glob(f"backups/*/{backup_id}")
        manifest = json.loads((folder / "manifest.json").read_text())
        return size_of(folder) - size_of(folder / "data.tar.zst") + int(manifest["data"]["table_bytes"])

    def call(self, command: str, *arguments: str) -> Cost:
        """Run a command of ``refbackup`` with ``--json``."""
        return run(
            [sys.executable, "-m", "backups.engine", command, *arguments, "--repo", str(self.repository), "--json"],
            cwd=self.folder,
            env={"PYTHONPATH": str(_ROOT), **dict.fromkeys(_SETTINGS)},
            watch_memory=self.watch_memory,
        )


def report(cost: Cost) -> dict[str, Any]:
    """Return the JSON object that a command printed. Raises `CommandFailed` if it printed none."""
    try:
        parsed: dict[str, Any] = json.loads(cost.output)
    except ValueError as error:
        raise CommandFailed([NAME], 0, f"no JSON object: {cost.output[:200]}") from error
    return parsed


def start_up() -> Cost:
    """Return the cost of ``refbackup --help``, which every measured command includes."""
    return run([sys.executable, "-m", "backups.engine", "--help"], cwd=_ROOT)


class _Restic(Contestant):
    def initialise(self) -> None:
        self.env = {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
        }
        self.call("init")

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        return self.call("backup", *["--force"] * read_all, source.name, cwd=source.parent)

    def restore(self, target: Path) -> Cost:
        return self.call("restore", "latest", "--target", str(target))

    def verify(self) -> Cost:
        return self.call("check", "--read-data")

    def call(self, command: str, *arguments: str, cwd: Path | None = None) -> Cost:
        return run(["restic", command, "--quiet", *arguments], cwd=cwd, env=self.env)


class _Borg(Contestant):
    def initialise(self) -> None:
        self.count = 0
        self.env = {
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(self.folder / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        run(["borg", "init", "--encryption", "none"], env=self.env)

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        self.count += 1
        cache = ["--files-cache", "disabled"] if read_all else []
        command = ["borg", "create", "--compression", "zstd,1", *cache, f"::{self.count}", source.name]
        return run(command, cwd=source.parent, env=self.env)

    def restore(self, target: Path) -> Cost:
        target.mkdir()
        return run(["borg", "extract", f"::{self.count}"], cwd=target, env=self.env)

    def verify(self) -> Cost:
        return run(["borg", "check", "--verify-data"], env=self.env)


class _Compressor(Contestant):
    """Compresses one file."""

    program: tuple[str, ...] = ("zstd", "-1", "-T0")
    suffix = ".zst"

    def initialise(self) -> None:
        self.repository = self.folder / f"archive{self.suffix}"

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        return self.redirected(self.program[1:], source, self.repository)

    def restore(self, target: Path) -> Cost:
        target.mkdir()
        return self.redirected(("-d",), self.repository, target / "library.sqlite3")

    def verify(self) -> Cost:
        return run([self.program[0], "-q", "-t", str(self.repository)])

    def redirected(self, options: tuple[str, ...], source: Path, target: Path) -> Cost:
        script = 'target=$1; shift; exec "$@" > "$target"'
        return run(["sh", "-c", script, "sh", str(target), self.program[0], "-q", *options, "-c", str(source)])


class _Synced(_Compressor):
    def redirected(self, options: tuple[str, ...], source: Path, target: Path) -> Cost:
        return super().redirected(options, source, target) + run(["sync", str(target)], flush=False)


class _CopyCompressor(_Compressor):
    """Compresses a copy made by SQLite's online backup, as a script would."""

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        copy = self.folder / "copy"
        cost = run(["sqlite3", str(source), f".backup '{copy}'"]) + super().backup(copy)
        copy.unlink()
        return cost


class _CopyGzip(_CopyCompressor):
    program = ("gzip", "-1")
    suffix = ".gz"


_CONTESTANTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Contestant]]] = {
    NAME: ((), Ours),
    LIMIT: (("zstd",), _Compressor),
    SYNCED: (("zstd",), _Synced),
    "borg": (("borg",), _Borg),
    "restic": (("restic",), _Restic),
    ".backup + zstd -1 -T0": (("sqlite3", "zstd"), _CopyCompressor),
    ".backup + gzip -1": (("sqlite3", "gzip"), _CopyGzip),
}


def installed() -> dict[str, str]:
    """Return the version of each installed program that a peer needs."""
    versions: dict[str, str] = {}
    for program in dict.fromkeys(program for programs, _ in _CONTESTANTS.values() for program in programs):
        if shutil.which(program):
            command = [program, "version" if program == "restic" else "--version"]
            output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            version = re.search(r"\d+(\.\d+)+", output)
            versions[program] = version.group() if version else "of an unknown version"
    return versions


def available() -> list[str]:
    """Return the names of the contestants whose programs are all installed."""
    return [name for name, (programs, _) in _CONTESTANTS.items() if all(map(shutil.which, programs))]


def make(name: str, folder: Path) -> Contestant:
    """Create a contestant. Raises `CommandFailed`."""
    return _CONTESTANTS[name][1](folder)
