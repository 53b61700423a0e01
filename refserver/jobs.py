"""What this project adds to the jobs: checks of consistency, repairs, and undoing them (``BACKUPS["KINDS"]``).

The two apps know nothing of each other. Here the one's command becomes the other's job, backups are made before repairs, and
proofs ask whether the restored stores are consistent.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Annotated, Any, Literal

from django.conf import settings
from pydantic import Field

from backups.conf import configuration
from backups.engine.types import SourceKind
from backups.jobs.types import Arguments, BackupArguments, JobType, job_type, management
from backups.models import Job
from consistency.engine.errors import ConsistencyError, RepairRefused
from consistency.engine.findings import FindingKind
from consistency.resolution import description

Number = Annotated[int, Field(ge=1, lt=1 << 63)]

_WAIT = "300"
"""Seconds that the backup before a repair waits for a backup that is being made."""


class CheckArguments(Arguments):
    """With ``repair``, what needs no question is repaired where nothing critical was found."""

    repair: Literal["", "safe"] = ""


class RepairArguments(Arguments):
    """What ``of_check`` found, and of that only some kinds or findings where they are named; ``all`` repairs what asks, too."""

    of_check: Number
    scope: Literal["safe", "all"] = "safe"
    kinds: Annotated[tuple[FindingKind, ...], Field(max_length=len(FindingKind))] = ()
    findings: Annotated[tuple[Number, ...], Field(max_length=500)] = ()


class OfRepair(Arguments):
    """Which repair."""

    repair: Number


def _command(job: str, *more: str) -> list[str]:
    """The app's command, in the name of who asked for the job."""
    who = Job.objects.filter(pk=job).values_list("by", flat=True).first() if job else None
    actor = [f"--actor={who}"] if who else []
    return management("check_consistency", "--json", "--progress", "json", "--exit-zero", *actor, *more)


def _check(arguments: CheckArguments, job: str) -> list[str]:
    return _command(job, *(["--repair", "safe", "--unattended"] if arguments.repair else []))


def _repair(arguments: RepairArguments, job: str) -> list[str]:
    kinds = [word for kind in arguments.kinds for word in ("--kind", str(kind))]
    findings = [word for number in arguments.findings for word in ("--finding", str(number))]
    return _command(job, "--repair", arguments.scope, "--of", str(arguments.of_check), *kinds, *findings)


def _undo(arguments: OfRepair, job: str) -> list[str]:
    return _command(job, "--undo", str(arguments.repair))


def _resume(arguments: Arguments, job: str) -> list[str]:
    return _command(job, "--resume")


def _told(found: dict[str, Any]) -> str:
    """What a check or a repair came to."""
    made = found.get("repair")
    if made is not None:
        return _told_of_repair(made) + (f" Checked again: {_told_of_check(found['again'])}" if "again" in found else "")
    if "state" not in found:
        return "No repair was unfinished."
    return f"{_told_of_check(found)} {found.get('left_alone', '')}".strip()


def _told_of_check(found: dict[str, Any]) -> str:
    number = found["findings"]
    what = "no finding" if not number else "1 finding" if number == 1 else f"{number:,} findings"
    return f"{found['state'].capitalize()}: {what} in {found['records']:,} rows and records."


def _told_of_repair(made: dict[str, Any]) -> str:
    verb = {"done": "mended", "undone": "put back"}.get(made["state"], made["state"])
    count = made["steps"].get({"done": "applied"}.get(made["state"], made["state"]), 0)
    rest = {name: number for name, number in made["steps"].items() if name in ("skipped", "kept")}
    more = "".join(f", {number:,} {name}" for name, number in rest.items())
    return f"{count:,} record{'' if count == 1 else 's'} {verb}{more}."


_SHOWN: dict[str, Any] = {"sentence": _told, "template": "consistency/outcome.html"}
CHECK = JobType(
    name="check_consistency",
    title="Check consistency",
    arguments=CheckArguments,
    command=_check,
    attempts=2,
    permission="consistency.run_check",
    **_SHOWN,
)
REPAIR = JobType(
    name="repair_consistency",
    title="Repair what a check found",
    arguments=RepairArguments,
    command=_repair,
    permission="consistency.repair_finding",
    planned=False,
    **_SHOWN,
)
UNDO = JobType(
    name="undo_repair",
    title="Undo a repair",
    arguments=OfRepair,
    command=_undo,
    permission="consistency.repair_finding",
    planned=False,
    **_SHOWN,
)
RESUME = JobType(
    name="resume_repair",
    title="Go on with a repair",
    arguments=Arguments,
    command=_resume,
    permission="consistency.repair_finding",
    planned=False,
    **_SHOWN,
)


def snapshot(reason: str) -> str:
    """Make and prove a snapshot before a repair (`Declaration.snapshot`); returns its id. Raises `RepairRefused`.

    It is a backup as any other, made by the engine's own process: that of a repair holds databases open.
    """
    arguments = BackupArguments(backup="snapshot", note=reason, verify="hashes")
    command = [*job_type("backup").command(arguments, ""), "--wait", _WAIT]
    done = subprocess.run(command, cwd=settings.BASE_DIR, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        answer = {"error": {"message": done.stderr.strip()[-500:] or f"It ended with status {done.returncode}.", "hint": ""}}
    if done.returncode or "error" in answer:
        problem = answer.get("error") or {"message": "Its proof failed.", "hint": ""}
        raise RepairRefused(
            f"No snapshot could be made before the repair: {problem['message']} Nothing was changed.",
            hint=problem.get("hint") or "Mend that first: a repair never begins without one.",
        )
    return str(answer["id"])


def examination(set_name: str) -> str:
    """The command that checks restored stores (``BACKUPS["EXAMINE"]``); "" for a set that has not both."""
    found = configuration()
    held = {source.kind for source in found.sources(set_name)} if set_name in found.sets else set()
    if not {SourceKind.SQLITE, SourceKind.CHROMA} <= held:
        return ""
    try:
        described = json.dumps(description().as_json(), separators=(",", ":"))
    except ConsistencyError:
        return ""  # `manage.py check` says what is wrong with the declaration; a backup is made all the same
    place = f"PYTHONPATH={settings.BASE_DIR}"
    return shlex.join(["env", place, sys.executable, "-m", "consistency.probe", "--copy", "{folder}", "{instant}", described])
