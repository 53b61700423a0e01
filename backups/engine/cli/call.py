"""What every command gets and returns."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Settings, check_path, check_set_name, parse_source
from ..encryption.keyring import Keyring, keyring_for
from ..errors import UsageError
from ..evidence.keys import Keys, keys_for, lost_key
from ..repository.folder import Repository, open_repository
from ..runtime.context import Context
from ..types import Backup, Problem, Source, SourceKind
from .reporting import Reporting


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a command as JSON and as text, and its exit code."""

    json: dict[str, Any]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A command's arguments, the settings, and the context to run in; ``skipped`` collects what `find` passed over."""

    arguments: argparse.Namespace
    settings: Settings
    ctx: Context
    reporting: Reporting
    skipped: list[tuple[str, Problem]] = field(default_factory=list)

    def repository_path(self) -> Path:
        """``--repo``, else ``BACKUP_REPOSITORY``. Raises `UsageError` if neither is given."""
        path = self.arguments.repo or self.settings.repository
        if path is None:
            raise UsageError("No repository given.", hint="Give --repo PATH or set BACKUP_REPOSITORY.")
        return check_path(str(path))

    def repository(self) -> Repository:
        """The open repository, with the keys of the settings."""
        return self.open_repository(self.repository_path())

    def open_repository(self, path: Path) -> Repository:
        """The repository in *path*, with the keys of the settings."""
        if lost := lost_key(path, self.settings.signing_key):
            self.warn(f"{lost}.")
        return open_repository(path, self.keys(path), self.keyring(path))

    def keys(self, repository: Path, *, make: bool = False) -> Keys | None:
        """The keys of the settings, for a repository; with *make*, a missing signing key is created."""
        return keys_for(repository, self.settings.signing_key, self.settings.trusted_keys, make=make)

    def keyring(self, repository: Path) -> Keyring | None:
        """The encryption key of the settings, and what is remembered beside it for a repository."""
        return keyring_for(repository, self.settings.encryption_key)

    def backup(self, repository: Repository) -> Backup:
        """The backup that the ID argument selects. If it is incomplete and its id was not given, a line says so."""
        backup = self.find(repository, self.arguments.id, self.set_name())
        if backup.manifest.incomplete and backup.id != self.arguments.id:
            # not kept in the context: that is the log of the safety backup
            self.ctx.on_log(f"{backup.id} is incomplete: `refbackup show {backup.id}` lists what is missing from it.")
        return backup

    def find(self, repository: Repository, wanted: str, set_name: str | None) -> Backup:
        """As `Repository.find`. Each damaged backup that was passed over is reported, and kept for the answer."""
        return self.report_skipped(repository.find(wanted, set_name))

    def report_skipped(self, backup: Backup) -> Backup:
        """What `find` does with the *backup* that it found."""
        for skipped, problem in backup.skipped:
            self.warn(f"{skipped} is newer than {backup.id}, but damaged, and is skipped: {problem.message}")
        self.skipped.extend(backup.skipped)
        return backup

    def warn(self, text: str) -> None:
        """Write a line to standard error, whatever ``--progress`` says, and to the log file."""
        self.reporting.warn(text)

    def set_name(self) -> str | None:
        """``--set``, if given."""
        return check_set_name(self.arguments.set) if self.arguments.set else None

    def set_or_all(self) -> str | None:
        """``--set`` or ``default``; None for ``--all-sets``. Raises `UsageError` for both."""
        if self.arguments.set and self.arguments.all_sets:
            raise UsageError("Give --set or --all-sets, not both.")
        return None if self.arguments.all_sets else check_set_name(self.arguments.set or "default")

    def sources(self) -> tuple[Source, ...]:
        """The sources on the command line, or those of the settings if there are none."""
        named = ((kind, getattr(self.arguments, str(kind), None) or ()) for kind in SourceKind)
        given = tuple(parse_source(kind, value) for kind, values in named for value in values)
        return given or self.settings.sources
