"""How the command lines of jobs begin: the engine on a repository, or a management command of the project."""

from __future__ import annotations

import sys
from pathlib import Path

from django.conf import settings
from django.utils.module_loading import import_string

from backups.conf import configuration
from backups.engine.errors import UsageError

from .arguments import Arguments


def engine(verb: str, arguments: Arguments, *more: str) -> list[str]:
    """``refbackup VERB`` on the repository in *arguments*. Raises `UsageError` for an unknown repository."""
    config = configuration()
    repository = config.repositories.get(arguments.repository or config.default_repository)
    if repository is None:
        raise UsageError(
            f"There is no repository {arguments.repository!r}.", hint=f"Known repositories: {', '.join(config.repositories)}."
        )
    return [
        *(sys.executable, "-m", "backups.engine", verb, "--repo", str(repository)),
        *("--json", "--progress", "json"),
        *more,
    ]


def management(command: str, *more: str) -> list[str]:
    """``manage.py COMMAND`` of the project."""
    return [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), command, *more]


def examination(set_name: str) -> list[str]:
    """The engine's ``--examine`` option with the command that ``BACKUPS["EXAMINE"]`` gives for a set; empty without one."""
    path = configuration().examine
    command: str = import_string(path)(set_name) if path else ""
    return ["--examine", command] if command else []
