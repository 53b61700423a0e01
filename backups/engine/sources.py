"""The sources of a backup: checks before it is made, what the packer does with each, and their records in the manifest."""

import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

from .capture.cut import Cut, Instant
from .errors import NoSpace, SourceBroken, UsageError
from .names import printable
from .repository.folder import Repository
from .runtime import folders
from .runtime.context import Context
from .types import Collection, LeftOut, Problem, Source, SourceKind, SourceRecord

_LEAST_FREE = 128 << 20
"""Bytes that the growing log of a pinned database must leave free on its disk."""

_MOST_LOGGED = 100
"""Lines in the log about what a source does not hold."""


def check_sources(sources: tuple[Source, ...], repository: Repository) -> None:
    """Raise one `UsageError` or `SourceBroken` that lists all problems with the names and paths of the sources."""
    problems = []
    missing = []
    if not sources:
        problems.append("no source given: use --sqlite, --chroma or --files")
    prefixes = [source.prefix for source in sources]
    for prefix in sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1}):
        problems.append(f"two sources would be stored as {prefix}: name them with NAME=PATH")
    places = [(source.kind, source.path.resolve()) for source in sources]
    for _, place in sorted({place for place in places if places.count(place) > 1}):
        problems.append(f"{place} is given twice")
    for one, other in _hard_links(sources):
        problems.append(f"{one} and {other} are two names of one file: SQLite keeps a log for each name, and loses data by it")
    for source in sources:
        wrong = _wrong_with(source)
        if wrong:
            missing.append(f"{source.path}: {wrong}")
        if source.kind is SourceKind.CHROMA and _inside(repository.folder, source.path):
            problems.append(f"the repository lies inside the Chroma directory {source.path}")
        if _inside(source.path, repository.folder):
            problems.append(f"{source.path} lies inside the repository")
    if problems:
        raise UsageError("; ".join(problems) + ".")
    if missing:
        raise SourceBroken("; ".join(missing) + ".", hint="Correct the paths. No backup was made.")


def _hard_links(sources: tuple[Source, ...]) -> list[tuple[Path, Path]]:
    """Pairs of databases that are one file under two names."""
    seen: dict[tuple[int, int], Path] = {}
    found = []
    for source in sources:
        if source.kind is SourceKind.SQLITE and source.path.is_file():
            status = source.path.stat()
            first = seen.setdefault((status.st_dev, status.st_ino), source.path)
            if first.resolve() != source.path.resolve():
                found.append((first, source.path))
    return found


def _wrong_with(source: Source) -> str | None:
    if not source.path.exists():
        return "does not exist"
    if source.kind is SourceKind.SQLITE:
        if not source.path.is_file():
            return "is not a file"
    elif not source.path.is_dir():
        return "is not a folder"
    if not os.access(source.path, os.R_OK):
        return "is not readable by this user"
    return None


def _inside(inner: Path, outer: Path) -> bool:
    return inner.resolve().is_relative_to(outer.resolve())


def size_of(source: Source) -> int:
    """The approximate bytes of a source, for progress."""
    if source.kind is SourceKind.SQLITE:
        return source.path.stat().st_size
    return sum(status.st_size for _, status in folders.below(source.path) if not stat.S_ISDIR(status.st_mode))


class LogWatch:
    """Stops a backup before the log of a pinned database, which cannot shrink meanwhile, fills the disk."""

    def __init__(self, databases: list[Path], ctx: Context) -> None:
        files = [path.resolve() for path in databases]
        self._logs = [path.with_name(path.name + "-wal") for path in files]
        self._ctx = ctx
        self._checked = time.monotonic()

    def check(self) -> None:
        self._ctx.check()
        now = time.monotonic()
        if now - self._checked < 1.0:
            return
        self._checked = now
        for log in self._logs:
            try:
                size = log.stat().st_size
            except FileNotFoundError:
                continue
            if size > _LEAST_FREE and shutil.disk_usage(log.parent).free < _LEAST_FREE:
                raise NoSpace(
                    f"{log} grew to {size >> 20} MiB while its database was pinned, and the disk is almost full.",
                    hint="Free space on the database's disk, or back up when there are fewer writes. Nothing was published.",
                )


