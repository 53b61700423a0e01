"""Stages the replacements of live stores beside them, and checks them."""

import contextlib
import os
import sqlite3
import stat

from ..check_stores import Findings
from ..errors import DamageFound, RestoreRefused
from ..extract import data_bytes, extract
from ..repository.folder import Repository
from ..runtime import folders
from ..runtime.context import Context
from ..runtime.space import need_space
from ..runtime.sqlite import connect
from ..types import Backup, Depth, SourceKind
from ..verify import record_failure
from .targets import Target, databases_of, logs_of
from .to_folder import check_untouched, plan, wanted_by

_RUNS_AS_OWNER = stat.S_ISUID | stat.S_ISGID
_CHECKSUM_BYTES = b"\x08"


def stage(repository: Repository, backup: Backup, targets: list[Target], ctx: Context) -> int:
    """Write the replacement of each target into its staging folder; returns the bytes. Raises `DamageFound` and `NoSpace`."""
    with repository.reading():
        archives, tree, size = plan(repository, backup, tuple(target.record for target in targets))
        with archives:
            for folder in {target.stage for target in targets}:
                here = [target for target in targets if target.stage == folder]
                wanted = wanted_by(tuple(target.record for target in here))
                needed = data_bytes(archives, tree, wanted)
                # SQLite copies a restored database through the live file's log once more
                needed += sum(target.record.bytes for target in databases_of(here))
                need_space(folder.parent, needed, f"stage {backup.id}")
            with ctx.phase("restore", "stage", size) as phase:
                for target in targets:
                    extract(archives, tree, target.stage, phase, wanted=wanted_by((target.record,)), modes=0o7777)
    return size


def check_staged(repository: Repository, backup: Backup, targets: list[Target], ctx: Context) -> Findings:
    """Check the replacements before anything live is changed; returns the results.

    A damaged one is recorded as a failed proof. Raises `DamageFound`, except for a safety backup: its blocks matched their
    hashes when they were staged, so the store was damaged before it was replaced, and goes back as it was.
    """
    findings = Findings()
    for target in targets:
        one = Findings()
        check_untouched(backup, target.stage, target.record, one, ctx)
        target.damaged = bool(one.problems)
        findings.problems += one.problems
        findings.checks |= one.checks
    if findings.problems and not backup.damaged:
        record_failure(repository, backup, Depth.RESTORE, findings.problems, ctx)
    if findings.problems and not backup.manifest.safety:
        raise DamageFound(
            f"The data staged from {backup.id} is damaged: {findings.problems[0].message.rstrip('.')}. Nothing was changed.",
            hint="The backup is now marked as damaged, and `latest` selects the one before it: run the same command again, or "
            "choose another with `refbackup list`.",
            id=backup.id,
            problems=[problem.model_dump(mode="json") for problem in findings.problems],
        )
    return findings


def fit_to_live(target: Target) -> None:
    """Give the replacement the page size and the owner of the live store."""
    if target.record.kind is SourceKind.SQLITE and not target.as_file:
        _refuse_checksums(target)
        _fit_page_size(target)
    _fit_owner(target)


def _refuse_checksums(target: Target) -> None:
    """Raise `RestoreRefused` for pages with the checksums of SQLite's checksum VFS, which only that VFS can write.

    It keeps them in 8 reserved bytes of each page (https://www.sqlite.org/cksumvfs.html). In one transaction into the live file
    SQLite would write pages without them, and the application would then get "disk I/O error".
    """
    with target.staged.open("rb") as file:
        reserved = file.read(21)[20:]
    if reserved == _CHECKSUM_BYTES and target.is_database():
        raise RestoreRefused(
            f"{target.path} has checksums of SQLite's checksum VFS, which a restore into the live file would make invalid.",
            hint="Stop the application and move the database aside with its -wal and -shm: then it is restored as a file. "
            "Nothing was changed.",
        )


def _fit_page_size(target: Target) -> None:
    """The backup API cannot change the page size of the live database."""
    if not target.path.exists():
        return
    try:
        with contextlib.closing(connect(target.path, timeout=10)) as live:
            wanted = int(live.execute("PRAGMA page_size").fetchone()[0])
    except sqlite3.DatabaseError:
        return  # it is broken and will be set aside
    with contextlib.closing(connect(target.staged, timeout=10)) as staged:
        if int(staged.execute("PRAGMA page_count").fetchone()[0]) < 2:
            # a single page would be copied and committed in one step, so that other stores could not be exchanged in between
            staged.execute("CREATE TABLE refbackup_page (x)")
            staged.execute("DROP TABLE refbackup_page")
        if int(staged.execute("PRAGMA page_size").fetchone()[0]) != wanted:
            mode = str(staged.execute("PRAGMA journal_mode").fetchone()[0])
            staged.execute("PRAGMA journal_mode = DELETE")
            staged.execute(f"PRAGMA page_size = {wanted}")
            staged.execute("PRAGMA writable_schema = RESET")  # VACUUM would drop what SQLite cannot parse
            try:
                staged.execute("VACUUM")
            except sqlite3.DatabaseError as problem:
                raise RestoreRefused(
                    f"{target.path} has another page size than its backup, and SQLite cannot convert it here: {problem}.",
                    hint="Stop the application and move the database aside with its -wal and -shm: then it is restored as a "
                    "file. Nothing was changed.",
                ) from None
            staged.execute(f"PRAGMA journal_mode = {mode}")


def _fit_owner(target: Target) -> None:
    """If root restores, everything gets the owner that it has in the live store; what is new gets that of the store.

    A file runs as its owner or group (setuid, setgid) only if the live one does: the backup does not say whose it was.
    """
    root = os.geteuid() == 0
    store = (target.path if target.path.exists() else target.path.parent).stat()
    for log in logs_of(target.staged) if root and target.as_file else ():
        if log.exists():
            os.chown(log, store.st_uid, store.st_gid)
    with folders.opened(target.stage) as above:
        inside = folders.below(target.staged) if target.staged.is_dir() else ()
        for path, status in [("", target.staged.lstat()), *inside]:
            runs_as_owner = stat.S_ISREG(status.st_mode) and status.st_mode & _RUNS_AS_OWNER
            if not root and not runs_as_owner:
                continue
            live = _live_status(target, path)
            whole = target.staged.relative_to(target.stage) / path
            with folders.opened(whole.parent, above) as folder:
                if root:
                    owner = live or store
                    os.chown(whole.name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)
                if runs_as_owner:
                    mode = live.st_mode if live is not None and stat.S_ISREG(live.st_mode) else 0
                    same = (mode ^ status.st_mode) & _RUNS_AS_OWNER == 0
                    os.chmod(whole.name, stat.S_IMODE(status.st_mode) & (0o7777 if same else ~_RUNS_AS_OWNER), dir_fd=folder)


def _live_status(target: Target, path: str) -> os.stat_result | None:
    try:
        if not path:
            return target.path.lstat()
        parent, _, name = path.rpartition("/")
        with folders.opened(target.path) as root, folders.opened(parent, root) as folder:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
