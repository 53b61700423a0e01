"""All errors. Command line, REST and pages show the same ones.

::

    EngineError                 failed              1
    ├─ UsageError               usage               2   arguments or settings are wrong; lists all problems
    │  └─ TargetOccupied        target_occupied     2   a restore would overwrite something
    ├─ RepositoryMissing        no_repository       3   the path is not a repository
    │  └─ RepositoryTooNew      repository_too_new  3   a newer version wrote it
    ├─ BackupNotFound           no_backup           4   no backup, or several, match the name
    ├─ DamageFound              damaged             5   stored data was changed or lost
    ├─ SourceBusy               source_busy         6   a source stayed locked
    ├─ SourceBroken             source_broken       6   a source is missing, unreadable or inconsistent
    ├─ RepositoryLocked         repository_locked   7   another process writes to or reads from the repository
    ├─ NoSpace                  no_space            8   a disk or quota is full
    ├─ Cancelled                cancelled           9   cancelled by a user or a signal
    ├─ KeyMissing               key_missing        10   backups are encrypted, and no key at hand opens them
    ├─ BackupInUse              in_use              1   the backup is held, or other backups need it
    ├─ PermissionMissing        permission          1   the operating system denied access
    ├─ RestoreRefused           restore_refused     1   a restore stopped before it changed anything
    ├─ ExchangeUnfinished       exchange_unfinished 1   a restore in place was interrupted in the exchange
    ├─ RestoreUndone            restore_undone      1   a check failed after the exchange; the restore was rolled back
    └─ RestoreIncomplete        restore_incomplete  1   a check failed and so did the roll-back; says where the data is

The second column is ``code`` (stable, for programs), the third ``exit_code``. The message of an error says what happened and
what was left unchanged; its hint says what to do next.
"""

import errno
from typing import Any, ClassVar


class EngineError(Exception):
    """Base of all errors. ``details`` are extra JSON values for programs, such as the id of a damaged backup."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "Run `refbackup doctor` for a diagnosis of sources and repository."

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.details = details

    def as_json(self) -> dict[str, Any]:
        """The error as ``{"code", "message", "hint", ...details}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.details}


class UsageError(EngineError):
    code = "usage"
    exit_code = 2
    default_hint = "See `refbackup --help`."


class TargetOccupied(UsageError):
    code = "target_occupied"
    default_hint = "Choose an empty or new folder. Nothing was written."


class RepositoryMissing(EngineError):
    code = "no_repository"
    exit_code = 3
    default_hint = (
        "Mount its disk, or correct --repo or BACKUP_REPOSITORY. A new one is made with `refbackup init --repo PATH`."
    )


class RepositoryTooNew(RepositoryMissing):
    code = "repository_too_new"
    default_hint = "Upgrade refbackup to the version that wrote the repository. Nothing was changed."


class BackupNotFound(EngineError):
    code = "no_backup"
    exit_code = 4
    default_hint = "List the backups with `refbackup list`."


class DamageFound(EngineError):
    code = "damaged"
    exit_code = 5
    default_hint = (
        "Find a sound backup with `refbackup verify --all` and restore it. "
        "If there is none, `refbackup restore ID --to DIR --salvage` restores everything that can be read."
    )


class SourceBusy(EngineError):
    code = "source_busy"
    exit_code = 6
    default_hint = "Try again, or stop the process that holds the lock. No backup was made; earlier ones are untouched."


class SourceBroken(EngineError):
    code = "source_broken"
    exit_code = 6
    default_hint = "Check the source with `refbackup doctor`. Earlier backups are untouched."


class RepositoryLocked(EngineError):
    code = "repository_locked"
    exit_code = 7
    default_hint = "Wait for the other process to end. Nothing was changed."


class NoSpace(EngineError):
    code = "no_space"
    exit_code = 8
    default_hint = (
        "Free space: `refbackup prune --empty-trash` deletes what is in the trash, `refbackup delete` and `refbackup prune` "
        "move backups there; none of them needs free space. The repository is as it was before this run."
    )


class Cancelled(EngineError):
    code = "cancelled"
    exit_code = 9
    default_hint = "Nothing was published. Run the command again when you are ready."


class KeyMissing(EngineError):
    code = "key_missing"
    exit_code = 10
    default_hint = (
        "Name a recipient's key, or the recovery kit, in BACKUP_ENCRYPTION_KEY. Without one, nobody can read these backups. "
        "Nothing was changed."
    )


class BackupInUse(EngineError):
    code = "in_use"
    default_hint = "Nothing was deleted."


class PermissionMissing(EngineError):
    code = "permission"
    default_hint = "Run as a user with access to the sources and the repository."


class RestoreRefused(EngineError):
    code = "restore_refused"
    default_hint = "Nothing was changed."


class ExchangeUnfinished(EngineError):
    code = "exchange_unfinished"
    default_hint = (
        "Complete that restore with `refbackup restore --finish`, or bring the old data back with `refbackup restore --undo`."
    )


class RestoreUndone(EngineError):
    code = "restore_undone"
    default_hint = "The application has its old data. Choose another backup, or fix the check that failed."


class RestoreIncomplete(EngineError):
    code = "restore_incomplete"
    default_hint = "Complete the restore with `refbackup restore --finish`, or undo it with `refbackup restore --undo`."


def tree(root: type[EngineError] = EngineError) -> list[type[EngineError]]:
    """*root* and its subclasses in this module, in the order of the tree. Subclasses elsewhere keep the code of their base."""
    children = [child for child in root.__subclasses__() if child.__module__ == __name__]
    return [root, *(leaf for child in children for leaf in tree(child))]


def from_json(error: dict[str, Any]) -> EngineError:
    """The error that a child process sent as `as_json`; an `EngineError` if its code is unknown."""
    classes = {kind.code: kind for kind in tree()}
    rest = {key: value for key, value in error.items() if key not in ("code", "message", "hint")}
    return classes.get(error["code"], EngineError)(error["message"], hint=error["hint"], **rest)


HTTP_STATUS: dict[str, int] = {
    "usage": 400,
    "no_backup": 404,
    "target_occupied": 409,
    "in_use": 409,
    "repository_locked": 409,
    "source_busy": 409,
    "restore_refused": 409,
    "exchange_unfinished": 409,
    "cancelled": 409,
    "no_repository": 503,
    "key_missing": 503,
    "source_broken": 503,
    "no_space": 507,
}
"""HTTP status of an `EngineError` by its code. All others are 500: the fault is the server's."""

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, or of a quota or limit that is reached."""


def from_os_error(problem: OSError, doing: str) -> EngineError:
    """The `EngineError` for an ``OSError`` that occurred while *doing* something."""
    message = f"{doing}: {problem.strerror or problem}" + (f" ({problem.filename})" if problem.filename else "")
    if problem.errno in NO_SPACE:
        return NoSpace(message)
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionMissing(message)
    return EngineError(message)
