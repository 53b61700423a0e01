"""What a restore would replace, stop and do. Changes nothing."""

import getpass
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from backups.engine.progress import duration, human_bytes
from backups.engine.repository.folder import Repository
from backups.engine.restore.dry_run import plan_in_place
from backups.engine.restore.to_folder import check_manifest
from backups.engine.shrinkage import unconfirmed_loss
from backups.engine.types import Backup, Source
from backups.engine.unfinished import mixture

from . import services
from .locations import Locations
from .report import Report
from .services import Service


class End(StrEnum):
    """How an interrupted restore is ended; the values are options of ``refbackup restore``."""

    FINISH = "--finish"
    UNDO = "--undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A restore in place: *sources* are all stores of the backup's set, *targets* the ones to replace.

    With *end*, an interrupted restore is ended by it. An undo moves *aside* the stores that did not exist before; if none did,
    there are no *targets*, and *backup* is the one whose restore is undone.
    """

    backup: Backup
    only: str | None
    sources: Sequence[Source]
    targets: Sequence[Source]
    running: Sequence[Service]
    end: End | None = None
    aside: Sequence[Source] = ()


def show_backup(repository: Repository, backup: Backup, only: str | None, locations: Locations, report: Report) -> None:
    """Report which backup is restored, how old it is, how it was verified, and whether it holds far less than earlier ones."""
    moment = backup.manifest.time
    age = duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))
    unverified = "" if backup.verified_at else ": it is checked before anything is changed"
    report.write(f"Recovery       {datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}, on {socket.gethostname()}, by {getpass.getuser()}")
    report.write(f"Repository     {locations.repository}")
    report.write(f"Backup         {backup.id}" + (f", only {only}" if only else ""))
    report.write(f"               of {moment:%Y-%m-%d %H:%M:%S} UTC, {age} ago. Later changes are not in it.")
    report.write(f"Proof          {backup.verification}{unverified}")
    if backup.manifest.note:
        report.write(f"Note           {backup.manifest.note}")
    if loss := unconfirmed_loss(repository.holds(backup.manifest.set), backup.id):
        report.write(f"WARNING        {loss}.")
    if mixed := mixture(backup.manifest):
        report.write(f"WARNING        {mixed}")


def show_plan(repository: Repository, plan: Plan, report: Report) -> None:
    """Report what is replaced and stopped. Raises what the restore would raise before it changes anything."""
    if not plan.targets:
        sizes_now = {}
    elif all(source.path.parent.is_dir() for source in plan.targets):
        sources = tuple(source for source in plan.sources if source not in plan.aside)
        planned = plan_in_place(repository, plan.backup, sources, only=plan.only)["targets"]
        sizes_now = {item["target"]: item["bytes_now"] for item in planned}
    else:
        check_manifest(repository, plan.backup)
        sizes_now = {}
    sizes_after = {(record.kind, record.name): record.bytes for record in plan.backup.manifest.sources}
    opened = services.holders(plan.targets)
    if plan.targets:
        report.write("Replaces")
    for target in plan.targets:
        size = sizes_now.get(os.path.realpath(target.path))
        before = "missing" if size is None else human_bytes(size)
        report.write(f"  {target.path}: {before} now, {human_bytes(sizes_after[target.kind, target.name])} after")
        if processes := opened.get(str(target.path)):
            report.write(f"    open in {processes}")
    if plan.aside:
        report.write("Moves aside")
    for source in plan.aside:
        report.write(f"  {source.path}, which did not exist before that restore")
    stops = ", ".join(service.title for service in plan.running) or "nothing: no running RefServer was found"
    report.write(f"Stops          {stops}")


def show_steps(plan: Plan, locations: Locations, report: Report) -> None:
    """Report each step of a dry run."""
    missing = sorted({target.path.parent for target in plan.targets if not target.path.parent.is_dir()})
    staging = (
        f"stage {plan.backup.id}{f' --only {plan.only}' if plan.only else ''} next to the stores, check every block against"
        " its hash, open the stores and compare",
    )
    exchanging = (
        "make a safety backup of the current stores in the repository; a store too damaged for one is moved aside",
        "exchange the stores, all at one instant; check them again; undo the exchange if that fails",
    )
    steps = [
        *(f"make the folder {folder}" for folder in missing),
        *(staging if plan.targets else ()),
        *(f"stop {service.title}" for service in plan.running),
        "refuse if a process still has a store open (with --yes: continue if the engine can)",
        *(exchanging if plan.targets else ()),
        *(f"move {source.path} aside" for source in plan.aside),
        *(f"start {service.title}" for service in plan.running),
        f"write a report into {locations.recovery}",
    ]
    report.write("\nDry run: nothing was changed. The steps would be")
    for number, step in enumerate(steps, 1):
        report.write(f"  {number}. {step}")
