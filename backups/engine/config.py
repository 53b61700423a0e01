"""Settings from the environment and ``.env``. All problems are reported at once, by name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values, find_dotenv

from .errors import UsageError
from .names import NAME
from .types import LONGEST_NOTE, Depth, Source, SourceKind

SOURCE_SETTINGS = {
    SourceKind.SQLITE: "REFSERVER_DATABASE",
    SourceKind.CHROMA: "CHROMA_PATH",
    SourceKind.FILES: "REFSERVER_FILES",
}


ENGINE_SETTINGS = frozenset(
    {
        "BACKUP_REPOSITORY",
        "BACKUP_VERIFY_FULL",
        "BACKUP_VERIFY_INCREMENTAL",
        "BACKUP_TRASH_HOURS",
        "BACKUP_STOP_COMMAND",
        "BACKUP_START_COMMAND",
        "BACKUP_CHECK_COMMAND",
        "BACKUP_DRILL_COMMAND",
        "BACKUP_EXAMINE_COMMAND",
        *SOURCE_SETTINGS.values(),
    }
)
"""The names that `read_settings` reads."""

_MOST_HOURS = 100_000
_PATHS = ("BACKUP_REPOSITORY", *SOURCE_SETTINGS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings; arguments of a command override them. ``verify_*`` is how new backups of a kind are verified."""

    repository: Path | None
    sources: tuple[Source, ...]
    verify_full: Depth | None
    verify_incremental: Depth | None
    trash_hours: float
    stop_command: str
    start_command: str
    check_command: str
    drill_command: str
    examine_command: str


def environment() -> dict[str, str]:
    """The environment, and for missing names the nearest ``.env`` at or above the working folder.

    Relative paths in ``.env`` start at its folder.
    """
    place = find_dotenv(usecwd=True)
    values = {key: value for key, value in dotenv_values(place).items() if value} if place else {}
    for name in _PATHS:
        if name in values:
            paths = values[name].split(os.pathsep)
            values[name] = os.pathsep.join(_beside(path, Path(place).parent) for path in paths if path)
    return {**values, **os.environ}


def _beside(given: str, folder: Path) -> str:
    """``[NAME=]PATH`` with a relative path resolved against *folder*."""
    name, separator, path = given.partition("=")
    if not separator or "/" in name:
        return str(folder / given)
    return f"{name}={folder / path}"


def read_settings(values: Mapping[str, str]) -> Settings:
    """The settings in *values*. Raises one `UsageError` that names all wrong ones."""
    problems: list[str] = []
    sources = []
    for kind, name in SOURCE_SETTINGS.items():
        for given in filter(None, values.get(name, "").split(os.pathsep)):
            try:
                sources.append(parse_source(kind, given))
            except UsageError as problem:
                problems.append(f"{name}: {problem.message}")
    full = _depth(values, "BACKUP_VERIFY_FULL", "restore", problems)
    incremental = _depth(values, "BACKUP_VERIFY_INCREMENTAL", "hashes", problems)
    hours = _hours(values, "BACKUP_TRASH_HOURS", 24.0, problems)
    if problems:
        raise UsageError("Wrong settings: " + "; ".join(problems) + ".", hint="Correct them in .env.")
    repository = values.get("BACKUP_REPOSITORY")
    return Settings(
        repository=Path(repository) if repository else None,
        sources=tuple(sources),
        verify_full=full,
        verify_incremental=incremental,
        trash_hours=hours,
        stop_command=values.get("BACKUP_STOP_COMMAND", ""),
        start_command=values.get("BACKUP_START_COMMAND", ""),
        check_command=values.get("BACKUP_CHECK_COMMAND", ""),
        drill_command=values.get("BACKUP_DRILL_COMMAND", ""),
        examine_command=values.get("BACKUP_EXAMINE_COMMAND", ""),
    )


def _hours(values: Mapping[str, str], name: str, default: float, problems: list[str]) -> float:
    try:
        hours = float(values.get(name, default))
    except ValueError:
        hours = math.nan
    if not 0 <= hours <= _MOST_HOURS:
        problems.append(f"{name}: must be a number of hours from 0 to {_MOST_HOURS:,}, such as {default:g}")
        return default
    return hours


def _depth(values: Mapping[str, str], name: str, default: str, problems: list[str]) -> Depth | None:
    given = values.get(name, default)
    if given == "none":
        return None
    try:
        return Depth(given)
    except ValueError:
        problems.append(f"{name}: must be none, hashes or restore, not {given!r}")
        return None


def parse_source(kind: SourceKind, given: str) -> Source:
    """The source that ``[NAME=]PATH`` describes; the default name is that of the file. Raises `UsageError`."""
    name, separator, path = given.partition("=")
    if not separator or "/" in name:
        name, path = "", given
    if not path:
        raise UsageError(f"{given!r} has no path.")
    place = Path(path)
    if not name:
        absolute = place.absolute()
        name = absolute.stem if kind is SourceKind.SQLITE else absolute.name
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name of a source: use letters, digits, dots, dashes and underscores, at most 64.",
            hint="Give it a name: NAME=PATH.",
        )
    return Source(kind=kind, name=name, path=place)


def check_note(note: str) -> str:
    """*note*. Raises `UsageError` if a manifest cannot store it."""
    if len(note) > LONGEST_NOTE or any("\ud800" <= letter <= "\udfff" for letter in note):
        raise UsageError(f"A note must be text of at most {LONGEST_NOTE} characters.")
    return note


def check_set_name(name: str) -> str:
    """*name*. Raises `UsageError` if it is not a valid name of a set."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name of a set: use letters, digits, dots, dashes and underscores, at most 64."
        )
    return name
