"""Restores over the live stores, while the application is stopped."""

import contextlib
import os
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from backups.engine.doctor import diagnose
from backups.engine.errors import (
    Cancelled,
    DamageFound,
    EngineError,
    RestoreIncomplete,
    RestoreRefused,
    SourceBusy,
    from_os_error,
)
from backups.engine.runtime import durable
from backups.engine.runtime.context import Context
from backups.engine.types import Source, SourceKind
from backups.engine.unfinished import abandoned, interrupted

from . import services
from .engine_run import EngineResult, EngineRun
from .interruption import Interruption
from .preview import End, Plan
from .report import Report

_MOVE_ASIDE_FOR = frozenset({"source_broken", "permission"})
"""Why no safety backup could be made, where moving the stores aside keeps them as well."""


class Stores(Enum):
    """What the live stores hold."""

    OLD = "as before"
    NEW = "the backup's data"
    MIXED = "data of different times"
    UNDONE = "as before the interrupted restore"


class InPlaceRestore:
    """Restores *plan*; afterwards its attributes describe the outcome, also after an error.

    *stop_services* is called once, when the data is staged and checked.
    """

    def __init__(
        self,
        plan: Plan,
        engine: EngineRun,
        report: Report,
        interruption: Interruption,
        *,
        go_on_while_open: bool,
        stop_services: Callable[[], object],
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._report = report
        self._interruption = interruption
        self._go_on_while_open = go_on_while_open
        self._stop_services = stop_services
        self._stopped = False
        self.stores = Stores.OLD
        self.safety_backup = ""
        self.aside: list[tuple[Path, Path]] = []
        """Stores that were moved aside: from, to."""

    def run(self) -> None:
        """Restore and check the live stores. Raises `EngineError`."""
        report, targets = self._report, self._plan.targets
        self._interruption.check()
        made = self._make_folders()
        if targets:
            report.step("Staging the backup and checking it; nothing is stopped yet")
        error = self._restore()
        if (
            isinstance(error, RestoreRefused)
            and error.details.get("reason") in _MOVE_ASIDE_FOR
            and not self._interruption.requested
        ):
            report.write(f"    {error.message}")
            self._move_aside(str(error.details["reason"]))
            report.step("Restoring again")
            error = self._restore()
            if error is not None and self.stores is Stores.OLD:
                self._put_back()
        if error is not None:
            if self.stores is Stores.OLD:
                for folder in reversed(made):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise error
        if targets:
            self._check_live(targets)

    def _stop(self) -> None:
        """Stop what uses the stores, now that their replacements are ready. Raises `SourceBusy` if one is still open."""
        self._interruption.check()
        if not self._stopped:
            self._stopped = True
            self._stop_services()
            self._refuse_open_stores()
        if self._plan.targets:
            self._report.step("Making a safety backup, exchanging the stores")

    def _refuse_open_stores(self) -> None:
        opened = services.holders((*self._plan.targets, *self._plan.aside))
        if opened and not self._go_on_while_open:
            raise SourceBusy(
                f"{_open_text(opened)}. Nothing was changed.",
                hint="Stop that process and run this again, or use --yes to continue while it has the store open.",
            )
        for path, processes in opened.items():
            self._report.write(f"{path} is still open in {processes}. Continuing because of --yes.")

    def _make_folders(self) -> list[Path]:
        """Make the stores' missing folders, owned by the owner of the folder around them."""
        made = []
        for target in self._plan.targets:
            missing = [folder for folder in target.path.parents if not folder.exists()]
            for folder in reversed(missing):
                try:
                    folder.mkdir(mode=0o700)
                    if os.geteuid() == 0:
                        parent = folder.parent.stat()
                        os.chown(folder, parent.st_uid, parent.st_gid)
                except OSError as problem:
                    raise from_os_error(problem, f"Making the folder {folder}") from problem
                made.append(folder)
        return made

    def _restore(self) -> EngineError | None:
        """Run the restore, and finish it if it was killed during the exchange. Returns what went wrong; sets `stores`."""
        paths = [source.path for source in self._plan.sources]
        stores = [f"--{source.kind}={source.name}={source.path}" for source in self._plan.sources]
        only = ["--only", self._plan.only] if self._plan.only else []
        if self._plan.end is not None:
            result = self._engine.restore("", self._plan.end, *stores, when_ready=self._stop)
        else:
            result = self._engine.restore(self._plan.backup.id, "--in-place", *only, *stores, when_ready=self._stop)
        if self._outcome(result) is None:
            return None
        unfinished = interrupted(paths)
        if unfinished is None:
            if self.stores is not Stores.NEW:
                for folder in abandoned(paths):  # staged, before anything was changed
                    durable.remove_tree(folder)
            killed = self._interruption.requested and result.code < 0
            return Cancelled("Stopped. Nothing was changed.") if killed else result.error
        self.stores = Stores.MIXED
        if unfinished.journal is not None:
            self.safety_backup = unfinished.journal.safety_backup
        if result.code >= 0 or self._interruption.requested:
            return result.error
        self._report.write("    The restore was killed while it exchanged stores. Ending it, so that all are of one time.")
        return self._outcome(self._engine.restore("", self._plan.end or End.FINISH, *stores, when_ready=self._stop))

    def _outcome(self, result: EngineResult) -> EngineError | None:
        """What went wrong, if anything. Sets `stores` if they are new."""
        error = result.error
        if error is None:
            self.stores = Stores.UNDONE if self._plan.end is End.UNDO else Stores.NEW
            self.safety_backup = self.safety_backup or result.answer["checks"].get("safety_backup", "")
            self.aside += [(Path(path), Path(place)) for path, place in result.answer["checks"].get("moved_aside", {}).items()]
            self._engine.report_checks(result.answer)
        elif isinstance(error, RestoreIncomplete):
            self.safety_backup = self.safety_backup or str(error.details.get("safety_backup") or "")
            if error.details.get("restored"):
                self.stores = Stores.NEW
        return error

    def _move_aside(self, reason: str) -> None:
        """Rename the stores that cannot be backed up; on the same disk, so that it needs no space."""
        present = [target for target in self._plan.targets if os.path.lexists(target.path)]
        broken = present
        if reason == "source_broken":
            subjects = [
                finding.subject
                for finding in diagnose(None, tuple(present), Context()).findings
                if finding.level in ("problem", "warning")
            ]
            broken = [
                target
                for target in present
                if any(subject.startswith(str(target.path)) for subject in subjects) or _is_wrong_type(target)
            ] or present
        if opened := services.holders(broken):
            raise SourceBusy(
                f"It cannot be moved aside: {_open_text(opened)}. Nothing was changed.",
                hint="Stop that process and run this again.",
            )
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        for target in broken:
            for suffix in ("", "-wal", "-shm", "-journal") if target.kind is SourceKind.SQLITE else ("",):
                path = target.path.with_name(target.path.name + suffix)
                aside = target.path.with_name(f"{target.path.name}.before-{stamp}{suffix}")
                if os.path.lexists(path):
                    path.rename(aside)
                    self.aside.append((path, aside))
                    self._report.write(f"    moved aside: {path} -> {aside.name}")

    def _put_back(self) -> None:
        for path, aside in reversed(self.aside):
            if not os.path.lexists(path):
                aside.rename(path)
        self.aside.clear()

    def _check_live(self, targets: Sequence[Source]) -> None:
        """Check the live stores once more. Raises `DamageFound`."""
        self._report.step("Checking the live stores")
        paths = [target.path for target in targets]
        problems = []
        for finding in diagnose(None, tuple(targets), Context()).findings:
            if finding.level == "problem":
                problems.append(f"{finding.subject}: {finding.message}")
            elif finding.level == "ok" and any(finding.subject == str(path) for path in paths):
                self._report.write(f"    {finding.subject}: {finding.message}")
        for folder in abandoned(paths):
            self._report.write(f"    left by an earlier restore; remove it: rm -r {shlex.quote(str(folder))}")
        if problems:
            raise DamageFound("; ".join(problems), hint="Restore another backup: --list shows them.")


def _open_text(opened: dict[str, str]) -> str:
    return "; ".join(f"{path} is open in {processes}" for path, processes in opened.items())


def _is_wrong_type(target: Source) -> bool:
    """Whether there is a folder instead of a database, or the reverse."""
    return target.path.is_dir() if target.kind is SourceKind.SQLITE else not target.path.is_dir()
