"""The peers: other ways to back the same bytes up, each used only where it is installed.

A peer works in a folder of its own, with an own repository and an own cache. They read the SQLite file as
it is, so the benchmarks empty the WAL into it first; none of them could take it while it is written to.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .measure import Cost, run, size_of


class Contestant(Protocol):
    """One way to make backups, ours among them, with its repository in a folder of its own."""

    def prepare(self) -> None:
        """Make an empty repository (untimed)."""

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        """Back up a SQLite file or a Chroma directory; *read_all* does not believe size and mtime."""

    def restore(self, into: Path) -> Cost:
        """Restore the newest backup below *into*, which does not exist yet."""

    def verify(self) -> Cost:
        """Read and check every byte that is stored."""

    def stored(self) -> int:
        """The bytes of the repository."""


class _Restic:
    def __init__(self, folder: Path) -> None:
        self._repository = folder / "repository"
        self._env = {
            "RESTIC_REPOSITORY": str(self._repository),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }

    def prepare(self) -> None:
        run(["restic", "init", "--quiet"], env=self._env)

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        force = ["--force"] if read_all else []
        return run(
            ["restic", "backup", "--quiet", *force, source.name],
            cwd=source.parent,
            env=self._env,
        )

    def restore(self, into: Path) -> Cost:
        return run(["restic", "restore", "--quiet", "latest", "--target", str(into)], env=self._env)

    def verify(self) -> Cost:
        return run(["restic", "check", "--quiet", "--read-data"], env=self._env)

    def stored(self) -> int:
        return size_of(self._repository)


class _Borg:
    def __init__(self, folder: Path) -> None:
        self._repository = folder / "repository"
        self._count = 0
        self._env = {
            "BORG_REPO": str(self._repository),
            "BORG_BASE_DIR": str(folder / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def prepare(self) -> None:
        run(["borg", "init", "--encryption", "none"], env=self._env)

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        self._count += 1
        disbelieve = ["--files-cache", "disabled"] if read_all else []
        return run(
            ["borg", "create", "--compression", "zstd,1", *disbelieve, f"::{self._count}", source.name],
            cwd=source.parent,
            env=self._env,
        )

    def restore(self, into: Path) -> Cost:
        into.mkdir()
        return run(["borg", "extract", f"::{self._count}"], cwd=into, env=self._env)

    def verify(self) -> Cost:
        return run(["borg", "check", "--verify-data"], env=self._env)

    def stored(self) -> int:
        return size_of(self._repository)


class _Compressor:
    """One compressed file; with *copy*, of a copy made by SQLite's online backup, as a script would do it."""

    def __init__(self, folder: Path, program: list[str], suffix: str, *, copy: bool, sync: bool) -> None:
        self._program = program
        self._copy = folder / "copy" if copy else None
        self._archive = folder / f"archive{suffix}"
        self._sync = sync

    def prepare(self) -> None:
        self._archive.unlink(missing_ok=True)

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        if self._copy is None:
            return self._to_disk(self._pack(source), self._archive)
        copied = run(["sqlite3", str(source), f".backup '{self._copy}'"])
        cost = copied + self._pack(self._copy)
        self._copy.unlink()
        return self._to_disk(cost, self._archive)

    def restore(self, into: Path) -> Cost:
        into.mkdir()
        restored = into / "library.sqlite3"
        return self._to_disk(self._redirected(["-d", "-c"], self._archive, restored), restored)

    def verify(self) -> Cost:
        return run([self._program[0], "-q", "-t", str(self._archive)])

    def stored(self) -> int:
        return size_of(self._archive)

    def _pack(self, source: Path) -> Cost:
        return self._redirected([*self._program[1:], "-c"], source, self._archive)

    def _redirected(self, options: list[str], source: Path, target: Path) -> Cost:
        script = 'target=$1; shift; exec "$@" > "$target"'
        return run(["sh", "-c", script, "sh", str(target), self._program[0], "-q", *options, str(source)])

    def _to_disk(self, cost: Cost, path: Path) -> Cost:
        return cost + run(["sync", str(path)], flush=False) if self._sync else cost


_ZSTD = ["zstd", "-1", "-T0"]

LIMIT = "zstd -1 -T0"
SYNCED = "zstd -1 -T0, synced"
"""The limit again, waiting for the disk as a backup that promises to be there after a power cut must."""

_MAKERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Contestant]]] = {
    LIMIT: (("zstd",), lambda folder: _Compressor(folder, _ZSTD, ".zst", copy=False, sync=False)),
    SYNCED: (("zstd",), lambda folder: _Compressor(folder, _ZSTD, ".zst", copy=False, sync=True)),
    "borg": (("borg",), _Borg),
    "restic": (("restic",), _Restic),
    ".backup + zstd -1 -T0": (
        ("sqlite3", "zstd"),
        lambda folder: _Compressor(folder, _ZSTD, ".zst", copy=True, sync=False),
    ),
    ".backup + gzip -1": (
        ("sqlite3", "gzip"),
        lambda folder: _Compressor(folder, ["gzip", "-1"], ".gz", copy=True, sync=False),
    ),
}

DEDUPLICATING = ("borg", "restic")
"""The peers that have incremental backups."""


def installed() -> dict[str, str]:
    """The version of each program that is installed and that a peer needs."""
    programs = {program: None for needed, _ in _MAKERS.values() for program in needed}
    found: dict[str, str] = {}
    for program in programs:
        if shutil.which(program) is None:
            continue
        arguments = [program, "version" if program == "restic" else "--version"]
        told = subprocess.run(arguments, capture_output=True, text=True, check=False).stdout
        version = re.search(r"\d+(\.\d+)+", told)
        found[program] = version.group() if version else "of an unknown version"
    return found


def available() -> list[str]:
    """The names of the peers whose programs are all installed."""
    return [name for name, (needed, _) in _MAKERS.items() if all(shutil.which(program) for program in needed)]


def make(name: str, folder: Path) -> Contestant:
    """Set a peer up with an empty repository in *folder*, which is emptied. Raises `CommandFailed`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    contestant = _MAKERS[name][1](folder)
    contestant.prepare()
    return contestant
