"""Job types: consistency checks, repairs, and undoing them (``BACKUPS["KINDS"]``).

The two apps do not know each other. Here a command of one becomes a job of the other, a backup is made before each repair, and
proofs check the consistency of restored stores.
"""

import json
import secrets
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import consistency
from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.progress import counted
from backups.engine.types import SourceKind
from backups.jobs.arguments import Arguments, BackupArguments
from backups.jobs.job_type import JobType, always
from backups.jobs.types import engine, environment, job_type, management
from backups.models import IndexedBackup, Job
from consistency.declaration import option
from consistency.engine.errors import ConsistencyError, RepairRefused
from consistency.engine.findings import FindingKind
from consistency.resolution import description

Number = Annotated[int, Field(ge=1, lt=1 << 63)]

_WAIT = "300"
"""Seconds that the backup before a repair waits for another backup."""


class CheckArguments(Arguments):
    """With ``repair``, findings that are safe to repair are repaired, unless one is critical."""

    repair: Literal["", "safe"] = ""


class RepairArguments(Arguments):
    """The findings of ``of_check``, optionally limited to kinds or findings.

    ``all`` includes those needing confirmation; ``rows`` restores lost rows from backups.
    """

    of_check: Number
    scope: Literal["safe", "all", "rows"] = "safe"
    kinds: Annotated[tuple[FindingKind, ...], Field(max_length=len(FindingKind))] = ()
    findings: Annotated[tuple[Number, ...], Field(max_length=500)] = ()


class OfRepair(Arguments):
    """The repair to undo."""

    repair: Number


def _command(job: str, *more: str) -> list[str]:
    name = Job.objects.filter(pk=job).values_list("by", flat=True).first() if job else None
    actor = [f"--actor={name}"] if name else []
    return management("consistency_check", "--json", "--progress", "json", "--exit-zero", *actor, *more)


def _repair(arguments: RepairArguments, job: str) -> list[str]:
    kinds = [word for kind in arguments.kinds for word in ("--kind", str(kind))]
    findings = [word for number in arguments.findings for word in ("--finding", str(number))]
    return _command(job, "--repair", arguments.scope, "--of", str(arguments.of_check), *kinds, *findings)


def _summary(result: dict[str, Any]) -> str:
    repair = result.get("repair")
    if repair is not None:
        return _repair_summary(repair) + (f" Checked again: {_check_summary(result['again'])}" if "again" in result else "")
    if "state" not in result:
        return "No repair was unfinished."
    return f"{_check_summary(result)} {result.get('left_alone', '')}".strip()


def _check_summary(result: dict[str, Any]) -> str:
    number = result["findings"]
    findings = counted(number, "finding") if number else "no findings"
    return f"{result['state'].capitalize()}: {findings} in {result['records']:,} rows and records."


def _repair_summary(repair: dict[str, Any]) -> str:
    verb = {"done": "repaired", "undone": "put back"}.get(repair["state"], repair["state"])
    count = repair["steps"].get({"done": "applied"}.get(repair["state"], repair["state"]), 0)
    rest = {name: number for name, number in repair["steps"].items() if name in ("skipped", "kept")}
    more = "".join(f", {number:,} {name}" for name, number in rest.items())
    return f"{counted(count, 'record')} {verb}{more}."


_SHOWN: dict[str, Any] = {"sentence": _summary, "template": "consistency/outcome.html"}
_REPAIRS: dict[str, Any] = {**_SHOWN, "permission": "consistency.repair_finding", "planned": False, "dangerous": always}
CHECK = JobType(
    name="check_consistency",
    title="Check consistency",
    arguments=CheckArguments,
    command=lambda arguments, job: _command(job, *(["--repair", "safe", "--unattended"] if arguments.repair else [])),
    attempts=2,
    ready=lambda: bool(option("DECLARATION")),
    permission="consistency.run_check",
    dangerous=lambda arguments: bool(arguments.get("repair")),
    **_SHOWN,
)
REPAIR = JobType(name="repair_consistency", title="Repair findings", arguments=RepairArguments, command=_repair, **_REPAIRS)
UNDO = JobType(
    name="undo_repair",
    title="Undo repair",
    arguments=OfRepair,
    command=lambda arguments, job: _command(job, "--undo", str(arguments.repair)),
    **_REPAIRS,
)
RESUME = JobType(
    name="resume_repair",
    title="Resume repair",
    arguments=Arguments,
    command=lambda arguments, job: _command(job, "--resume"),
    **_REPAIRS,
)


def snapshot(reason: str) -> str:
    """Make and verify a snapshot before a repair (`Declaration.snapshot`), and return its id. Raises `RepairRefused`.

    It is an ordinary backup, made in a process of its own, as the repair's process holds databases open.
    """
    arguments = BackupArguments(backup="snapshot", note=reason, verify="hashes")
    command = [*job_type("backup").command(arguments, ""), "--wait", _WAIT]
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        answer = {"error": {"message": done.stderr.strip()[-500:] or f"It exited with status {done.returncode}.", "hint": ""}}
    if done.returncode or "error" in answer:
        problem = answer.get("error") or {"message": "Its verification failed.", "hint": ""}
        raise RepairRefused(
            f"No snapshot could be made before the repair: {problem['message']} Nothing was changed.",
            hint=problem.get("hint") or "Fix that first: every repair needs a snapshot.",
        )
    return str(answer["id"])


def copies_from_backups(database: Path) -> Generator[tuple[str, Path | None], None, None]:
    """Copies of a live SQLite file from its backups, newest first (``CONSISTENCY["BACKUPS"]``): the id of each, and its path.

    Each copy is made by ``refbackup restore`` in the repository's scratch folder, with every block checked, and removed before
    the next one. The path is None for a damaged backup, and for one that cannot be restored.
    """
    config, missing = configuration(), IndexedBackup.Verification.MISSING
    for row in IndexedBackup.objects.exclude(verification=missing).order_by("-time", "-backup_id"):
        try:
            sources = config.live_sources(row.set)
            repository = config.open(row.repository)
        except EngineError:
            continue
        here = (one for one in sources if one.kind is SourceKind.SQLITE and one.path.resolve() == database.resolve())
        source = next(here, None)
        if source is None or not any(one["kind"] == source.kind and one["name"] == source.name for one in row.sources):
            continue
        if row.verification in IndexedBackup.UNUSABLE:
            yield row.backup_id, None
            continue
        with repository.scratch_folder(secrets.token_hex(4)) as folder:
            target = folder / "copy"
            only = f"{source.kind}:{source.name}"
            more = (f"{row.set}/{row.backup_id}", "--to", str(target), "--only", only)
            command = engine("restore", Arguments(repository=row.repository), *more)
            done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
            yield row.backup_id, target / source.prefix if done.returncode == 0 else None


def examination(set_name: str) -> str:
    """The command that checks restored stores (``BACKUPS["EXAMINE"]``); "" for a set without both kinds of stores."""
    config = configuration()
    kinds = {source.kind for source in config.sources(set_name)} if set_name in config.sets else set()
    if not {SourceKind.SQLITE, SourceKind.CHROMA} <= kinds:
        return ""
    try:
        described = json.dumps(description().as_json(), separators=(",", ":"))
    except ConsistencyError:
        return ""  # `manage.py check` reports the problem of the declaration; the backup is made anyway
    place = f"PYTHONPATH={Path(consistency.__file__).parents[1]}"
    return shlex.join(["env", place, sys.executable, "-m", "consistency.probe", "--copy", "{folder}", "{instant}", described])
