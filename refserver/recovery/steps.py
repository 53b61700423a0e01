"""A restore, from the look at the backup to the application that runs again."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backups.engine.doctor import diagnose
from backups.engine.errors import (
    Cancelled,
    DamageFound,
    EngineError,
    RepositoryLocked,
    RestoreIncomplete,
    RestoreRefused,
    SourceBusy,
    from_json,
    from_os_error,
)
from backups.engine.progress import duration, human_bytes
from backups.engine.repository.folder import Repository, open_repository
from backups.engine.restore.in_place import plan_in_place
from backups.engine.restore.stage import leftovers
from backups.engine.restore.targets import STAGE
from backups.engine.restore.to_folder import check_manifest, select
from backups.engine.runtime import durable, locks
from backups.engine.runtime.context import Context
from backups.engine.runtime.processes import end_with_parent
from backups.engine.types import Backup, Source, SourceKind

from . import services
from .places import ROOT, Places
from .report import Report
from .services import Service

ANSWER_WITHIN = 900.0
"""Seconds that a person has to type the id."""

END_WITHIN = 300.0
"""Seconds that a restore may take to end after it was asked to; an exchange that began is finished or undone."""

_ASIDE_FOR = frozenset({"source_broken", "permission"})
"""Why no safety backup could be made, where setting the stores aside keeps them as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the operator asked for; *to* and the others as on the command line."""

    backup: str
    set: str | None = None
    only: str | None = None
    to: Path | None = None
    dry_run: bool = False
    yes: bool = False


@dataclass(slots=True)
class _Ended:
    """How a run of the engine ended: its exit code (negative: by a signal) and what it answered."""

    code: int
    answer: dict[str, Any]

    @property
    def error(self) -> EngineError | None:
        if self.code == 0 or (self.code == 5 and "error" not in self.answer and self.answer):
            return None
        if "error" in self.answer:
            return from_json(self.answer["error"])
        how = f"by signal {signal.Signals(-self.code).name}" if self.code < 0 else f"with exit code {self.code}"
        return EngineError(f"The restore ended {how} before it could say how far it was.")


@dataclass(slots=True)
class Recovery:
    """One run. `run` is all of it."""

    request: Request
    places: Places
    report: Report
    began: float = field(default_factory=time.monotonic)
    asked_to_end: str = ""
    """The signal that asked; it is followed where it is safe."""
    told_end: bool = False
    state: str = "old"
    """What the live stores hold: "old" (as before), "new" (the backup's) or "mixed"."""
    safety: str = ""
    aside: list[tuple[Path, Path]] = field(default_factory=list)

    def run(self) -> int:
        """Do it, and return the exit code. Raises `EngineError`."""
        repository = open_repository(self.places.repository)
        backup = repository.find(self.request.backup, self.request.set)
        if self.request.to is not None:
            return self._into_folder(repository, backup, self.request.to)
        chosen = {(record.kind, record.name) for record in select(backup, self.request.only)}
        sources = self.places.targets(backup)
        targets = [source for source in sources if (source.kind, source.name) in chosen]
        running = services.running(self.places)
        self._introduce(backup)
        self._show_plan(repository, backup, sources, targets, running)
        if self.request.dry_run:
            self._show_steps(backup, targets, running)
            return 0
        self._agree(backup)
        with self._alone(), self._signals():
            self.report.keep(self.places.recovery)
            try:
                self._in_place(backup, sources, targets, running)
            finally:
                self._give_back(repository.folder)
                self._conclude()
        return 0

    # Looking

    def _introduce(self, backup: Backup) -> None:
        moment = backup.manifest.time
        age = duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))
        say = self.report.say
        say(f"Recovery       {datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}, on {socket.gethostname()}, by {getpass.getuser()}")
        say(f"Repository     {self.places.repository}")
        say(f"Backup         {backup.id}" + (f", {self.request.only} of it" if self.request.only else ""))
        say(f"               of {moment:%Y-%m-%d %H:%M:%S} UTC, {age} ago. What was written since is not in it.")
        say(
            f"Proof          {backup.verification}"
            + ("" if backup.verified_at else ": it is checked before anything is changed")
        )
        if backup.manifest.note:
            say(f"Note           {backup.manifest.note}")

    def _show_plan(
        self,
        repository: Repository,
        backup: Backup,
        sources: Sequence[Source],
        targets: Sequence[Source],
        running: Sequence[Service],
    ) -> None:
        """Say what would be replaced. Raises what the restore would raise before it changes anything."""
        say = self.report.say
        if all(source.path.parent.is_dir() for source in targets):
            planned = plan_in_place(repository, backup, tuple(sources), only=self.request.only)["targets"]
            now = {item["target"]: item["bytes_now"] for item in planned}
        else:
            check_manifest(repository, backup)
            now = {}
        sizes = {(record.kind, record.name): record.bytes for record in backup.manifest.sources}
        opened = services.holders(targets)
        say("Replaces")
        for target in targets:
            path = os.path.realpath(target.path)
            had = now.get(path)
            before = "nothing" if had is None else human_bytes(had)
            say(f"  {target.path}: {before} there now, {human_bytes(sizes[target.kind, target.name])} after")
            if who := opened.get(str(target.path)):
                say(f"    open in {who}")
        say(f"Stops          {', '.join(service.title for service in running) or 'nothing: no service that it knows runs'}")

    def _show_steps(self, backup: Backup, targets: Sequence[Source], running: Sequence[Service]) -> None:
        chosen = f" --only {self.request.only}" if self.request.only else ""
        steps = [f"stop {service.title}" for service in running]
        steps += ["refuse if a process still has a store open (with --yes: go on where the engine can)"]
        steps += [
            f"make the folder {folder}" for folder in sorted({t.path.parent for t in targets if not t.path.parent.is_dir()})
        ]
        steps += [
            f"write {backup.id}{chosen} beside the stores, check every block against its hash, open the stores and compare",
            "keep what is there now as a safety backup in the repository; a store too broken for one is moved aside",
            "exchange the stores, all at one instant; check them again; put everything back if that fails",
        ]
        steps += [f"start {service.title}" for service in running]
        steps += [f"write a report into {self.places.recovery}"]
        self.report.say("\nDry run: nothing was changed. It would")
        for number, step in enumerate(steps, 1):
            self.report.say(f"  {number}. {step}")

    def _agree(self, backup: Backup) -> None:
        """Have the id typed on a terminal; elsewhere ``--yes`` is needed. Raises `RestoreRefused`, `Cancelled`."""
        if self.request.yes:
            return
        if not sys.stdin.isatty():
            raise RestoreRefused(
                "This replaces live data, and there is no terminal to ask at. Nothing was changed.",
                hint="Look with --dry-run first, then give --yes.",
            )
        try:
            sys.stdout.write("\nType the backup's id to go on, anything else to stop: ")
            sys.stdout.flush()
            with selectors.DefaultSelector() as ready:
                ready.register(sys.stdin, selectors.EVENT_READ)
                typed = sys.stdin.readline().strip() if ready.select(ANSWER_WITHIN) else ""
        except KeyboardInterrupt:
            raise Cancelled("Stopped. Nothing was changed.", hint="Run it again when you are ready.") from None
        if typed != backup.id:
            raise RestoreRefused("The id was not typed. Nothing was changed.")

    # Beginning and ending

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One recovery at a time. Raises `RepositoryLocked`."""
        durable.make_folder(self.places.recovery)
        with locks.exclusive(self.places.recovery / "lock") as acquired:
            if not acquired:
                raise RepositoryLocked("Another recovery is under way.", hint="Wait for it to end. This one changed nothing.")
            yield

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn Ctrl-C, SIGTERM and a lost terminal into a wish that is followed where it is safe."""

        def ask(number: int, _: object) -> None:
            self.asked_to_end = signal.Signals(number).name  # told later: the handler may have come amid a line

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _check(self) -> None:
        if self.asked_to_end:
            self._tell_end()
            raise Cancelled("Stopped.", hint="Run it again when you are ready.")

    def _tell_end(self) -> None:
        if not self.told_end:
            self.told_end = True
            self.report.say(f"\n{self.asked_to_end}: ending. Please wait, so that no store is left half-way.")

    @contextlib.contextmanager
    def _stopped(self, running: Sequence[Service]) -> Iterator[None]:
        """Stop the services, and start them again however this ends, unless the stores may be of different times."""
        noted = self.places.recovery / "stopped.json"
        left = [service for service in services.recall(noted) if not _same(service, running)]
        if left:
            names = ", ".join(service.title for service in left)
            self.report.say(f"An earlier recovery that did not end had stopped {names}: it will be started, too.")
        stopped = [*left]
        services.remember(noted, [*running, *left])
        failed: EngineError | None = None
        try:
            for service in running:
                self.report.step(f"Stopping {service.title}")
                stopped.insert(0, service)
                try:
                    service.stop(self._check)
                except Cancelled:  # it was told to stop and will: wait, or it would not be started again
                    service.stop(lambda: None)
                    raise
            yield
        finally:
            for service in reversed(stopped) if self.state != "mixed" else ():
                if any(_same(service, [other]) for other in services.running(self.places)):
                    continue  # it was not stopped after all, or somebody started it
                self.report.step(f"Starting {service.title.partition(' (')[0]}")
                try:
                    self.report.say(f"    {service.start()}")
                except EngineError as problem:
                    failed = problem
                    self.report.say(f"    {problem.message}\n    -> {problem.hint}")
            if self.state == "mixed" and stopped:
                names = ", ".join(service.title for service in stopped)
                self.report.say(f"\nNot started, because the stores may be of different times: {names}.")
            else:
                services.forget(noted)
        if failed is not None:
            raise failed

    def _conclude(self) -> None:
        """The last words: what the stores hold, how to go back, how long it took."""
        say = self.report.say
        say()
        say(
            {
                "old": "The data is OLD: as it was before this recovery.",
                "new": "The data is NEW: the backup's.",
                "mixed": "The stores may be MIXED, of different times: restore again before the application is started.",
            }[self.state]
        )
        if self.state != "old" and self.safety:
            say(f"Kept before    {self.safety}")
            say(f"To go back     scripts/disaster_recovery.sh --backup-id {self.safety}")
        for path, place in self.aside:
            say(f"Moved aside    {path} -> {place}")
        say(f"Took           {duration(time.monotonic() - self.began)}")

    def _give_back(self, folder: Path) -> None:
        """Let what root wrote into the repository belong to its owner, who goes on writing there."""
        owner = folder.stat()
        if os.geteuid() != 0 or owner.st_uid == 0:
            return
        for where, folders, files in os.walk(folder):
            for name in (*folders, *files):
                place = Path(where, name)
                with contextlib.suppress(OSError):
                    if place.lstat().st_uid == 0:
                        os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)

    # Restoring

    def _into_folder(self, repository: Repository, backup: Backup, folder: Path) -> int:
        self._introduce(backup)
        self.report.say(f"Into           {folder}; nothing live is touched")
        more = ["--to", str(folder), *(["--only", self.request.only] if self.request.only else [])]
        if self.request.dry_run:
            more.append("--dry-run")
        else:
            self.report.keep(self.places.recovery)
            more.append("--check")
        with self._signals():
            self.report.step("Trying the restore" if self.request.dry_run else "Restoring, and checking what came out")
            ended = self._engine(backup.id, *more)
            self._give_back(repository.folder)
        if ended.error is not None:
            self.report.say("    Nothing was written.")
            raise ended.error
        size = human_bytes(ended.answer["bytes"])
        if self.request.dry_run:
            self.report.say(f"    Dry run: {size} would be written. Nothing was changed.")
            return 0
        self.report.say(
            f"    {size} in {duration(ended.answer['seconds'])}; every block compared with its hash, every store opened"
        )
        self._tell_checks(ended.answer)
        for place in sorted(folder.glob("*/*")):
            self.report.say(f"Restored       {place}")
        return 0

    def _in_place(
        self, backup: Backup, sources: Sequence[Source], targets: Sequence[Source], running: Sequence[Service]
    ) -> None:
        with self._stopped(running):
            self._check()
            opened = services.holders(targets)
            if opened and not self.request.yes:
                who = "; ".join(f"{path} is open in {who}" for path, who in opened.items())
                raise SourceBusy(
                    f"{who}. Nothing was changed.",
                    hint="Stop that process and run this again; or give --yes to go on while it has the store open.",
                )
            for path, who in opened.items():
                self.report.say(f"{path} is still open in {who}. Going on, as --yes was given.")
            made = self._make_folders(targets)
            self.report.step("Writing the backup beside the stores, checking it, keeping what is there, exchanging")
            error = self._restore(backup, sources)
            if isinstance(error, RestoreRefused) and error.details.get("reason") in _ASIDE_FOR and not self.asked_to_end:
                self.report.say(f"    {error.message}")
                self._move_aside(targets, str(error.details["reason"]))
                self.report.step("Restoring once more")
                error = self._restore(backup, sources)
                if error is not None and self.state == "old":
                    self._put_back()
            if error is not None:
                if self.state == "old":
                    for folder in reversed(made):
                        with contextlib.suppress(OSError):
                            folder.rmdir()
                raise error
            self._look(targets)

    def _make_folders(self, targets: Sequence[Source]) -> list[Path]:
        """Make the folders that stores lie in, where a new machine has none. They belong to whom the folder around belongs."""
        made = []
        for target in targets:
            missing = [folder for folder in target.path.parents if not folder.exists()]
            for folder in reversed(missing):
                try:
                    folder.mkdir(mode=0o700)
                    if os.geteuid() == 0:
                        around = folder.parent.stat()
                        os.chown(folder, around.st_uid, around.st_gid)
                except OSError as problem:
                    raise from_os_error(problem, f"Making the folder {folder}") from problem
                made.append(folder)
        return made

    def _restore(self, backup: Backup, sources: Sequence[Source]) -> EngineError | None:
        """Run the restore; once more when it was killed while stores were exchanged. Returns what went wrong; sets `state`."""
        more = ["--in-place", "--yes", *(["--only", self.request.only] if self.request.only else [])]
        for source in sources:
            more += [f"--{source.kind}", f"{source.name}={source.path}"]
        known = {left["folder"] for left in leftovers([source.path for source in sources])}
        ended = self._engine(backup.id, *more)
        error = ended.error
        if error is None:
            self._succeed(ended.answer)
            return None
        if isinstance(error, RestoreIncomplete):
            self.safety = self.safety or str(error.details.get("safety_backup") or "")
            self.state = "new" if error.details.get("restored") else "mixed"
            return error
        left = [one for one in leftovers([source.path for source in sources]) if one["folder"] not in known]
        self.safety = self.safety or next((one["safety_backup"] for one in left if one.get("safety_backup")), "")
        if all(one["phase"] != "exchanging" for one in left):
            for one in left:  # made by this run, before it changed anything
                durable.remove_tree(Path(one["folder"]))
            self.state = "old"
            return Cancelled("Stopped. Nothing was changed.") if self.asked_to_end and ended.code < 0 else error
        self.state = "mixed"
        if self.asked_to_end:
            return error
        self.report.say("    It was cut off while stores were exchanged. Doing it again, so that all are of one time.")
        again = self._engine(backup.id, *more)
        if again.error is not None:
            return again.error
        self._succeed(again.answer)
        for one in left:
            if one.get("safety_backup"):  # the stores in it are kept there, too
                durable.remove_tree(Path(one["folder"]))
        return None

    def _succeed(self, answer: dict[str, Any]) -> None:
        self.state = "new"
        self.safety = self.safety or answer["checks"].get("safety_backup", "")
        size, seconds = human_bytes(answer["bytes"]), duration(answer["seconds"])
        self.report.say(f"    {size} in {seconds}; every block compared with its hash, every store opened")
        self._tell_checks(answer)

    def _tell_checks(self, answer: dict[str, Any]) -> None:
        for name, found in answer["checks"].items():
            if not isinstance(found, dict):
                continue
            if "integrity_check" in found:
                rows = sum(count for count in found["tables"].values() if isinstance(count, int))
                self.report.say(
                    f"    {name}: integrity_check {found['integrity_check']}, {rows:,} rows in {len(found['tables'])} tables"
                )
            elif "collections" in found:
                counts = ", ".join(f"{title} {about['count']:,}" for title, about in found["collections"].items())
                self.report.say(f"    {name}: opened, searched and compared; {counts}")

    def _engine(self, backup_id: str, *arguments: str) -> _Ended:
        """Run ``refbackup restore``, tell its lines, and end it when asked to."""
        command = [sys.executable, "-P", "-m", "backups.engine", "restore", backup_id, "--repo", str(self.places.repository)]
        command += ["--json", "--progress", "lines", *arguments]
        environment = {**self.places.child_environment(), "PYTHONPATH": str(ROOT)}
        with tempfile.TemporaryFile() as answer:
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.PIPE,
                text=True,
                errors="surrogateescape",
                process_group=0,  # Ctrl-C is for this process to pass on
                preexec_fn=functools.partial(end_with_parent, os.getpid()),  # the only thread there is, so far
            )
            lines = threading.Thread(target=self._tell_lines, args=(child,), daemon=True)
            lines.start()
            self._follow(child)
            lines.join(5.0)
            answer.seek(0)
            try:
                said = json.loads(answer.read())
            except ValueError:
                said = {}
        return _Ended(child.returncode, said if isinstance(said, dict) else {})

    def _tell_lines(self, child: subprocess.Popen[str]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            if not line.startswith(("refbackup: ", "  -> ")):  # its error is in the answer, too
                self.report.say(f"    {line.rstrip()}")

    def _follow(self, child: subprocess.Popen[str]) -> None:
        deadline: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
                return
            if self.asked_to_end and deadline is None:
                self._tell_end()
                deadline = time.monotonic() + END_WITHIN
                child.terminate()
            if deadline is not None and time.monotonic() > deadline:
                child.kill()

    # What the engine cannot keep

    def _move_aside(self, targets: Sequence[Source], reason: str) -> None:
        """Rename the stores of which no safety backup can be made; on the same disk, so that it takes no room."""
        there = [target for target in targets if os.path.lexists(target.path)]
        broken = there
        if reason == "source_broken":
            said = [f.subject for f in diagnose(None, tuple(there), Context()).findings if f.level in ("problem", "warning")]
            named = [t for t in there if any(subject.startswith(str(t.path)) for subject in said) or _odd(t)]
            broken = named or there
        if opened := services.holders(broken):
            who = "; ".join(f"{path} is open in {who}" for path, who in opened.items())
            raise SourceBusy(
                f"It cannot be moved aside: {who}. Nothing was changed.", hint="Stop that process and run this again."
            )
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        for target in broken:
            for suffix in ("", "-wal", "-shm", "-journal") if target.kind is SourceKind.SQLITE else ("",):
                path = target.path.with_name(target.path.name + suffix)
                place = target.path.with_name(f"{target.path.name}.before-{stamp}{suffix}")
                if os.path.lexists(path):
                    path.rename(place)
                    self.aside.append((path, place))
                    self.report.say(f"    moved aside: {path} -> {place.name}")

    def _put_back(self) -> None:
        for path, place in reversed(self.aside):
            if not os.path.lexists(path):
                place.rename(path)
        self.aside.clear()

    def _look(self, targets: Sequence[Source]) -> None:
        """Look at the live stores once more. Raises `DamageFound`."""
        self.report.step("Looking at the live stores")
        problems = []
        for finding in diagnose(None, tuple(targets), Context()).findings:
            if STAGE in finding.subject:
                continue
            elif finding.level == "problem":
                problems.append(f"{finding.subject}: {finding.message}")
            elif any(finding.subject == str(target.path) for target in targets) and finding.level == "ok":
                self.report.say(f"    {finding.subject}: {finding.message}")
        for left in leftovers([target.path for target in targets]):
            kept = f"; what was there before it is kept as {left['safety_backup']}" if left.get("safety_backup") else ""
            self.report.say(f"    an earlier restore was interrupted{kept}")
            self.report.say(f"    when all is well, remove what it left: rm -r {shlex.quote(left['folder'])}")
        if problems:
            raise DamageFound("; ".join(problems), hint="Restore another backup: --list shows them.")


def _odd(target: Source) -> bool:
    """Whether there is something else than a store of its kind would be."""
    return target.path.is_dir() if target.kind is SourceKind.SQLITE else not target.path.is_dir()


def _same(service: Service, others: Sequence[Service]) -> bool:
    """Whether one of *others* is the same service, though perhaps another process."""
    return any(type(service) is type(other) for other in others)
