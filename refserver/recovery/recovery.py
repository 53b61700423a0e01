"""One recovery: preview, confirmation, lock, restore, summary."""

import contextlib
import selectors
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backups.engine.errors import BackupNotFound, Cancelled, DamageFound, EngineError, RepositoryLocked, RestoreRefused
from backups.engine.names import MANIFEST
from backups.engine.progress import duration, human_bytes
from backups.engine.repository.folder import Repository
from backups.engine.restore.to_folder import select
from backups.engine.runtime import durable, locks
from backups.engine.runtime.context import Context
from backups.engine.runtime.ownership import give_to_owner
from backups.engine.types import Backup, Depth, Problem
from backups.engine.unfinished import UnfinishedExchange, unfinished_exchange
from backups.engine.verify import record_failure

from . import services
from .engine_run import EngineRun
from .faults import FINISH_OR_UNDO
from .in_place import InPlaceRestore, Stores
from .interruption import Interruption
from .locations import CONTROL, DEFAULT, ROOT, Locations, read_locations
from .preview import End, Plan, show_backup, show_plan, show_steps
from .report import Report
from .stopped import killed_recovery, start_left, stopped

ANSWER_SECONDS = 900.0
"""How long to wait for the id to be typed."""

_SUMMARY = {
    Stores.OLD: "The data is OLD: as it was before this recovery.",
    Stores.NEW: "The data is NEW: the backup's.",
    Stores.MIXED: "The stores may be MIXED, of different times. Run this before you start the application:\n"
    f"               {ROOT}/scripts/disaster_recovery.sh --finish    (or --undo)",
    Stores.UNDONE: "The data is OLD: as it was before the interrupted restore.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to restore, as on the command line."""

    backup: str = ""
    end: End | None = None
    set: str | None = None
    only: str | None = None
    to: Path | None = None
    dry_run: bool = False
    yes: bool = False


class Recovery:
    """One run of ``scripts/disaster_recovery.sh``."""

    def __init__(self, request: Request, locations: Locations, report: Report) -> None:
        self._request = request
        self._locations = locations
        self._report = report
        self._began = time.monotonic()
        self._changed = False
        self._interruption = Interruption(report)
        self._engine = EngineRun(locations, report, self._interruption)

    def run(self) -> int:
        """Restore, and return the exit code. Raises `EngineError`."""
        request, report = self._request, self._report
        repository = self._locations.open_repository()
        end = request.end or self._offered_end()
        if end is End.FINISH and self._interrupted() is None and self._start_left():
            return 0
        if end is not None:
            plan = self._plan_end(repository, end)
        else:
            backup = repository.find(request.backup, request.set)
            for skipped, problem in backup.skipped:
                report.write(f"WARNING        {skipped} is newer, but damaged, and is skipped: {problem.message}")
            if request.to is not None:
                return self._into_folder(repository, backup, request.to)
            plan = self._plan(backup)
        while True:
            try:
                return self._restore(repository, plan)
            except DamageFound as damage:
                sounder = self._after_damage(repository, plan, damage)
                if sounder is None:
                    raise
                report.write(f"\n{damage.message}\nIt is marked as damaged. The next newest sound backup is {sounder.id}.\n")
                plan = self._plan(sounder)

    def _restore(self, repository: Repository, plan: Plan) -> int:
        """Preview, confirm and restore. Raises `DamageFound` if the backup is damaged, before anything is stopped."""
        request, report = self._request, self._report
        if plan.targets:
            show_backup(repository, plan.backup, plan.only, self._locations, report)
        else:
            report.write(f"Before the restore of {plan.backup.id} none of its stores existed.")
        show_plan(repository, plan, report)
        if request.dry_run:
            show_steps(plan, self._locations, report)
            return 0
        self._confirm(plan.backup)
        with self._lock(), self._interruption.caught():
            report.keep(self._locations.recovery)
            with contextlib.ExitStack() as services_stopped:
                restore = InPlaceRestore(
                    plan,
                    self._engine,
                    report,
                    self._interruption,
                    go_on_while_open=request.yes,
                    stop_services=lambda: services_stopped.enter_context(
                        stopped(
                            plan.running,
                            plan.backup.id,
                            self._locations,
                            report,
                            self._interruption,
                            may_start=lambda: restore.stores is not Stores.MIXED,
                        )
                    ),
                )
                services_stopped.callback(self._summarize, restore)
                services_stopped.callback(self._give_to_owners)
                try:
                    restore.run()
                finally:
                    self._changed = restore.stores is not Stores.OLD
        return 0

    def _after_damage(self, repository: Repository, plan: Plan, damage: DamageFound) -> Backup | None:
        """The next sound backup, if *plan* was to restore the newest, which has turned out to be damaged.

        The damage is recorded, unless the engine has done so.
        """
        if self._request.backup != "latest" or self._request.dry_run or plan.end is not None or self._changed:
            return None
        with contextlib.suppress(BackupNotFound):
            backup = repository.find("latest", self._request.set)
            if backup.id == plan.backup.id:
                problem = Problem(code="restore", message=damage.message, file=MANIFEST)
                record_failure(repository, backup, Depth.HASHES, [problem], Context())
                backup = repository.find("latest", self._request.set)
            return backup if backup.id != plan.backup.id else None
        return None

    def _plan(self, backup: Backup) -> Plan:
        chosen = {(record.kind, record.name) for record in select(backup, self._request.only)}
        sources = self._locations.targets(backup)
        return Plan(
            backup=backup,
            only=self._request.only,
            sources=sources,
            targets=[source for source in sources if (source.kind, source.name) in chosen],
            running=services.running(self._locations),
        )

    def _interrupted(self) -> UnfinishedExchange | None:
        return unfinished_exchange([*self._locations.stores(DEFAULT), *self._locations.stores(CONTROL)])

    def _start_left(self) -> bool:
        """Start what a recovery left stopped that was killed before or after its exchange; whether there was one."""
        killed = killed_recovery(self._locations)
        if killed is None:
            return False
        self._report.write(killed.message)
        if self._request.dry_run:
            self._report.write("Dry run: it would be started. Nothing was changed.")
            return True
        with self._lock():
            self._report.keep(self._locations.recovery)
            try:
                start_left(killed, self._locations, self._report)
            finally:
                self._give_to_owners()
        return True

    def _plan_end(self, repository: Repository, end: End) -> Plan:
        """What finishes or undoes the interrupted restore. Raises `RestoreRefused` if there is none, or its record is lost."""
        unfinished = self._interrupted()
        journal = unfinished.journal if unfinished is not None else None
        if unfinished is None or journal is None:
            raise RestoreRefused(
                unfinished.message if unfinished is not None else "No restore was interrupted in the exchange.",
                hint="Restore a backup of all stores with --backup-id ID. Nothing was changed."
                if unfinished is not None
                else "Nothing was changed. --look names the safety backup of a recovery that was killed after it.",
            )
        self._report.write(unfinished.message)
        aside = unfinished.created if end is End.UNDO else ()
        backup_id = journal.backup if end is End.FINISH or not journal.safety_backup else journal.safety_backup
        return Plan(
            backup=repository.load(journal.set, backup_id),
            only=journal.only if end is End.FINISH else None,
            sources=unfinished.sources,
            targets=[source for source in unfinished.sources if source not in aside],
            running=services.running(self._locations),
            end=end,
            aside=aside,
        )

    def _offered_end(self) -> End | None:
        """How a person wants to end an interrupted restore, asked before the newest backup is restored instead.

        Raises `ExchangeUnfinished` if nobody answers. A backup that a person chose is restored without a question: it may be
        the only one that is left.
        """
        request = self._request
        unfinished = unfinished_exchange(self._locations.stores(request.set or DEFAULT))
        if unfinished is None or request.backup != "latest" or request.to is not None or request.dry_run:
            return None
        if not request.yes and sys.stdin.isatty():
            self._report.write(unfinished.message)
            with contextlib.suppress(ValueError):
                question = (
                    "Type finish to complete that restore, undo to bring back the data from before it, anything else to stop: "
                )
                return End(f"--{_ask(question)}")
        error = unfinished.as_error("Nothing was changed.")
        error.hint = f"{FINISH_OR_UNDO} The first completes that restore, the second brings the old data back."
        raise error

    def _confirm(self, backup: Backup) -> None:
        """Have the id typed on a terminal; elsewhere ``--yes`` is needed. Raises `RestoreRefused`, `Cancelled`."""
        if self._request.yes:
            return
        if not sys.stdin.isatty():
            raise RestoreRefused(
                "This replaces live data, and there is no terminal to confirm it on. Nothing was changed.",
                hint="Preview it with --dry-run first, then use --yes.",
            )
        typed = _ask("Type the backup's id to continue, anything else to stop: ")
        if typed != backup.id:
            raise RestoreRefused("The id was not typed. Nothing was changed.")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One recovery at a time. Raises `RepositoryLocked`."""
        durable.make_folder(self._locations.recovery)
        with locks.exclusive(self._locations.recovery / "lock") as acquired:
            if not acquired:
                raise RepositoryLocked("Another recovery is running.", hint="Wait until it ends. This one changed nothing.")
            yield

    def _into_folder(self, repository: Repository, backup: Backup, folder: Path) -> int:
        request, report = self._request, self._report
        show_backup(repository, backup, request.only, self._locations, report)
        report.write(f"Into           {folder}; nothing live is changed")
        arguments = ["--to", str(folder), *(["--only", request.only] if request.only else [])]
        arguments.append("--dry-run" if request.dry_run else "--check")
        if not request.dry_run:
            report.keep(self._locations.recovery)
        with self._interruption.caught():
            report.step("Trying the restore" if request.dry_run else "Restoring and checking")
            result = self._engine.restore(backup.id, *arguments)
            self._give_to_owners()
        if result.error is not None:
            report.write("    Nothing was written.")
            raise result.error
        if request.dry_run:
            report.write(f"    Dry run: {human_bytes(result.answer['bytes'])} would be written. Nothing was changed.")
            return 0
        self._engine.report_checks(result.answer)
        for path in sorted(folder.glob("*/*")):
            report.write(f"Restored       {path}")
        if result.answer["damaged"]:
            report.write("This is the damaged data as it was backed up: exit code 5.")
        return result.code

    def _give_to_owners(self) -> None:
        """Give what root wrote to the users who go on writing there."""
        paths = self._locations.paths
        for place in (self._locations.repository, self._locations.recovery, paths["REFSERVER_RUN_DIR"]):
            give_to_owner(place)

    def _way_back(self, safety_backup: str) -> str:
        """The command that brings the replaced data back; if that was damaged, into a folder."""
        command = f"{shlex.quote(str(ROOT / 'scripts' / 'disaster_recovery.sh'))} --backup-id {safety_backup}"
        if self._locations.repository != read_locations().repository:
            command += f" --repo {shlex.quote(str(self._locations.repository))}"
        with contextlib.suppress(EngineError):
            if self._locations.open_repository().find(safety_backup, None).manifest.problems:
                return f"{command} --to {shlex.quote(str(ROOT / 'var' / 'restored' / safety_backup))}"
        return command

    def _summarize(self, restore: InPlaceRestore) -> None:
        """Report what the stores hold, how to go back, and how long it took."""
        write = self._report.write
        write()
        write(_SUMMARY[restore.stores])
        if restore.stores not in (Stores.OLD, Stores.UNDONE) and restore.safety_backup:
            write(f"Safety backup  {restore.safety_backup}")
            write(f"To go back     {self._way_back(restore.safety_backup)}")
        for path, aside in restore.aside:
            write(f"Moved aside    {path} -> {aside}")
        write(f"Took           {duration(time.monotonic() - self._began)}")


def _ask(question: str) -> str:
    """What is typed on the terminal; "" after `ANSWER_SECONDS`. Raises `Cancelled`."""
    try:
        sys.stdout.write(f"\n{question}")
        sys.stdout.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(sys.stdin, selectors.EVENT_READ)
            return sys.stdin.readline().strip() if ready.select(ANSWER_SECONDS) else ""
    except KeyboardInterrupt:
        raise Cancelled("Stopped. Nothing was changed.", hint="Run it again when you are ready.") from None
