"""Checks restored stores: SQLite's own checks, and Chroma's records against the digests of the manifest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .archive.sharing import Spot
from .chroma_files.tables import DATABASE
from .errors import Cancelled, EngineError, NoSpace
from .names import printable
from .runtime.child import Child
from .runtime.context import Context
from .types import Backup, Depth, Problem, Proof, SourceKind, SourceRecord

PROBER = "backups.engine.prober"
CLIENT_PROBER = "backups.engine.client_prober"
NO_CLIENT = "no client opened it"
_TO_IMPORT = 120.0
"""Seconds: on a machine just started, chromadb is read from a slow disk."""

_MOST_PROBLEMS = 50


@dataclass(slots=True)
class Findings:
    """The results of a verification so far. ``bytes`` counts what was read."""

    problems: list[Problem] = field(default_factory=list)
    spots: dict[Problem, Spot] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0

    def add(self, code: str, message: str, spot: Spot | None = None, **place: Any) -> None:
        """Add a problem and the damaged *spot* of an archive that causes it. Only the first fifty are kept."""
        if len(self.problems) < _MOST_PROBLEMS:
            problem = Problem(code=code, message=message, **place)
            self.problems.append(problem)
            if spot is not None:
                self.spots[problem] = spot


def check_stores(backup: Backup, folder: Path, findings: Findings, ctx: Context, *, only: set[str] | None = None) -> None:
    """Open the stores of *backup* restored in *folder* in a child process and compare them with the manifest.

    *only* limits it to stores of these prefixes. Problems go to *findings*; raises `NoSpace` and `Cancelled`.
    """
    for record in backup.manifest.sources:
        if only is not None and record.prefix not in only:
            continue
        if record.kind is SourceKind.SQLITE:
            _check_sqlite(record, folder / record.prefix, findings, ctx)
        elif record.kind is SourceKind.CHROMA:
            _check_chroma(record, folder / record.prefix, findings, ctx)


def _check_sqlite(record: SourceRecord, path: Path, findings: Findings, ctx: Context) -> None:
    if record.method == "raw":
        findings.problems.extend(record.problems)
        return
    with ctx.phase("verify", f"check {record.prefix}", record.bytes) as phase:
        answer = _ask_prober(ctx, "sqlite", findings, record, path.parent, path=str(path))
        phase.reach(record.bytes)
    if answer is None:
        return
    for message in answer["damage"]:
        findings.add("sqlite_integrity", message, source=record.name, file=record.prefix)
    findings.checks[record.prefix] = {**_sqlite_checks(answer), "tables": answer["rows"]}


def _sqlite_checks(answer: dict[str, Any]) -> dict[str, Any]:
    """The results of SQLite's checks."""
    results = {
        "integrity_check": "failed" if answer["damage"] else "partial" if answer["partial"] else "ok",
        "foreign_key_check": answer["broken_keys"],
    }
    return results | ({"findings": answer["findings"]} if answer["findings"] else {})


def unchecked_in(proof: Proof) -> list[str]:
    """What could not be checked of a store, without a full stop: of a database the first part, of Chroma the client."""
    found = []
    for name, about in proof.checks.items():
        if not isinstance(about, dict):
            continue
        if about.get("integrity_check") == "partial":
            first, *others = about.get("findings") or ["a part cannot be checked here"]
            found.append(printable(f"{name}: {first}" + (f" (and {len(others)} more)" if others else "")))
        if without_client(about):
            why = about.get("not_opened") or "nothing says why"
            found.append(printable(f"{name}: its records were compared from its files, but {NO_CLIENT}: {why}"))
    return found


def without_client(about: dict[str, Any]) -> bool:
    """Whether the checks of a store are those of a Chroma directory that no client opened."""
    return "chromadb" in about and about["chromadb"] is None


def unchecked(backup: Backup) -> list[str]:
    """What the newest restore of *backup* could not check (`unchecked_in`)."""
    return next((unchecked_in(proof) for proof in reversed(backup.proofs) if proof.depth is Depth.RESTORE), [])