def pack_request(
    source: Source, sources: list[Source], instant: Instant, cut: Cut, repository: Repository, exclude: tuple[str, ...]
) -> dict[str, Any]:
    """The packer's request for a source; *exclude* are patterns for folders of files."""
    packed: dict[str, Any] = {"kind": str(source.kind), "prefix": source.prefix}
    if source.kind is SourceKind.SQLITE:
        pin = instant.pins[source.name]
        live = pin.method != "online"
        packed |= {"path": str(source.path.resolve() if live else cut.staged(source)), "pinned": pin.version}
        packed["beside"] = ["-wal", "-journal"] if pin.method == "raw" else []
    elif source.kind is SourceKind.CHROMA:
        packed["intact"] = source.name not in instant.broken
    else:
        others = [other.path for other in sources if other is not source]
        beside = [path.with_name(path.name + suffix) for path in others for suffix in ("-wal", "-shm", "-journal", ".gate")]
        elsewhere = [str(path) for path in [*others, *beside, repository.folder]]
        packed |= {"path": str(source.path), "elsewhere": elsewhere, "exclude": exclude}
    return packed


def record_of(
    source: Source,
    instant: Instant,
    tally: dict[str, Any],
    digests: dict[str, tuple[Collection, ...] | Problem],
    rows: dict[str, int | None],
    exclude: tuple[str, ...],
    ctx: Context,
) -> SourceRecord:
    """The manifest's record of a source."""
    absent = [LeftOut.model_validate(item) for item in tally["left_out"]]
    losses_first = sorted(absent, key=lambda item: not item.reason.is_loss)
    for note in [*(item.message for item in losses_first[:_MOST_LOGGED]), *tally["notes"]]:
        ctx.log(f"{source.prefix}: {printable(note)}")
    if len(absent) > _MOST_LOGGED:
        ctx.log(f"{source.prefix}: and {len(absent) - _MOST_LOGGED:,} more, which the manifest lists")
    problems: list[Problem] = []
    method = "walked"
    collections: tuple[Collection, ...] = ()
    if source.kind is SourceKind.SQLITE:
        pin = instant.pins[source.name]
        method = pin.method
        if pin.method == "raw":
            problems.append(Problem(code="sqlite_integrity", source=source.name, file=source.path.name, message=pin.reason))
    elif source.kind is SourceKind.CHROMA:
        found = digests.get(source.prefix)
        method = "cut"
        if source.name in instant.broken:
            method = "raw"
            message = instant.broken[source.name]
            problems.append(Problem(code="chroma_structure", source=source.name, file="chroma.sqlite3", message=message))
        elif isinstance(found, Problem):
            problems.append(found)
        elif found is not None:
            collections = found
    if tally["files"] and not tally["read"] and tally["bytes"] and method in ("pinned", "cut"):
        method = "unchanged"
    return SourceRecord.model_validate(
        {
            "kind": source.kind,
            "name": source.name,
            "path": printable(str(source.path.absolute())),
            "method": method,
            "bytes": tally["bytes"],
            "files": tally["files"],
            "same_instant": source.kind is not SourceKind.SQLITE or instant.pins[source.name].log_bytes >= 0,
            "pause_ms": round(instant.pause.get((source.kind, source.name), 0.0), 3),
            "version": instant.versions.get(source.name) if source.kind is SourceKind.CHROMA else None,
            "collections": collections,
            "rows": {name: count for name, count in rows.items() if count is not None},
            "uncounted": [name for name, count in rows.items() if count is None],
            "problems": problems,
            "left_out": absent,
            "exclude": exclude if source.kind is SourceKind.FILES else (),
        }
    )


def log_cut(instant: Instant, ctx: Context) -> None:
    """Log how each database was captured, and how long writers were held up."""
    for name, pin in instant.pins.items():
        if pin.method != "pinned":
            ctx.log(f"sqlite/{name} is not read in place but copied ({pin.method}): {pin.reason}")
        elif pin.log_bytes > 64 << 20:
            ctx.log(f"sqlite/{name} has a write-ahead log of {pin.log_bytes >> 20} MiB")
    for (kind, name), ms in instant.pause.items():
        ctx.log(f"{kind}/{name}: writers were held up for {ms:.1f} ms")
    if instant.attempts > 1:
        ctx.log(f"The cut took {instant.attempts} attempts")