def _check_chroma(record: SourceRecord, directory: Path, findings: Findings, ctx: Context) -> None:
    if any(problem.code == "chroma_structure" for problem in record.problems):
        findings.problems.extend(record.problems)
        return
    with ctx.phase("verify", f"compare {record.prefix}", record.bytes) as phase:
        pages = _ask_prober(ctx, "sqlite", findings, record, directory, path=str(directory / DATABASE))
        if pages is None:
            return
        for message in pages["damage"]:
            findings.add("chroma_structure", message, source=record.name, file=f"{record.prefix}/{DATABASE}")
        if pages["damage"]:
            return
        answer = _ask_prober(ctx, "digests", findings, record, directory, directory=str(directory))
        if answer is None:
            return
        if "problem" in answer:
            findings.add("chroma_structure", answer["problem"], source=record.name, file=record.prefix)
            return
        _compare_digests(record, answer["collections"], findings)
        opened = _open_with_client(record, directory, findings, ctx)
        phase.reach(record.bytes)
    if opened is None:
        return
    counts = {item["name"]: {"count": item["count"]} for item in answer["collections"].values()}
    findings.checks[record.prefix] = {**_sqlite_checks(pages), "collections": counts, **opened}


def _open_with_client(record: SourceRecord, directory: Path, findings: Findings, ctx: Context) -> dict[str, Any] | None:
    """What the client found: its version, and the counts of collections. Its version is None where no client opened it.

    None if the client crashes or hangs, which is a problem of the store.
    """
    try:
        child = Child(CLIENT_PROBER, ctx.chroma_python)
    except OSError as problem:
        return {"chromadb": None, "not_opened": f"{ctx.chroma_python} cannot be run ({problem.strerror})"}
    where = f"for {ctx.chroma_python}" if ctx.chroma_python else "here"
    with child:
        try:
            version = child.ask("version", timeout=_TO_IMPORT, check=ctx.check)
        except (NoSpace, Cancelled):
            raise
        except EngineError as problem:
            return {"chromadb": None, "not_opened": f"chromadb cannot be imported {where} ({problem.message.rstrip('.')})"}
        if version is None:
            return {"chromadb": None, "not_opened": f"chromadb is not installed {where}"}
        answer = _ask(child, ctx, "chroma", findings, record, directory=str(directory))
    if answer is None:
        return None
    if answer["older"]:
        return {"chromadb": None, "not_opened": f"chromadb {version} is older than the one that wrote it"}
    for message in answer["problems"]:
        findings.add("chroma_content", message, source=record.name, file=record.prefix)
    return {"chromadb": version, **({"collections": answer["collections"]} if answer["collections"] else {})}


def _compare_digests(record: SourceRecord, found: dict[str, dict[str, Any]], findings: Findings) -> None:
    expected = {item.id: item for item in record.collections}
    for identifier in sorted(expected.keys() | found.keys()):
        if identifier not in found or identifier not in expected:
            name = expected[identifier].name if identifier in expected else found[identifier]["name"]
            findings.add(
                "chroma_content",
                f"The collection {name} is only in the {'manifest' if identifier in expected else 'backup'}.",
                source=record.name,
            )
            continue
        wanted = expected[identifier].digest
        for part in ("count", "indexed", "recent", "records"):
            if found[identifier][part] != getattr(wanted, part):
                what = {"count": "number of records", "indexed": "digest of vectors", "recent": "log"}.get(
                    part, "digest of records"
                )
                findings.add(
                    "chroma_content",
                    f"The {what} of {expected[identifier].name} differs from the source.",
                    source=record.name,
                    file=record.prefix,
                )


def _ask_prober(
    ctx: Context, do: str, findings: Findings, record: SourceRecord, folder: Path, **arguments: str
) -> dict[str, Any] | None:
    """The answer of a new prober about a store in *folder*; None, and a problem, if it crashes or hangs."""
    with Child(PROBER, only=folder) as child:
        return _ask(child, ctx, do, findings, record, **arguments)


def _ask(
    child: Child, ctx: Context, do: str, findings: Findings, record: SourceRecord, **arguments: str
) -> dict[str, Any] | None:
    limit = 120.0 + record.bytes / 5_000_000  # seconds
    try:
        answer: dict[str, Any] = child.ask(do, timeout=limit, check=ctx.check, **arguments)
    except (NoSpace, Cancelled):
        raise
    except EngineError as problem:
        child.kill()
        findings.add("unopenable", f"{record.prefix} cannot be opened: {problem.message}", source=record.name)
        return None
    return answer
